"""Listening to the hub: telemetry comes first, and a hub that ends connections over it is left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.core.management.hub_channels import HubChannel
from runtime.core.management.listening import (
    LONGEST_MUTE_S,
    MOST_STRIKES,
    MUTE_S,
    PROVEN_S,
    SETTLE_S,
    STRIKE_S,
    SUBACK_S,
    Listening,
    ListeningAction,
    ListeningState,
    SubscribeChannel,
    UnsubscribeChannel,
)

ALL = frozenset(HubChannel)
COMMANDS = frozenset({HubChannel.COMMANDS})


def wanting(channels: frozenset[HubChannel] = ALL) -> Listening:
    listening = Listening()
    listening.want(channels)
    return listening


def turn(listening: Listening, now: float, *, busy: bool = False) -> list[ListeningAction]:
    return listening.actions(now, telemetry_in_flight=busy)


def subscribe_all(listening: Listening, now: float) -> list[HubChannel]:
    """Grant whatever is asked for; the channels in their order."""
    asked: list[HubChannel] = []
    while actions := turn(listening, now):
        (action,) = actions
        assert isinstance(action, SubscribeChannel)
        asked.append(action.channel)
        listening.answered(action.channel, granted=True)
    return asked


def test_it_subscribes_after_the_first_puback_one_channel_after_the_other() -> None:
    listening = wanting()
    assert turn(listening, 0.0) == [] and listening.state(0.0) is ListeningState.WAITING
    listening.connected(10.0)
    assert turn(listening, 10.0, busy=True) == []
    listening.telemetry_acked()
    assert turn(listening, 10.1, busy=True) == [SubscribeChannel(HubChannel.COMMANDS)]
    assert turn(listening, 10.1, busy=True) == [], "the one before is not answered"
    assert listening.state(10.1) is ListeningState.SUBSCRIBING
    listening.answered(HubChannel.COMMANDS, granted=True)
    assert subscribe_all(listening, 10.2) == list(HubChannel)[1:]
    assert listening.state(10.2) is ListeningState.LISTENING and listening.granted == ALL


def test_without_telemetry_it_subscribes_soon_and_never_before_telemetry_that_is_in_flight() -> None:
    listening = wanting()
    listening.connected(0.0)
    assert turn(listening, SETTLE_S - 0.1) == []
    assert turn(listening, SETTLE_S + 10, busy=True) == [], "on a slow line the first message is on its way"
    assert turn(listening, SETTLE_S + 11) == [SubscribeChannel(HubChannel.COMMANDS)]


def test_nothing_is_sent_while_a_message_is_on_trial_or_nothing_is_wanted() -> None:
    listening = Listening()
    listening.connected(0.0)
    listening.telemetry_acked()
    assert turn(listening, 5.0) == [] and listening.state(5.0) is ListeningState.OFF
    listening.want(COMMANDS)
    assert listening.actions(5.0, telemetry_in_flight=False, hold=True) == []
    assert turn(listening, 5.0) == [SubscribeChannel(HubChannel.COMMANDS)]


def test_a_refused_channel_is_known_and_not_asked_for_again_on_this_client() -> None:
    listening = wanting(COMMANDS | {HubChannel.METHODS})
    listening.connected(0.0)
    listening.telemetry_acked()
    turn(listening, 0.0)
    listening.answered(HubChannel.COMMANDS, granted=False)
    assert turn(listening, 0.0) == [SubscribeChannel(HubChannel.METHODS)]
    assert turn(listening, SUBACK_S) == [] and listening.refused == {HubChannel.COMMANDS, HubChannel.METHODS}
    listening.answered(HubChannel.METHODS, granted=True)
    assert listening.granted == {HubChannel.METHODS}, "a hub that throttles was only late"
    listening.connected(100.0)
    listening.telemetry_acked()
    assert turn(listening, 100.0) == [SubscribeChannel(HubChannel.COMMANDS)]


def test_what_is_wanted_no_more_is_unsubscribed() -> None:
    listening = wanting()
    listening.connected(0.0)
    listening.telemetry_acked()
    subscribe_all(listening, 0.0)
    listening.want(COMMANDS)
    left = {action.channel for action in turn(listening, 1.0) if isinstance(action, UnsubscribeChannel)}
    assert left == ALL - COMMANDS and turn(listening, 1.0) == []


def by_subscribing(listening: Listening, now: float) -> float:
    """What ends the connection on a hub of the basic tier; the time of the loss."""
    listening.connected(now)
    listening.telemetry_acked()
    assert turn(listening, now), "it subscribes"
    assert listening.may_be_the_reason()
    listening.lost(now + 0.1, by_hub=True)
    return now + 0.1


def by_publishing(listening: Listening, now: float) -> float:
    listening.connected(now)
    listening.telemetry_acked()
    subscribe_all(listening, now)
    listening.published("get", now + 100)
    assert listening.may_be_the_reason()
    assert listening.lost(now + 101, by_hub=True) == ["get"]
    return now + 101


def by_acknowledging(listening: Listening, now: float) -> float:
    listening.connected(now)
    listening.telemetry_acked()
    subscribe_all(listening, now)
    listening.acknowledged(now + 100)
    listening.lost(now + 100.5, by_hub=True)
    return now + 100.5


@pytest.mark.parametrize("end", [by_subscribing, by_publishing, by_acknowledging])
def test_three_losses_in_a_row_mute_it_and_each_further_one_doubles_the_time(
    end: Callable[[Listening, float], float],
) -> None:
    listening = wanting()
    now = 0.0
    for _ in range(MOST_STRIKES):
        assert not listening.is_muted(now)
        now = end(listening, now)
    expected_s = MUTE_S
    for _ in range(15):
        assert listening.muted_s(now) == pytest.approx(expected_s)
        assert listening.state(now) is ListeningState.MUTED and not listening.may_publish(now)
        listening.connected(now)
        listening.telemetry_acked()
        assert turn(listening, now + expected_s - 0.1) == []
        listening.lost(now + 1, by_hub=True)  # of itself: nothing was sent
        now = end(listening, now + expected_s + 0.1)
        expected_s = min(2 * expected_s, LONGEST_MUTE_S)
    assert expected_s == LONGEST_MUTE_S


def test_losses_that_management_did_not_cause_are_not_held_against_it() -> None:
    listening = wanting()
    for n in range(10):
        now = n * 1000.0
        listening.connected(now)
        listening.telemetry_acked()
        subscribe_all(listening, now)
        assert not listening.may_be_the_reason()
        if n % 2:
            listening.lost(now + STRIKE_S + 1, by_hub=True)
        else:
            listening.lost(now + 1, by_hub=False)
        assert not listening.is_muted(now + 12)
    for n in range(MOST_STRIKES - 1):
        by_subscribing(listening, 20_000.0 + n)
    listening.connected(21_000.0)
    listening.telemetry_acked()
    subscribe_all(listening, 21_000.0)
    listening.lost(21_000.0 + STRIKE_S + 1, by_hub=True)
    by_subscribing(listening, 22_000.0)
    assert not listening.is_muted(22_001.0), "they were not in a row"


def test_a_hub_that_was_raised_to_a_higher_tier_is_listened_to_again_and_forgiven() -> None:
    listening = wanting()
    for n in range(MOST_STRIKES):
        by_subscribing(listening, float(n))
    now = 3 + MUTE_S
    by_subscribing(listening, now)
    assert listening.muted_s(now) > MUTE_S
    now += 2 * MUTE_S + 1
    listening.connected(now)
    listening.telemetry_acked()
    assert subscribe_all(listening, now) == list(HubChannel)
    turn(listening, now + PROVEN_S)
    by_subscribing(listening, now + PROVEN_S + 1)
    assert not listening.is_muted(now + PROVEN_S + 2), "one strike is none any more"


def test_a_publish_that_is_never_acknowledged_is_noticed_where_no_telemetry_is_judged() -> None:
    listening = wanting()
    listening.connected(0.0)
    listening.published("get", 10.0)
    assert not listening.overdue(39.0, 30.0) and listening.overdue(40.1, 30.0)
    turn(listening, 35.0, busy=True)
    assert not listening.overdue(60.0, 30.0) and listening.overdue(65.1, 30.0)
    assert listening.acked("get") and not listening.acked("get")
    assert not listening.overdue(100.0, 30.0)


def test_it_names_the_time_at_which_something_is_due() -> None:
    listening = wanting(COMMANDS)
    assert listening.next_s(0.0, 30.0) == float("inf")
    listening.connected(0.0)
    assert listening.next_s(0.0, 30.0) == SETTLE_S
    assert turn(listening, SETTLE_S)
    assert listening.next_s(SETTLE_S, 60.0) == SETTLE_S + SUBACK_S
    listening.answered(HubChannel.COMMANDS, granted=True)
    listening.published("get", 5.0)
    assert listening.next_s(6.0, 30.0) == 35.0
