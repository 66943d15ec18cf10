"""Messages that the store evicts while upload has read them must not hide those that came in their place."""

from __future__ import annotations

from typing import Any

from runtime.adapters.process.status_file import read_status
from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, put, uploading, within_a_day


def figures(home: Home) -> dict[str, Any]:
    return read_status(home.layout.status_file("upload")) or {}


def test_messages_that_took_the_place_of_dropped_ones_are_delivered(home: Home, cloud: Cloud) -> None:
    """The hub is away, the stream is full and drops its oldest: the new ones still go when it is back."""
    uploading(home, cloud)
    home.workers["ingest"].kill()
    home.write_config(
        (home.folder / "edge.toml").read_text() + "\n[stream.s]\nmax_messages = 10\npolicy = 'drop-oldest'\n"
    )
    home.start_worker("ingest")
    cloud.hub(up=False)
    old = [b"old-%d" % n for n in range(10)]
    put(home, {"stream": "s"}, *old)
    eventually(lambda: figures(home).get("in_hand") == 10)
    new = [b"new-%d" % n for n in range(10)]
    put(home, {"stream": "s"}, *new)
    cloud.hub(up=True)
    eventually(lambda: backlog(home) == 0, 20, "what is in the store now is delivered")
    assert [m.payload for m in cloud.messages() if m.payload in new] == new


def test_files_that_cannot_be_uploaded_do_not_stop_the_telemetry_of_other_streams(
    home: Home, cloud: Cloud
) -> None:
    """The hub is there, the blobs are not: two large messages, and everybody else waits for ever."""
    uploading(home, cloud)
    cloud.faults(http={"PUT /uploads": {"status": 503}, "POST /devices": {"status": 503}})
    put(home, {"stream": "files-1"}, b"x" * 2_200_000)
    put(home, {"stream": "files-2"}, b"x" * 2_200_000)
    put(home, {"stream": "telemetry"}, b"urgent")
    eventually(lambda: any(m.payload == b"urgent" for m in cloud.messages()))
    lanes = eventually(lambda: {lane["lane"]: lane for lane in figures(home)["failing"]}, what="it is said")
    assert "503" in lanes["files"]["words"] and lanes["file"]["stream"] in ("-/files-1", "-/files-2")
    eventually(lambda: figures(home)["oldest_waited_s"] > 1, what="since when the oldest could have gone")
    assert figures(home)["oldest_stream"] == "-/files-1"


def test_an_urgent_message_is_seen_behind_all_that_must_wait(home: Home, cloud: Cloud) -> None:
    """The day's budget is used up, and 20 streams have as much in hand as fits."""
    within_a_day()
    uploading(home, cloud, link="messages_per_day = 10\nurgent_priority = 8")
    put(home, {"stream": "first"}, *[b"x"] * 10)
    eventually(lambda: cloud.message_count() == 10)
    for n in range(20):
        put(home, {"stream": f"s{n}"}, *[b"x"] * 300)
    put(home, {"stream": "alarm", "priority": 8}, b"fire")
    eventually(lambda: any(m.payload == b"fire" for m in cloud.messages()))
    put(home, {"stream": "alarm", "priority": 8}, *[b"more-%d" % n for n in range(50)])
    eventually(lambda: cloud.message_count() == 61)
