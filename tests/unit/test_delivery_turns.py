"""Delivery: whose turn it is: files, priorities, expiry, what was settled."""

from __future__ import annotations

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.events import Acked
from runtime.core.delivery.link_budget import LinkPolicy
from tests.support.delivery_world import World, world_with


def test_a_file_upload_holds_its_own_stream_and_no_other() -> None:
    world = World()
    world.store(1, "files")
    world.store(2, "files", file=True)
    world.store(3, "files")
    world.store(4, "telemetry")
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1, 4]
    assert world.uploads == [], "what stands before it is not acknowledged yet"
    world.receive()
    world.acknowledge()
    world.step()
    assert world.uploads == [2] and world.wire == []
    world.upload_failed(2)
    world.step()
    assert world.uploads == [2], "it is tried again after a pause"
    world.pass_time(world.delivery.wait_s(world.now))
    world.step()
    assert world.uploads == [2, 2]
    world.uploaded(2)
    world.step()
    assert [tag[0] for tag in world.wire] == [2, 3]


def test_a_stream_of_low_priority_is_served_beside_one_of_high_priority_and_not_after_it() -> None:
    world = World(window=1000)
    for id in range(1, 501):
        world.offer(Candidate(id, "low", priority=0))
        world.offer(Candidate(1000 + id, "high", priority=5))
    world.step()
    world.connect()
    world.step()
    first = [tag[0] for tag in world.wire[:330]]
    assert sum(id < 1000 for id in first) == 10, "one in 33: 2 to the power of the difference"
    assert first[0] == 1 or first[1] == 1 or 1 in first[:40]


def test_expired_messages_are_dropped_with_the_reason_unless_they_are_on_their_way() -> None:
    world = World(window=1)
    world.offer(Candidate(1, "s", expires_s=1005.0))
    world.offer(Candidate(2, "s", expires_s=1005.0))
    world.step()
    world.connect()
    world.step()
    world.pass_time(6)
    world.arrivals += world.wire
    world.report(Acked(1, (1, 0)))
    world.delivery.actions(world.now, 0.5)
    settled = world.delivery.drain_settled()
    assert settled.delivered == [1]
    assert settled.dropped == [(2, "expired")]


def test_what_ingest_has_not_confirmed_is_not_sent_again_when_the_store_shows_it_again() -> None:
    world = world_with(1)
    world.settle_down()
    assert world.delivered == [1]
    assert not world.offer(Candidate(1, "s"))
    world.delivery.confirmed({1})
    assert not world.delivery.settled


def test_a_file_upload_that_is_due_and_cannot_begin_does_not_keep_the_processor_busy() -> None:
    """One failed, others took all the places: the loop waited for nothing as long as they lasted."""
    world = World()
    for id, stream in enumerate("abc", 1):
        world.store(id, stream, file=True)
    world.step()
    assert world.uploads == [1, 2]
    world.upload_failed(1)
    world.step()
    assert world.uploads == [1, 2, 3]
    world.connect()
    world.pass_time(100)
    assert not world.step()
    assert world.delivery.wait_s(world.now) > 1
    world.uploaded(2)
    world.step()
    assert world.uploads == [1, 2, 3, 1]


def test_a_file_that_has_expired_is_dropped_and_not_uploaded_for_nothing() -> None:
    world = World()
    world.store(1, "files", file=True, expires_s=1005.0)
    world.store(2, "files")
    world.pass_time(6)
    world.step()
    world.connect()
    world.step()
    assert world.uploads == []
    world.settle_down()
    assert world.delivered == [2]


def test_an_urgent_file_does_not_wait_for_places_that_files_hold_while_they_wait_for_the_rate() -> None:
    world = World()
    world.link.policy = LinkPolicy(bytes_per_s=1000, urgent_priority=8)
    for id in range(1, 6):
        world.store(id, f"bulk-{id}", file=True)
    world.step()
    assert world.uploads == [1, 2], "two places, held until the last block has gone"
    world.store(6, "alarm", file=True, priority=8)
    world.step()
    assert world.uploads == [1, 2, 6]
    world.store(7, "alarm-2", file=True, priority=8)
    world.step()
    assert world.uploads == [1, 2, 6], "the number of uploads has a bound"
    world.uploaded(1)
    world.step()
    assert world.uploads == [1, 2, 6, 7], "the next free place is for the most important one"
