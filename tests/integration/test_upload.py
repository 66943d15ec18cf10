"""upload and ingest at work, against the stand-in: what is acknowledged arrives in order."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

import brotli
import pytest
import requests

from runtime.adapters.bus.sockets import IDENTITY_CHANGED, Hints
from runtime.adapters.process import checksummed_line
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.status_file import read_status
from runtime.operations.overview import observe
from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import (
    backlog,
    check_arrivals,
    put,
    put_in_force,
    quarantined,
    register,
    uploading,
    within_a_day,
)


def test_messages_of_several_streams_arrive_in_order_and_leave_the_store(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    payloads = [f"{n}".encode() for n in range(1000)]
    for start in range(0, 1000, 100):
        put(home, {"stream": f"s{start // 100 % 3}"}, *payloads[start : start + 100])
    eventually(lambda: cloud.message_count() == 1000)
    check_arrivals(cloud, payloads)
    eventually(lambda: backlog(home) == 0)
    eventually(lambda: times(home, "delivery") == 1_000 and times(home, "ack") == 10)
    assert times(home, "commit") >= 10
    books = observe(home.layout, SystemClock(), settings=home.config.settings)["ledger"]
    assert (books["stored"], books["delivered"], books["difference"]) == (1_000, 1_000, 0)


def times(home: Home, name: str) -> int:
    """How many observations the histogram of this name has."""
    record = observe(home.layout, SystemClock(), settings=home.config.settings)["latency"][name]
    return 0 if record is None else sum(record["counts"])


def blobs(cloud: Cloud) -> dict[str, bytes]:
    """Uploaded files by name."""
    names = [blob["name"] for blob in cloud.call("GET", "/admin/blobs")["blobs"]]
    return {name: _content(cloud, name) for name in names}


def _content(cloud: Cloud, name: str) -> bytes:
    answer = requests.get(
        f"{cloud.facts['admin_url']}/admin/blobs/{name}",
        headers={"Authorization": f"Bearer {cloud.facts['operator_token']}"},
        verify=cloud.facts["ca_file"],
        timeout=10,
    )
    assert answer.ok
    return answer.content


def uploads(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.call("GET", "/admin/blobs")["uploads"]
    return found


def test_a_payload_that_does_not_fit_goes_as_a_file_and_its_stream_waits_for_it(
    home: Home, cloud: Cloud
) -> None:
    uploading(home, cloud, toml="block_bytes = 65536")
    large = os.urandom(700_000)
    cloud.faults(http={"PUT /uploads": {"status": 503}})
    put(home, {"stream": "files"}, b"before", large, b"after")
    put(home, {"stream": "telemetry"}, *[b"%d" % n for n in range(50)])
    eventually(lambda: cloud.message_count() == 51, what="telemetry of the other stream overtakes it")
    cloud.no_faults()
    eventually(lambda: backlog(home) == 0)
    arrived = cloud.messages()
    files = [m for m in arrived if m.properties["stream-name"] == "files"]
    assert [m.payload for m in files[::2]] == [b"before", b"after"]
    assert files[1].properties["has-externalized-payload"] == "true"
    name = json.loads(files[1].payload)["link"]
    assert blobs(cloud) == {name: large}
    assert [u["state"] for u in uploads(cloud)] == ["succeeded"]
    assert list((home.layout.state / "uploads").iterdir()) == []


def test_a_file_upload_goes_on_after_a_kill_with_the_block_it_had_reached(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud, toml="block_bytes = 65536")
    cloud.faults(http={"PUT /uploads/": {"times": 5}, "PUT /uploads": {"delay_s": 600.0}})  # the sixth waits
    large = os.urandom(1_000_000)
    (number,) = put(home, {"stream": "files"}, large)
    journal = home.layout.state / "uploads" / f"{number}.json"
    eventually(lambda: journal.exists() and checksummed_line.read(journal)["blocks"] == 5)
    assert journal.stat().st_mode & 0o077 == 0, "it holds a SAS"
    home.workers["upload"].kill()
    reached = checksummed_line.read(journal)["blocks"]
    cloud.no_faults()
    cloud.faults(http={"POST /devices": {"status": 503, "times": 0}})
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    assert list(blobs(cloud).values()) == [large]
    assert len(uploads(cloud)) == 1, f"it began anew, though {reached} blocks were there"


def test_a_failed_file_upload_is_told_to_the_hub_and_tried_again(home: Home, cloud: Cloud) -> None:
    cloud.faults(http={"PUT /uploads": {"status": 403, "times": 1}})
    uploading(home, cloud)
    large = os.urandom(300_000)
    put(home, {"stream": "files"}, large)
    eventually(lambda: backlog(home) == 0)
    assert sorted(u["state"] for u in uploads(cloud)) == ["failed", "succeeded"]
    assert list(blobs(cloud).values()) == [large]


def test_chunks_arrive_in_order_with_a_completion_behind_them(home: Home, cloud: Cloud) -> None:
    home_toml = '[stream.big]\nchunk_bytes = 10000\ncompression = "smallest"\n'
    credentials = register(cloud)
    home.write_config(cloud.config_toml() + home_toml)
    put_in_force(home.layout, credentials)
    home.start_worker("ingest")
    home.start_worker("upload")
    eventually(lambda: home.layout.messages_db.exists())
    payload = b"".join(b"%d," % n for n in range(10_000))
    put(home, {"stream": "big", "message_id": "m1"}, payload)
    put(home, {"stream": "big"}, b"small, and not worth compressing")
    eventually(lambda: backlog(home) == 0)
    *chunks, done, small = cloud.messages()
    assert [c.properties["chunk-id"] for c in chunks] == [str(n) for n in range(len(chunks))]
    assert {c.properties["message-id"] for c in (*chunks, done)} == {"m1"}
    assert all(c.properties["content-encoding"] == "br" for c in chunks)
    assert b"".join(brotli.decompress(c.payload) for c in chunks) == payload
    assert done.payload == b""
    assert (done.properties["complete-message"], done.properties["ignore-payload"]) == ("true", "true")
    assert "content-encoding" not in small.properties


def test_completions_and_batches_carry_what_the_platform_asks_for(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    put(home, {"stream": "s", "stream_group": "g", "batch_id": "b1", "properties": {"unit": "°C"}}, b"21.5")
    put(home, {"operation": "complete_batch", "stream": "s", "stream_group": "g", "batch_id": "b1"})
    eventually(lambda: backlog(home) == 0)
    message, done = cloud.messages()
    named = {"stream-group-name": "g", "stream-name": "s", "batch-id": "b1"}
    assert message.properties == {**named, "unit": "°C"}
    assert done.properties == {**named, "complete-batch": "true", "ignore-payload": "true"}


def tell_until_heard(home: Home, device_id: str) -> None:
    """As `refresh` does: there is another identity."""
    refresh = Hints(home.layout, "refresh")

    def heard() -> bool:
        refresh.publish(IDENTITY_CHANGED)
        status = read_status(home.layout.status_file("upload"))
        return status is not None and status["device"] == device_id

    eventually(heard)


def test_new_credentials_take_over_with_nothing_lost(home: Home, cloud: Cloud) -> None:
    """The device is given another name while messages flow: they go out under the one in force."""
    cloud.faults(ack_delay_ms=20)
    first = uploading(home, cloud)
    payloads = [b"%d" % n for n in range(2000)]
    put(home, {"stream": "s"}, *payloads[:1000])
    eventually(lambda: cloud.message_count() > 100)
    second = register(cloud)
    put_in_force(home.layout, second)
    put(home, {"stream": "s"}, *payloads[1000:])
    tell_until_heard(home, second.device_id)
    eventually(lambda: backlog(home) == 0, 40)
    check_arrivals(cloud, payloads)
    put(home, {"stream": "s"}, b"last")
    eventually(lambda: cloud.messages()[-1].payload == b"last")
    assert cloud.messages()[0].device_id == first.device_id
    assert cloud.messages()[-1].device_id == second.device_id


def test_a_device_that_got_another_id_uploads_a_file_again_before_it_links_to_it(
    home: Home, cloud: Cloud
) -> None:
    """The file is in the cloud under one id, and its link must not go out under another."""
    cloud.faults(ack_limit=0)
    first = uploading(home, cloud)
    large = os.urandom(300_000)
    put(home, {"stream": "files"}, b"before")
    eventually(lambda: cloud.message_count() == 1)
    put(home, {"stream": "others"}, large)
    eventually(lambda: cloud.message_count() == 2, what="the link is sent and not acknowledged")
    second = register(cloud)
    put_in_force(home.layout, second)
    tell_until_heard(home, second.device_id)
    eventually(lambda: cloud.messages()[-1].device_id == second.device_id, what="the first is gone")
    cloud.no_faults()
    eventually(lambda: backlog(home) == 0)
    links = [m for m in cloud.messages() if "has-externalized-payload" in m.properties]
    assert [m.device_id for m in links] == [first.device_id, second.device_id]
    for message in links:
        name = json.loads(message.payload)["link"]
        assert name.startswith(message.device_id) and blobs(cloud)[name] == large


def test_what_one_device_has_delivered_does_not_arrive_once_more_as_anothers(
    home: Home, cloud: Cloud
) -> None:
    """The control of a poisonous message was the last one delivered, under whatever id that was."""
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"of the first")
    eventually(lambda: backlog(home) == 0)
    second = register(cloud)
    put_in_force(home.layout, second)
    tell_until_heard(home, second.device_id)
    cloud.faults(poison="POISON")
    put(home, {"stream": "s"}, b"POISON")
    eventually(lambda: quarantined(home))
    as_second = [m.payload for m in cloud.messages() if m.device_id == second.device_id]
    assert set(as_second) == {b""}, "only probes, which say nothing"


def test_an_urgent_message_at_the_end_of_a_deep_backlog_does_not_wait_for_all_of_it(
    home: Home, cloud: Cloud
) -> None:
    home.write_config(cloud.config_toml(upload="window = 4"))
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists())
    for _ in range(10):
        put(home, {"stream": "bulk", "priority": 1}, *[b"x"] * 1000)
    put(home, {"stream": "alarm", "priority": 9}, b"fire")
    cloud.faults(ack_delay_ms=20)
    home.start_worker("upload")
    eventually(lambda: any(m.payload == b"fire" for m in cloud.messages()))
    place = [m.payload for m in cloud.messages()].index(b"fire")
    assert place < 600, "it waited for the backlog"


def test_expired_messages_are_dropped_and_counted(home: Home, cloud: Cloud) -> None:
    home.write_config(cloud.config_toml())
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists())
    put(home, {"stream": "s", "ttl_s": 0.2}, b"old")
    put(home, {"stream": "s", "ttl_s": 1000}, b"lasting")
    began_s = time.monotonic()
    eventually(lambda: time.monotonic() - began_s > 0.3)
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    assert [m.payload for m in cloud.messages()] == [b"lasting"]
    status = eventually(lambda: (s := read_status(home.layout.status_file("upload"))) and s["dropped"] and s)
    assert status["dropped"] == 1


def test_the_kill_switch_stops_everything_and_the_urgent_pass_a_budget(home: Home, cloud: Cloud) -> None:
    within_a_day()
    limits = "messages_per_day = 10\nurgent_priority = 8"
    uploading(home, cloud, link=limits)
    put(home, {"stream": "s"}, *[b"%d" % n for n in range(30)])
    eventually(lambda: cloud.message_count() == 10)
    put(home, {"stream": "alarm", "priority": 8}, b"fire")
    eventually(lambda: cloud.message_count() == 11)
    assert home.edgectl("link", "off").returncode == 0
    eventually(
        lambda: (s := read_status(home.layout.status_file("upload"))) and s["barred"] == "switched off"
    )
    put(home, {"stream": "alarm", "priority": 9}, b"flood")
    assert home.edgectl("link", "on").returncode == 0
    eventually(lambda: cloud.message_count() == 12)
    eventually(lambda: backlog(home) == 20)
    assert home.workers["upload"].terminate() == 0
    assert "12 messages" in home.edgectl("link").stdout
    home.start_worker("upload")
    put(home, {"stream": "alarm", "priority": 9}, b"storm")
    eventually(lambda: cloud.message_count() == 13)
    status = eventually(lambda: (s := read_status(home.layout.status_file("upload"))) and s["barred"] and s)
    assert status["barred"] == "the day's budget of messages is used up", "a restart gave it anew"
    eventually(lambda: backlog(home) == 20)
    eventually(lambda: "13 messages" in home.edgectl("link").stdout, what="booked within seconds")


def elsewhere_in_the_day() -> str:
    """An hour of today's clock that is far from now."""
    hour = (datetime.now(UTC).hour + 12) % 24
    return f"{hour:02}:00-{hour:02}:30"


