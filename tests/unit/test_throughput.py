"""The throughput: connected since when, the last PUBACK, and a rate that one look can show."""

from __future__ import annotations

import pytest

from runtime.core.delivery.events import Acked, Cause, Closed, Connected, Lost
from runtime.core.delivery.throughput import Throughput


def test_a_connection_is_known_by_its_beginning_and_an_acknowledgement_by_its_moment() -> None:
    traffic = Throughput(100.0)
    assert (traffic.connected_s, traffic.acked_s) == (None, None)
    for event, now in ((Connected(1), 101.0), (Acked(1, "a"), 102.0), (Acked(1, "b"), 103.0)):
        traffic.on_event(event, now)
    traffic.on_event(Lost(1, Cause.DROPPED, ""), 104.0)
    traffic.on_event(Closed(1), 105.0)
    assert (traffic.connected_s, traffic.acked_s) == (101.0, 103.0)


def test_a_steady_rate_is_told_as_it_is_and_falls_to_nothing_within_a_minute_of_silence() -> None:
    traffic = Throughput(0.0)
    for second in range(1, 301):
        traffic.delivered(7, float(second))
    assert traffic.rate_per_s(300.0) == pytest.approx(7, rel=0.1)
    assert 0 < traffic.rate_per_s(330.0) < 5
    assert traffic.rate_per_s(361.0) == 0


def test_a_burst_right_after_the_start_is_no_giant_rate() -> None:
    traffic = Throughput(0.0)
    traffic.delivered(100, 0.01)
    assert traffic.rate_per_s(0.02) == 20


def test_what_is_remembered_does_not_grow() -> None:
    traffic = Throughput(0.0)
    for second in range(100_000):
        traffic.delivered(1, second / 10)
    assert len(traffic._slots) <= 14


def test_the_last_acknowledgement_may_be_the_predecessors() -> None:
    assert Throughput(100.0, acked_s=90.0).acked_s == 90.0
