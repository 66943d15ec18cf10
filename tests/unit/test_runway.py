"""How long it lasts: a number, never, or honestly unknown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.operations.runway import (
    LONG_S,
    SETTLE_S,
    SHORT_S,
    RateMeter,
    Rates,
    a_day,
    drained_in_s,
    growth,
    used_up_in_s,
)


def meter(*looks: tuple[float, float], counts: bool = False) -> RateMeter:
    made = RateMeter(counts=counts)
    for now_s, value in looks:
        made.observe(now_s, value)
    return made


def test_the_first_seconds_of_a_life_are_no_forecast() -> None:
    assert meter().rates() == meter((0.0, 1.0)).rates() == meter((0.0, 1.0), (59.0, 99.0)).rates() == Rates()
    assert meter((0.0, 0.0), (60.0, 120.0)).rates() == Rates(2.0, None)


@given(st.floats(-1e6, 1e6), st.integers(721, 5000), st.floats(1.0, 7.0))
def test_a_steady_rate_is_found_over_minutes_and_over_an_hour(
    rate: float, looks: int, every_s: float
) -> None:
    made = meter(*((n * every_s, n * every_s * rate) for n in range(looks)))
    rates = made.rates()
    assert rates.short_per_s == pytest.approx(rate, abs=1e-6)
    assert rates.long_per_s == pytest.approx(rate, abs=1e-6)
    assert len(made._looks) <= LONG_S / 10.0 + 2, "memory is bounded"


def test_a_burst_shows_at_once_and_a_pause_hides_nothing() -> None:
    quiet_then_burst = [(n * 10.0, 0.0) for n in range(330)] + [
        (3300.0 + n * 10, n * 100.0) for n in range(31)
    ]
    rates = meter(*quiet_then_burst).rates()
    assert rates.short_per_s == pytest.approx(10.0)
    assert rates.long_per_s is not None and rates.long_per_s < 1.0
    assert used_up_in_s(1_000.0, rates) == pytest.approx(100.0), "what is feared goes by the faster rate"
    shrinking = Rates(-10.0, -1.0)
    assert drained_in_s(1_000.0, shrinking) == pytest.approx(1_000.0), "what is hoped for by the slower"


def test_a_restart_of_a_counter_is_no_negative_rate() -> None:
    assert meter((0.0, 900.0), (100.0, 1_000.0), (110.0, 0.0), counts=True).rates() == Rates()
    assert meter((0.0, 900.0), (100.0, 1_000.0), (110.0, 0.0)).rates().short_per_s == pytest.approx(
        -900 / 110
    )
    assert meter((500.0, 900.0), (100.0, 1_000.0)).rates() == Rates(), (
        "a clock that went back is another boot's"
    )


@pytest.mark.parametrize(
    ("left", "rates", "wanted"),
    [
        (None, Rates(1.0, 1.0), None),
        (10.0, Rates(), None),
        (0.0, Rates(1.0), 0.0),
        (10.0, Rates(0.0, -1.0), math.inf),
        (10.0, Rates(-5.0, 2.0), 5.0),
    ],
)
def test_never_and_unknown_are_two_answers(left: float | None, rates: Rates, wanted: float | None) -> None:
    assert used_up_in_s(left, rates) == wanted


@pytest.mark.parametrize(
    ("backlog", "growth", "wanted"),
    [
        (None, Rates(-1.0), None),
        (0.0, Rates(), 0.0),
        (10.0, Rates(), None),
        (10.0, Rates(0.0), math.inf),
        (10.0, Rates(-5.0, 1.0), math.inf),
        (10.0, Rates(-5.0, -2.0), 5.0),
    ],
)
def test_a_backlog_that_does_not_shrink_is_never_drained(
    backlog: float | None, growth: Rates, wanted: float | None
) -> None:
    assert drained_in_s(backlog, growth) == wanted


def test_the_first_seconds_of_a_runtime_are_no_reason_to_call_the_disk_full_soon() -> None:
    """ingest writes its ballast of 64 MiB then: by that rate the disk was full in 17 h."""
    made = RateMeter(counts=False, settle_s=SETTLE_S)
    made.observe(0, 0)
    for at_s in range(5, 600, 5):
        made.observe(at_s, 64 << 20)
        assert set(made.rates().known) <= {0.0}
        assert at_s >= 90 or made.rates() == Rates()


def test_a_disk_that_stops_filling_is_told_within_minutes() -> None:
    made = meter(*((at_s, at_s * 1000.0) for at_s in range(0, 600, 5)))
    for at_s in range(600, 960, 5):
        made.observe(at_s, 600_000.0)
    assert made.rates().short_per_s == 0.0 and growth(made.rates()) != 0.0


def test_a_day_goes_by_the_hour_where_one_was_observed() -> None:
    assert a_day(Rates()) is None
    assert a_day(Rates(2.0, None)) == 172_800.0
    assert a_day(Rates(2.0, 1.0)) == 86_400.0
    assert SHORT_S < LONG_S
