"""upload is asked to stop, or to send nothing: what is on its way arrives, is reported, and that was all."""

from __future__ import annotations

import signal

from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, put, uploading


def test_an_orderly_stop_sends_nothing_twice(home: Home, cloud: Cloud) -> None:
    """What was in flight, or not yet confirmed by ingest, came to the cloud a second time: 512 in 5 stops."""
    cloud.faults(ack_delay_ms=30)
    uploading(home, cloud, toml="window = 64")
    for n in range(10):
        put(home, {"stream": f"s{n}"}, *[b"x"] * 150)
    for reached in (150, 700):
        eventually(lambda n=reached: cloud.message_count() > n)
        assert home.workers["upload"].terminate() == 0
        home.start_worker("upload")
    eventually(lambda: backlog(home) == 0, 60)
    assert cloud.message_count() == len(cloud.messages()) == 1_500


def test_a_stop_does_not_wait_for_a_hub_or_an_ingest_that_does_not_answer(home: Home, cloud: Cloud) -> None:
    cloud.faults(ack_delay_ms=600_000)
    uploading(home, cloud)
    put(home, {"stream": "s"}, *[b"x"] * 100)
    eventually(lambda: cloud.message_count() > 0)
    home.workers["ingest"].signal(signal.SIGSTOP)
    assert home.workers["upload"].terminate(7) == 0, "supervisord kills it after 8 s"


def test_nothing_is_sent_once_the_link_was_switched_off(home: Home, cloud: Cloud) -> None:
    """`edgectl link off` returned at once, and 36 messages left in the two seconds that followed."""
    cloud.faults(ack_delay_ms=30)
    uploading(home, cloud, toml="window = 16")
    put(home, {"stream": "s"}, *[b"x"] * 1_000)
    eventually(lambda: cloud.message_count() > 50)
    off = home.edgectl("link", "off")
    sent = cloud.message_count()
    assert (off.returncode, off.stderr) == (0, "") and sent < 1_000
    again = home.edgectl("link", "off")  # this takes a second, too
    assert again.returncode == 0 and cloud.message_count() == sent
    assert home.edgectl("link", "on").returncode == 0
    eventually(lambda: backlog(home) == 0, 60)
    assert len(cloud.messages()) == 1_000
