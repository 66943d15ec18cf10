"""Delivery: a budget that is used up holds for trials and controls, too; the urgent go on meanwhile."""

from __future__ import annotations

from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy
from tests.support.delivery_world import World

URGENT = 9


def turn(world: World, seconds: float) -> None:
    until_s = world.now + seconds
    while world.now < until_s:
        world.close()
        world.connect()
        world.step()
        world.receive()
        world.acknowledge()
        world.pass_time(0.1)


def use_up(world: World) -> LinkBudget:
    """A suspect whose trials are due, and a budget without anything left."""
    link = world.link
    turn(world, 0.5)
    while not world.delivery.suspects:
        turn(world, 0.1)
    link.policy = LinkPolicy(messages_per_day=1, urgent_priority=URGENT)
    link.usage.day_messages = 1
    return link


def test_a_trial_does_not_pass_a_budget_that_is_used_up_and_takes_place_when_there_is_another() -> None:
    """Each cost a message, a connection and a control, hundreds a day, while all others waited."""
    world = World(window=8)
    world.store(1, "bad", poison=True)
    for id in range(2, 6):
        world.store(id, "good")
    link = use_up(world)
    sent, connections = len(world.sent), world.connections
    turn(world, 60.0)
    assert world.sent[sent:] == []
    assert world.connections <= connections + 2, "a connection for nothing costs, too"
    link.policy = LinkPolicy()
    world.settle_down()
    assert list(world.quarantined) == [1]


def test_the_urgent_go_on_while_a_trial_waits_for_a_budget() -> None:
    world = World(window=8)
    world.store(1, "bad", poison=True)
    use_up(world)
    world.store(2, "alarm", priority=URGENT)
    sent = len(world.sent)
    turn(world, 10.0)
    assert 2 in world.delivered
    assert {id for id, _ in world.sent[sent:]} == {2}, "a control passed the budget"


def test_a_budget_that_is_used_up_when_a_trial_was_to_begin_does_not_hold_the_urgent_up() -> None:
    """By a block of a file, say, while the trial waited for the rate."""
    world = World(window=8)
    world.store(1, "bad", poison=True)
    world.store(2, "good")
    for _ in range(1_000):
        world.close()
        world.connect()
        if world.delivery.sender.trial is not None:
            break
        world.step()
        world.receive()
        world.acknowledge()
        world.pass_time(0.1)
    assert world.delivery.sender.trial is not None
    link = world.link
    link.policy = LinkPolicy(messages_per_day=1, urgent_priority=URGENT)
    link.usage.day_messages = 1
    world.store(3, "alarm", priority=URGENT)
    turn(world, 20.0)
    assert 3 in world.delivered
    assert link.usage.day_messages == 2


def test_an_urgent_suspect_is_tried_though_the_budget_is_used_up() -> None:
    world = World(window=8)
    world.store(1, "bad", poison=True, priority=URGENT)
    use_up(world)
    turn(world, 120.0)
    assert list(world.quarantined) == [1], "its controls pass as it does"
