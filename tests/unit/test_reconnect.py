"""When the next client may be opened: a short outage is healed at once, a war over one id is not fed."""

from __future__ import annotations

from runtime.core.delivery.events import Cause
from runtime.core.delivery.reconnect import (
    LONGEST_SHORT_PAUSE_S,
    MOST_EXPLAINED,
    SHORT_LIVES,
    SHORT_S,
    Reconnect,
)
from tests.support.delivery_world import World


def live(reconnect: Reconnect, now: float, lives_s: float, *, explained: bool = False) -> float:
    """One connection that messages flow on, until the other side ends it. The pause that follows."""
    reconnect.up(now)
    reconnect.acked(now)
    reconnect.lost(Cause.DROPPED, now + lives_s, 0.5, explained=explained)
    return reconnect.at_s - (now + lives_s)


def test_two_devices_under_one_id_end_each_others_connections_more_and_more_seldom() -> None:
    """111 connections a minute and device, for ever: each had acknowledgements, and was healed at once."""
    two, now, kicks = [Reconnect(60), Reconnect(60)], 0.0, list[float]()
    two[0].up(now)
    for _ in range(200):
        now = max(now, two[1].at_s) + 0.1
        two[1].up(now)
        two[1].acked(now)
        two[0].lost(Cause.DROPPED, now, 0.5)
        kicks.append(now)
        two.reverse()
    in_last_minutes = [at_s for at_s in kicks if at_s > kicks[-1] - 600]
    assert len(in_last_minutes) <= 2 * 600 / (LONGEST_SHORT_PAUSE_S / 2)
    assert min(one.short_lives(now) for one in two) > 50


def test_the_first_few_drops_are_healed_at_once() -> None:
    reconnect, now = Reconnect(60), 0.0
    for _ in range(SHORT_LIVES):
        pause_s = live(reconnect, now, 1.0)
        assert pause_s < 1.0
        now = reconnect.at_s
    assert live(reconnect, now, 1.0) >= 1.0


def test_a_connection_that_lives_ends_the_suspicion_while_it_lives() -> None:
    reconnect, now = Reconnect(60), 0.0
    for _ in range(3 * SHORT_LIVES):
        live(reconnect, now, 1.0)
        now = reconnect.at_s
    assert reconnect.short_lives(now) == 3 * SHORT_LIVES
    reconnect.up(now)
    assert reconnect.short_lives(now + SHORT_S) > 0
    assert reconnect.short_lives(now + SHORT_S + 2 * LONGEST_SHORT_PAUSE_S) == 0
    assert live(reconnect, now, SHORT_S + 2 * LONGEST_SHORT_PAUSE_S) < 2.0


def test_drops_that_a_message_is_suspected_of_are_no_second_device() -> None:
    reconnect, now = Reconnect(60), 0.0
    for _ in range(MOST_EXPLAINED):
        assert live(reconnect, now, 1.0, explained=True) < 1.0
        now = reconnect.at_s
    assert reconnect.short_lives(now) == 0
    for _ in range(SHORT_LIVES + 1):
        pause_s = live(reconnect, now, 1.0, explained=True)
        now = reconnect.at_s
    assert pause_s >= 1.0 and reconnect.short_lives(now) > 0, "they explain not any number"


def test_many_short_connections_in_a_row_are_named() -> None:
    world = World(window=4)
    for n in range(SHORT_LIVES + 2):
        world.store(n + 1, "s")
        world.close()
        world.pass_time(60)
        world.step()
        world.connect()
        world.step()
        world.receive()
        world.acknowledge()
        world.step()
        world.confirm(set(world.unconfirmed))
        world.pass_time(1)
        world.lose()
        world.step()
    words = world.delivery.connection.trouble(world.now)
    assert words == f"{SHORT_LIVES + 2} connections in a row ended within seconds: " + (
        "does another device use this id?"
    )
    assert words in world.delivery.connection.last_loss