@pytest.mark.parametrize(
    ("limits", "pass_at_least", "pass_at_most", "says"),
    [
        ("bytes_per_day = 10000", 5, 10, "the day's budget of bytes is used up"),
        ("messages_per_month = 7", 7, 7, "the month's budget of messages is used up"),
        ("bytes_per_month = 10000", 5, 10, "the month's budget of bytes is used up"),
        (f'hours = ["{elsewhere_in_the_day()}"]', 0, 0, "outside the allowed hours"),
    ],
)
def test_what_was_agreed_about_the_link_is_kept_said_and_passed_by_the_urgent(
    home: Home, cloud: Cloud, limits: str, pass_at_least: int, pass_at_most: int, says: str
) -> None:
    within_a_day()
    uploading(home, cloud, link=f"{limits}\nurgent_priority = 8")
    put(home, {"stream": "s"}, *[b"%d" % n + b"." * 1_000 for n in range(20)])
    eventually(lambda: (s := read_status(home.layout.status_file("upload"))) and s["barred"] == says)
    put(home, {"stream": "alarm", "priority": 8}, b"fire")
    eventually(lambda: cloud.message_count() and cloud.messages()[-1].payload == b"fire")
    passed = cloud.message_count() - 1
    assert pass_at_least <= passed <= pass_at_most
    eventually(lambda: backlog(home) == 20 - passed, what="the others wait, and none is lost")


