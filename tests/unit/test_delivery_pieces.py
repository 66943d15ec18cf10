"""Delivery: a message in pieces goes on where it was, and is whole at one device."""

from __future__ import annotations

import pytest

from tests.support.delivery_world import URGENT, World


def begun(world: World, pieces: int) -> None:
    """Pieces of message 1 are at the hub and acknowledged; the rest is on the wire."""
    world.store(1, "s", pieces=10)
    world.step()
    world.connect()
    world.step()
    world.receive(pieces)
    world.acknowledge(pieces)
    world.step()


def test_after_a_crash_a_message_goes_on_at_its_first_piece_without_an_acknowledgement() -> None:
    world = World(window=4)
    begun(world, 3)
    assert world.reached == {1: 3}
    world.crash()
    world.sent.clear()
    world.settle_down()
    assert world.sent[0] == (1, 3)
    assert world.delivered == [1]


def test_an_acknowledgement_out_of_turn_hides_no_piece() -> None:
    """The hub may acknowledge the second before the first; the first is still to come then."""
    world = World(window=4)
    begun(world, 0)
    world.receive(3)
    world.at_hub.reverse()
    world.acknowledge(2)
    world.step()
    assert world.reached.get(1, 0) == 0
    world.crash()
    world.sent.clear()
    world.settle_down()
    assert world.sent[0] == (1, 0)


def test_another_device_does_not_link_to_a_file_that_it_never_uploaded() -> None:
    """The link went out under the new id and named a blob that belongs to the old one."""
    world = World(window=4)
    world.store(1, "s", file=True)
    world.store(2, "s")
    world.step()
    world.uploads.clear()
    world.uploaded(1)
    while not world.sent:
        world.connect()
        world.step()
    world.generation, world.device = 2, 2
    world.delivery.set_credentials(2, world.now)
    world.sent.clear()
    for _ in range(20):
        world.step()
        world.pass_time(1.0)
        world.close()
        world.connect()
    assert (world.uploads, world.sent) == ([1], [])
    world.settle_down()
    assert world.delivered == [1, 2]


def test_another_device_does_not_try_the_link_of_a_file_that_the_hub_would_not_take() -> None:
    """Under suspicion the link was tried first of all under the new id: upload died of it."""
    world = World(window=4)
    world.store(1, "s", poison=True, file=True)
    while not world.delivery.suspects:
        world.close()
        world.connect()
        world.receive()
        for id in world.uploads:
            world.uploaded(id)
        world.uploads.clear()
        world.step()
        world.pass_time(0.3)
    world.generation, world.device = 2, 2
    world.poison.clear()
    world.delivery.set_credentials(2, world.now)
    world.settle_down()
    assert world.delivered == [1]
    assert world.arrived_at[2] >= {(1, 0)}


def test_another_device_gets_the_message_from_its_first_piece() -> None:
    """Half of it under one name and half under another is no message at all."""
    world = World(window=4)
    begun(world, 3)
    world.generation, world.device = 2, 2
    world.delivery.set_credentials(2, world.now)
    world.sent.clear()
    world.settle_down()
    assert world.delivered == [1]
    assert [piece for _, piece in world.sent] == list(range(10))


def test_no_more_messages_are_begun_in_pieces_than_a_crash_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    """268 pieces were sent twice after a crash, with a window of 4: the hub had too many in part."""
    monkeypatch.setattr("runtime.core.delivery.send_queue.MOST_IN_PIECES", 5)
    world = World(window=3)
    for id in range(1, 41):
        world.store(id, f"s{id}", pieces=4)
        world.store(100 + id, f"t{id}")
    for _ in range(400):
        world.close()
        world.connect()
        world.step()
        world.receive()
        world.acknowledge()
        in_part = {id for id, _ in world.sent} - set(world.delivered) - set(range(100, 141))
        assert len(in_part) <= 5
    world.settle_down()
    assert len(world.delivered) == 80
    world.check_order()


def test_an_urgent_message_in_pieces_begins_though_a_budget_stopped_many_others_halfway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.core.delivery.send_queue.MOST_IN_PIECES", 4)
    world = World(window=6)
    for id in range(1, 9):
        world.store(id, f"s{id}", pieces=9)
    for _ in range(3):
        world.close()
        world.connect()
        world.step()
        world.receive()
        world.acknowledge()
    world.bar(True)
    world.store(100, "alarm", pieces=3, priority=URGENT)
    for _ in range(20):
        world.step()
        world.receive()
        world.acknowledge()
    assert world.delivered == [100]
    world.settle_down()
    assert len(world.delivered) == 9
