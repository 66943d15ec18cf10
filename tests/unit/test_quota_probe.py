"""When the hub is asked over HTTPS why it takes connections and no messages."""

from __future__ import annotations

from runtime.core.delivery.quota_probe import QuotaProbe
from tests.support.delivery_world import World


def test_a_hub_that_takes_nothing_for_hours_is_asked_more_and_more_seldom() -> None:
    quota_probe = QuotaProbe()
    assert [n for n in range(1, 100) if quota_probe.record_failure()] == [3, 6, 12, 24, 48, 96]
    quota_probe.reset()
    assert [n for n in range(1, 10) if quota_probe.record_failure()] == [3, 6]


def turn(world: World) -> None:
    """One connection, from the pause before it to its end."""
    world.pass_time(60)
    for _ in range(4):
        world.step()
        world.connect()
        world.close()
    world.receive()


def test_the_hub_is_asked_why_only_where_it_took_connections_and_no_message() -> None:
    world = World()
    for id in range(1, 20):
        world.store(id, "s")
    world.outage = True
    asked = []
    for _ in range(6):
        turn(world)
        asked.append(world.asked_why)
    assert asked[-1] == 1 and asked[1] == 0
    world.settle_down()
    assert sorted(world.delivered) == list(range(1, 20))


def test_a_hub_that_refuses_connections_is_not_asked_why() -> None:
    world = World()
    world.store(1, "s")
    world.refusing = True
    for _ in range(10):
        turn(world)
    assert world.told_refused >= 3 and world.asked_why == 0