@pytest.mark.parametrize("rate", ["messages_per_s = 20", "bytes_per_s = 20000"])
def test_a_rate_is_kept_and_everything_arrives(home: Home, cloud: Cloud, rate: str) -> None:
    """A second's worth goes at once; the other 40 messages of 1,000 bytes need two seconds or more."""
    uploading(home, cloud, link=rate)
    put(home, {"stream": "s"}, b"first")
    eventually(lambda: backlog(home) == 0)
    began_s = time.monotonic()
    payloads = [b"%d" % n + b"." * 1_000 for n in range(60)]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0)
    assert time.monotonic() - began_s > 1.9
    check_arrivals(cloud, [b"first", *payloads])


def test_a_file_on_a_slow_link_leaves_half_of_it_to_the_messages_of_others(home: Home, cloud: Cloud) -> None:
    """They waited until it was through: the file alone used the whole rate."""
    uploading(home, cloud, toml="block_bytes = 65536", link="bytes_per_s = 100000")
    (number,) = put(home, {"stream": "files"}, os.urandom(4_000_000))
    journal = home.layout.state / "uploads" / f"{number}.json"
    eventually(lambda: journal.exists() and checksummed_line.read(journal)["blocks"] >= 2)
    put(home, {"stream": "telemetry"}, *[b"%d" % n + b"." * 1_000 for n in range(250)])
    eventually(lambda: cloud.message_count() == 250)
    assert [u["state"] for u in uploads(cloud)] == ["open"], "only now"


