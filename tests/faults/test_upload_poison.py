"""Poison against outage, with the real client against the stand-in: who is to blame when connections drop."""

from __future__ import annotations

import pytest

from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, check_arrivals, endings, put, quarantined, uploading

POISON = b"poison"


@pytest.mark.parametrize(
    "places", [[0], [150], list(range(100, 110))], ids=["head", "middle", "ten in a row"]
)
def test_poison_goes_to_quarantine_with_its_reason_and_blocks_nobody(
    home: Home, cloud: Cloud, places: list[int]
) -> None:
    cloud.faults(poison=POISON.decode())
    uploading(home, cloud)
    payloads = [b"%s-%d" % (POISON if n in places else b"good", n) for n in range(300)]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0, 60)
    good = [p for p in payloads if not p.startswith(POISON)]
    check_arrivals(cloud, good)
    aside = quarantined(home)
    assert sorted(aside) == sorted(p for p in payloads if p.startswith(POISON))
    assert all("dropped the connection" in reason for reason in aside.values())


def test_while_one_stream_waits_for_its_trial_the_others_flow(home: Home, cloud: Cloud) -> None:
    cloud.faults(poison=POISON.decode())
    uploading(home, cloud)
    put(home, {"stream": "bad"}, POISON, b"after it")
    payloads = [b"good-%d" % n for n in range(500)]
    for n in range(0, 500, 100):
        put(home, {"stream": "good"}, *payloads[n : n + 100])
    eventually(lambda: backlog(home) == 0, 60)
    check_arrivals(cloud, [*payloads, b"after it"])
    assert list(quarantined(home)) == [POISON]


def test_a_batch_that_is_completed_is_not_completed_again_to_test_the_hub(home: Home, cloud: Cloud) -> None:
    """The last message that was delivered goes once more as a control: it came within the next batch."""
    cloud.faults(poison=POISON.decode())
    uploading(home, cloud)
    put(home, {"stream": "s", "batch_id": "A"}, b"a")
    put(home, {"operation": "complete_batch", "stream": "s", "batch_id": "A"})
    eventually(lambda: backlog(home) == 0)
    put(home, {"stream": "bad"}, POISON)
    eventually(lambda: quarantined(home), 60)
    of_batch = [m.message_id for m in cloud.messages() if m.properties.get("batch-id") == "A"]
    assert len(of_batch) == len(set(of_batch)) == 2


def test_a_hub_that_drops_every_message_condemns_none(home: Home, cloud: Cloud) -> None:
    """An outage: connections are accepted, and every telemetry message ends them."""
    cloud.faults(poison="")  # the empty text is in every payload
    uploading(home, cloud)
    payloads = [b"good-%d" % n for n in range(100)]
    put(home, {"stream": "a"}, *payloads[:50])
    put(home, {"stream": "b"}, *payloads[50:])
    eventually(lambda: endings(home) >= 15, 60)
    assert quarantined(home) == {}
    cloud.no_faults()
    eventually(lambda: backlog(home) == 0, 60)
    check_arrivals(cloud, payloads)
    assert quarantined(home) == {}


def test_a_hub_that_drops_at_every_third_message_gets_them_all(home: Home, cloud: Cloud) -> None:
    cloud.faults(drop_after_messages=3)
    uploading(home, cloud)
    payloads = [b"good-%d" % n for n in range(60)]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0, 60)
    check_arrivals(cloud, payloads)
    assert quarantined(home) == {}


def test_what_can_never_be_sent_goes_aside_without_being_tried(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    long = {f"p{n}": "é" * 240 for n in range(8)}
    put(home, {"stream": "s", "properties": long}, b"long properties fit")
    put(home, {"stream": "s"}, b"after")
    eventually(lambda: backlog(home) == 0)
    check_arrivals(cloud, [b"long properties fit", b"after"])


def test_quarantine_can_be_listed_shown_requeued_and_dropped(home: Home, cloud: Cloud) -> None:
    cloud.faults(poison=POISON.decode())
    uploading(home, cloud)
    first, second, third = put(home, {"stream": "s"}, POISON + b"-1", POISON + b"-2", POISON + b"-3")
    eventually(lambda: len(quarantined(home)) == 3, 60)
    listed = home.edgectl("quarantine", "ls")
    assert listed.returncode == 0 and "-/s" in listed.stdout and "dropped the connection" in listed.stdout
    shown = home.edgectl("quarantine", "show", str(first), "--payload")
    assert shown.stdout == "poison-1"
    assert home.edgectl("quarantine", "requeue", "4711").returncode == 2
    cloud.no_faults()
    requeued = home.edgectl("quarantine", "requeue", str(first), str(third))
    assert requeued.stdout == "2 requeued\n", requeued.stderr
    eventually(lambda: len(cloud.messages()) >= 2 and backlog(home) == 0)
    assert {m.payload for m in cloud.messages()} >= {b"poison-1", b"poison-3"}
    dropped = home.edgectl("quarantine", "drop", "--all")
    assert dropped.stdout == "1 dropped\n", dropped.stderr
    assert quarantined(home) == {}, second
