"""Delivery: poison against outage, in a model of a hub."""

from __future__ import annotations

import pytest

from runtime.core.delivery.connection import ConnectionState
from tests.support.delivery_world import World, world_with


def test_poison_anywhere_goes_to_quarantine_with_its_reason_and_nothing_else_does() -> None:
    for position in (1, 50, 100):
        world = World(window=32)
        for id in range(1, 101):
            world.store(id, "s", poison=id == position)
        world.settle_down()
        assert list(world.quarantined) == [position]
        assert "when this message came" in world.quarantined[position]
        assert world.delivered == [n for n in range(1, 101) if n != position]
        assert world.connections < 20, "a poisonous message costs a bounded number of connections"


def test_ten_poisonous_messages_in_a_row_do_not_block_the_rest() -> None:
    world = World(window=32)
    for id in range(1, 41):
        world.store(id, "s", poison=10 < id <= 20)
    world.settle_down()
    assert sorted(world.quarantined) == list(range(11, 21))
    assert world.delivered == [*range(1, 11), *range(21, 41)]


def test_while_a_poisonous_message_is_tried_the_other_streams_go_on() -> None:
    world = World(window=8)
    world.store(1, "bad", poison=True)
    for id in range(2, 200):
        world.store(id, "good")
    world.settle_down()
    assert list(world.quarantined) == [1]
    assert len(world.delivered) == 198


def test_an_outage_that_drops_everybody_for_hours_sends_nothing_to_quarantine() -> None:
    world = World(window=8)
    for id in range(1, 101):
        world.store(id, "abcd"[id % 4])
    world.outage = True
    for _ in range(3000):
        world.close()
        world.connect()
        world.receive()
        world.step()
        world.pass_time(max(0.1, world.delivery.wait_s(world.now)))
    assert world.connections > 100
    assert world.quarantined == {}
    world.settle_down()
    assert sorted(world.delivered) == list(range(1, 101))
    world.check_order()


def test_a_hub_that_drops_every_connection_at_its_nth_message_gets_everything_in_the_end() -> None:
    for n in (2, 3, 7):
        world = world_with(60)
        taken = 0
        for _ in range(5000):
            world.close()
            if world.delivery.connection.state is ConnectionState.CONNECTING:
                taken = 0
            world.connect()
            while world.wire and world.connected:
                if taken == n - 1:
                    world.arrivals.append(world.wire[0])  # recorded, not acknowledged
                    world.lose()
                    break
                taken += 1
                world.receive(1)
                world.acknowledge()
            world.step()
            world.pass_time(0.3)
            if len(world.delivered) == 60:
                break
        assert world.quarantined == {}
        assert world.delivered == list(range(1, 61))


@pytest.mark.parametrize("count", [2, 3])
def test_a_hub_that_is_silent_to_several_messages_convicts_each_and_holds_nobody_up_for_ever(
    count: int,
) -> None:
    """The control's acknowledgement widened the window to two: both were in flight, and none was to blame."""
    world, mute = World(), set(range(1, count + 1))
    for id in (*mute, *range(11, 11 + count)):
        world.store(id, f"s{id % 10}")
    for _ in range(3_000):
        world.close()
        world.connect()
        world.step()
        world.receive()
        world.at_hub = [tag for tag in world.at_hub if tag[0] not in mute]
        world.acknowledge()
        world.step()
        world.pass_time(max(0.01, min(1.0, world.delivery.wait_s(world.now))))
        if set(world.quarantined) == mute and len(world.delivered) == count:
            return
    raise AssertionError((world.quarantined, world.delivered, world.delivery.window, world.sent[-6:]))