def test_a_quota_that_is_used_up_parks_everything_and_the_status_says_so(home: Home, cloud: Cloud) -> None:
    within_a_day()
    told = {"status": 403, "body": '{"Message":"ErrorCode:IotHubQuotaExceeded;403002"}', "times": 1}
    cloud.faults(http={"POST /devices": told})
    uploading(home, cloud)
    put(home, {"stream": "files"}, b"x" * 300_000)
    status = eventually(lambda: (s := read_status(home.layout.status_file("upload"))) and s["barred"] and s)
    assert status["barred"] == "the hub's daily quota is used up until 00:00 UTC"
    assert backlog(home) == 1


def test_an_upload_whose_message_has_left_is_ended_at_the_next_start(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"so that the store stands")
    eventually(lambda: backlog(home) == 0)
    home.workers["upload"].kill()
    journal = home.layout.state / "uploads" / "1.json"
    cloud.faults(http={"PUT /uploads": {"status": 503}})
    (number,) = put(home, {"stream": "files"}, b"x" * 300_000)
    home.start_worker("upload")
    eventually(lambda: (home.layout.state / "uploads" / f"{number}.json").exists() or uploads(cloud))
    eventually(lambda: [u["state"] for u in uploads(cloud)])
    home.workers["upload"].kill()
    open_journal = home.layout.state / "uploads" / f"{number}.json"
    if open_journal.exists():
        open_journal.rename(journal)  # as if it belonged to a message that is no longer stored
    cloud.no_faults()
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    eventually(lambda: not any(u["state"] == "open" for u in uploads(cloud)))
    assert list((home.layout.state / "uploads").iterdir()) == []
