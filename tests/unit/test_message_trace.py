"""What upload writes of single messages into its status file, and how `edgectl trace` says it."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cli.trace import sentence
from runtime.core.delivery import trace
from runtime.core.delivery.trace import MOST_RANGES, MOST_RECORDS, RecentDeliveries
from tests.support.delivery_world import World


def turn(world: World) -> None:
    world.close()
    world.connect()
    world.step()
    world.receive()
    world.acknowledge()
    world.step()


def connected(world: World) -> None:
    world.step()
    world.connect()
    world.step()


def test_each_message_that_is_not_simply_waiting_is_found_under_its_state() -> None:
    world = World(window=2)
    for id in range(1, 6):
        world.store(id, "s")
    for id, batch in enumerate("AB", 10):
        world.store(id, "batches", batch=batch)
    world.store(20, "files", file=True)
    world.delivery.refuse(30, "too large", world.now)
    connected(world)
    found = trace.figures(world.delivery)
    assert found["states"] == {
        "in flight": [[1, 1], [10, 10]],
        "deferred": [[11, 11]],
        "uploading": [[20, 20]],
        "set aside": [[30, 30]],
    }
    assert [(record["id"], record["state"]) for record in found["records"]] == [(20, "uploading")]


def test_a_suspect_is_named_with_all_that_is_known_of_it_before_messages_that_were_only_sent_again() -> None:
    world = World()
    for id in range(1, 2 * MOST_RECORDS):
        world.store(id, f"s{id}")
    world.store(1000, "bad", poison=True)
    connected(world)
    world.lose()
    while not world.delivery.suspects:
        turn(world)
        world.pass_time(0.5)
    first, *others = trace.figures(world.delivery)["records"]
    assert (first["id"], first["state"]) == (1000, "suspect")
    assert first["failures"] >= 2 and first["attempts"] >= 2 and first["since_boot_s"] <= world.now
    assert len(others) < MOST_RECORDS


def test_the_figures_stay_small_whatever_is_in_the_queue() -> None:
    world = World(window=300)
    for id in range(1, 600, 2):
        world.store(id, f"s{id}")
    connected(world)
    world.lose()
    world.step()
    world.close()
    world.pass_time(60)
    connected(world)
    found = trace.figures(world.delivery)
    assert len(found["states"]["in flight"]) == MOST_RANGES
    assert len(found["records"]) == MOST_RECORDS


def test_deliveries_of_the_same_second_that_follow_each_other_are_one_range() -> None:
    recent = RecentDeliveries()
    recent.add([1, 2, 3], 10.0)
    recent.add([4, 6], 10.5)
    recent.add([7], 12.0)
    assert recent.figures() == [(1, 4, 10.0), (6, 6, 10.5), (7, 7, 12.0)]
    for n in range(10 * MOST_RANGES):
        recent.add([100 + 2 * n], 20.0)
    assert len(recent.figures()) == MOST_RANGES


ROW = {
    "stored": "2026-11-29T10:00:00Z",
    "stored_age_s": 65.0,
    "stream": "plant/press",
    "key": "press-7/boot/12",
    "bytes": 214,
    "file": None,
    "batch": None,
}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"state": "stored", "upload": "down", "ahead": 0, **ROW},
            "message 17 is stored, upload does not run or is not connected, stored 2026-11-29T10:00:00Z"
            " (1m05s ago), key press-7/boot/12, stream plant/press, 214 B",
        ),
        (
            {"state": "queued", "upload": "up", "ahead": 12, **ROW, "stored": None, "batch": "b"},
            "message 17 waits for its turn, behind 12 earlier of its stream, stored 1m05s ago, "
            "key press-7/boot/12, stream plant/press, batch b, 214 B",
        ),
        (
            {"state": "in flight", "since_s": 3.0, "attempts": 4, "pieces": 9, "reached": 2, **ROW},
            "message 17 is sent, and the hub has not acknowledged it yet (for 3s), sent 4 times, 2 of 9 "
            "pieces acknowledged, stored 2026-11-29T10:00:00Z (1m05s ago), key press-7/boot/12, stream "
            "plant/press, 214 B",
        ),
        (
            {"state": "delivered", "delivered_s": 12.0, "removed": True},
            "message 17 was delivered 12s ago",
        ),
        (
            {"state": "set aside", "since_s": 7200.0, "reason": "too\x1blarge", "damage": "cannot be read"},
            "message 17 is in quarantine (for 2h00m): too\\x1blarge, its row is damaged: cannot be read",
        ),
    ],
)
def test_what_is_known_of_a_message_is_said_in_one_line(facts: dict[str, Any], said: str) -> None:
    assert sentence({"id": 17, **facts}) == said
