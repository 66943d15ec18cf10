"""Delivery: a message whose PUBACK the hub withholds, while it acknowledges others sent after it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from runtime.core.delivery.actions import PROBE, Tag
from tests.support.delivery_world import LIMITS, World

OURS = 35
Withheld = Callable[[World, Tag], bool]


def flow(world: World, withheld: Withheld, for_s: float) -> list[float]:
    """Ten messages a second in three streams. When something was acknowledged."""
    acked_s: list[float] = []
    until_s, kept = world.now + for_s, set[Tag]()
    while world.now < until_s:
        id = len(world.offers) + len(world.gone) + 1
        world.store(id, f"s{id % 3}")
        world.close()
        world.connect()
        world.step()
        world.receive()
        kept = {tag for tag in world.at_hub if tag in kept or withheld(world, tag)}
        acked = len(world.at_hub) - len(kept)
        world.at_hub.sort(key=lambda tag: tag in kept)
        acked_s += [world.now] * (acked > 0)
        world.acknowledge(acked)
        world.step()
        world.confirm(set(world.unconfirmed))
        world.pass_time(0.1)
    return acked_s


@pytest.mark.parametrize("window", [4, 64])
def test_a_message_that_is_never_acknowledged_goes_aside_and_nobody_waits_for_that(window: int) -> None:
    """With a wide window it was sent for ever, on one connection after the other; else all stood still."""
    world = World(window=window)
    acked_s = flow(world, lambda _, tag: tag[0] == OURS, 6 * LIMITS.ack_s + 20)
    assert max(b - a for a, b in pairwise(acked_s)) < 3, "others stood still"
    assert set(world.quarantined) == {OURS}
    assert "acknowledged what was sent after this message" in world.quarantined[OURS]
    assert world.delivery.connection.losses == 5
    world.check_order()


def test_an_acknowledgement_that_is_withheld_once_costs_one_deadline() -> None:
    world, seen = World(window=16), list[Tag]()

    def once(_: World, tag: Tag) -> bool:
        seen.extend([tag] * (tag[0] == OURS and tag not in seen))
        return tag[0] == OURS and world.connections == 1

    flow(world, once, 4 + LIMITS.ack_s + 3)
    assert seen and OURS in world.gone and OURS not in world.quarantined
    assert world.delivery.connection.losses == 1
    assert world.delivery.window == 16, "the line was as it should be"


def test_a_control_that_goes_first_counts_in_the_budget_as_every_message() -> None:
    world = World(window=16)
    flow(world, lambda _, tag: tag[0] == OURS, 3 * LIMITS.ack_s)
    usage = world.link.usage
    assert PROBE in {id for id, _ in world.sent}
    assert usage.day_messages == len(world.sent)


def test_a_hub_that_loses_the_first_acknowledgement_of_each_connection_sets_nothing_aside() -> None:
    world, first = World(window=16), dict[int, Tag]()
    flow(world, lambda w, tag: first.setdefault(w.connections, tag) == tag, 20 * LIMITS.ack_s)
    assert world.connections >= 10
    assert world.quarantined == {}
