"""Patience: a hub that has all and answers late is waited for; other silence is found as soon as ever."""

from __future__ import annotations

import pytest

from runtime.core.delivery.actions import PROBE
from runtime.core.delivery.events import Carried, Cause
from runtime.core.delivery.patience import MOST_S, AckPatience
from tests.support.delivery_world import LIMITS, World, world_with

QUICK_S = 0.1


def carry(world: World, under_way_bytes: int = 0) -> None:
    """The hub's TCP has acknowledged all that was sent but this; pings come through where it is nothing."""
    arrived_bytes = 5000 if under_way_bytes else int(world.now)
    world.delivery.carried(Carried(world.client, arrived_bytes, under_way_bytes, 1448), world.now)


def connect(world: World) -> None:
    """A connection on which something is in flight."""
    for _ in range(50):
        world.close()
        world.connect()
        world.step()
        if world.wire:
            return
        world.pass_time(max(0.01, world.delivery.wait_s(world.now)))
    raise AssertionError(world.delivery.connection.state)


def given_up_after_s(world: World, under_way_bytes: int = 0) -> float:
    """Seconds until the connection is given up, though its line is well and the hub is silent."""
    began_s = world.now
    while not world.closing:
        carry(world, under_way_bytes)
        world.pass_time(0.5)
        world.step()
        assert world.now - began_s <= 2 * MOST_S
    return world.now - began_s


def silences(world: World, count: int) -> list[float]:
    waited_s = []
    for _ in range(count):
        connect(world)
        waited_s.append(given_up_after_s(world))
    return waited_s


def test_patience_grows_fourfold_with_each_loss_that_says_nothing_and_ends_at_a_bound() -> None:
    waited_s = silences(world_with(30), 6)
    assert waited_s[:3] == pytest.approx([LIMITS.ack_s * 4**n for n in range(3)], abs=1)
    assert waited_s[3:] == pytest.approx([MOST_S] * 3, abs=1)


def test_quick_answers_end_the_patience_and_slow_ones_do_not() -> None:
    patience = AckPatience(30.0)
    patience.overdue()
    for _ in range(100):
        patience.acked(31.0)
    assert patience.current_s == 120, "a queue that took as long as the first deadline"
    patience.acked(29.0)
    patience.acked(29.0)
    assert patience.current_s == 60, "30 s would be over at the next slow answer"
    for _ in range(2):
        patience.acked(QUICK_S)
    assert patience.current_s == 30


def test_a_deadline_longer_than_the_bound_stays_as_it_is() -> None:
    patience = AckPatience(3600.0)
    patience.overdue()
    assert patience.current_s == 3600


@pytest.mark.parametrize(("silent", "first"), [(0, 1), (4, PROBE)], ids=["a message", "a probe"])
def test_a_line_that_carries_nothing_is_given_up_at_the_deadline_however_patient_its_client_is(
    silent: int, first: int
) -> None:
    world = world_with(30)
    silences(world, silent)
    patience = world.delivery.sender.patience
    patience.overdue()
    patient_s = patience.current_s
    assert patient_s >= 2 * LIMITS.ack_s
    connect(world)
    assert world.wire[0][0] == first
    carry(world, 10_000)
    assert given_up_after_s(world, 10_000) == pytest.approx(LIMITS.ack_s, abs=1)
    assert "nothing of what was sent came through" in world.delivery.connection.last_loss
    assert patience.current_s == patient_s, "a line that carries nothing makes none more patient"


def test_losses_with_a_cause_of_their_own_make_no_client_patient() -> None:
    world = world_with(30)
    for cause in (Cause.DROPPED, Cause.OVERDUE, Cause.DROPPED):  # an end by the hub, a keep-alive
        connect(world)
        carry(world)
        world.lose(cause)
        world.step()
    assert world.delivery.sender.patience.current_s == LIMITS.ack_s


def test_a_message_that_others_overtake_is_found_at_the_deadline_however_patient_the_client_is() -> None:
    world = world_with(1, "late")
    silences(world, 3)
    for id in range(2, 200):
        world.store(id, "other")
    for _ in range(100):  # the losses narrowed the window to one: each answer widens it by one
        world.close()
        world.connect()
        world.step()
        world.receive()
        if world.delivery.window > 3 and not world.delivery.suspects:
            break
        world.acknowledge()
        world.pass_time(0.2)
    losses, began_s = world.delivery.connection.losses, world.now
    world.store(1000, "late")
    while world.delivery.connection.losses == losses:
        world.step()
        world.receive()
        world.at_hub.sort(key=lambda tag: tag[0] == 1000)
        world.acknowledge(sum(tag[0] != 1000 for tag in world.at_hub))
        id = len(world.offers) + len(world.gone) + 2000
        world.store(id, "other")
        world.pass_time(0.2)
        assert world.now - began_s < 3 * LIMITS.ack_s
    assert world.now - began_s >= LIMITS.ack_s
