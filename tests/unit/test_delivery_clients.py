"""Delivery: a client lives until its first error, and what replaces it."""

from __future__ import annotations

import pytest

from runtime.core.delivery.actions import Candidate, Open, Send
from runtime.core.delivery.connection import ConnectionState, DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import Acked, Cause, Closed, Connected, Lost
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.window import CongestionWindow
from tests.support.delivery_world import world_with


def test_an_acknowledgement_of_a_discarded_client_delivers_nothing() -> None:
    world = world_with(1)
    world.step()
    world.connect()
    world.step()
    world.lose()
    world.step()
    world.close()
    world.pass_time(5)
    world.step()
    world.connect()
    world.step()
    world.report(Acked(1, (1, 0)))
    world.step()
    assert world.delivered == []


def test_a_hub_that_never_acknowledges_is_left_after_the_time_out_and_everything_is_sent_again_in_order() -> (
    None
):
    world = world_with(5)
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1, 2, 3, 4, 5]
    world.pass_time(10.1)
    world.step()
    assert world.closing
    world.close()
    world.pass_time(10)
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1]  # narrowed: a quarter of five
    world.settle_down()
    assert world.delivered == [1, 2, 3, 4, 5]


def test_refused_credentials_are_told_at_every_attempt_and_new_ones_are_tried_at_once() -> None:
    world = world_with(1)
    world.refusing = True
    for attempt in range(1, 4):
        world.step()
        world.connect()
        world.step()
        assert world.told_refused == attempt
        world.close()
        world.pass_time(30)
    world.step()
    world.connect()
    world.step()
    world.close()
    assert world.delivery.wait_s(world.now) > 0
    world.refusing = False
    world.delivery.set_credentials(2, world.now)
    assert world.delivery.wait_s(world.now) == 0
    world.settle_down()
    assert world.delivered == [1]


def test_new_credentials_replace_the_client_and_what_was_in_flight_may_still_be_acknowledged() -> None:
    world = world_with(3)
    world.step()
    world.connect()
    world.step()
    world.receive(2)
    world.delivery.set_credentials(2, world.now)
    world.step()
    assert world.delivery.connection.state is ConnectionState.DRAINING
    world.acknowledge()
    world.pass_time(2.1)
    world.step()
    assert world.closing
    assert world.delivered == [1, 2]
    world.settle_down()
    assert [tag[0] for tag in world.sent] == [1, 2, 3, 3]


def test_after_a_long_outage_a_hub_that_is_back_is_not_waited_for_as_long_as_one_that_is_away() -> None:
    """A poisonous message in the first window cost half a minute for each time that the window narrowed."""
    world = world_with(5)
    for _ in range(12):
        world.step()
        world.lose(Cause.UNREACHABLE)
        world.step()
        world.close()
        world.pass_time(60)
    for drops in range(1, 4):
        world.step()
        world.connect()
        world.step()
        world.lose()
        world.step()
        world.close()
        assert world.delivery.wait_s(world.now) <= 2**drops, "and longer with each drop: it may be an outage"
        world.pass_time(60)


@pytest.mark.parametrize("excused", [True, False])
def test_a_loss_that_management_may_have_caused_makes_no_message_a_suspect(excused: bool) -> None:
    """A SUBSCRIBE ends connections on a basic tier: whatever message was alone in flight would be tried."""
    delivery = Delivery(CongestionWindow(8), LinkBudget(), DeliveryLimits(prompt_s=10))
    delivery.set_credentials(1, 0.0)
    assert delivery.offer(Candidate(1, "s", wire_bytes=100), 0.0)
    now = 0.0
    for client in (1, 2):
        assert any(isinstance(action, Open) for action in delivery.actions(now, 0.5))
        delivery.on_event(Connected(client), now, 0.5)
        sent = [action for action in delivery.actions(now, 0.5) if isinstance(action, Send)]
        assert sent
        delivery.on_event(Lost(client, Cause.DROPPED, "gone"), now + 0.1, 0.5, excused=excused)
        delivery.actions(now + 0.1, 0.5)
        delivery.on_event(Closed(client), now + 0.2, 0.5)
        now += 60
    assert [message.candidate.id for message in delivery.suspects] == ([] if excused else [1])
