"""Pauses after failures: bounded, spread, and never shorter than what the other side asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.backoff import FLOOR_S, LONGEST_RETRY_AFTER_S, pause_s

draws = st.floats(0, 1, exclude_max=True)
attempts = st.integers(0, 10**6)


@given(attempt=attempts, draw=draws, max_s=st.floats(1, 86_400))
def test_a_pause_never_exceeds_the_longest_and_never_becomes_a_tight_loop(
    attempt: int, draw: float, max_s: float
) -> None:
    assert FLOOR_S <= pause_s(attempt, draw, max_s=max_s) <= max_s


@given(attempt=attempts, draw=draws, asked_s=st.floats(-1e9, 1e12))
def test_nobody_comes_back_before_the_server_wants_it_nor_waits_for_more_than_two_days(
    attempt: int, draw: float, asked_s: float
) -> None:
    found_s = pause_s(attempt, draw, max_s=300, retry_after_s=asked_s)
    assert min(asked_s, LONGEST_RETRY_AFTER_S) <= found_s <= 2 * LONGEST_RETRY_AFTER_S


def test_the_ceiling_doubles_with_every_failure_until_the_longest_pause() -> None:
    ceilings = [pause_s(n, 1.0, max_s=60) for n in range(8)]
    assert ceilings == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_fleet_that_was_told_the_same_number_does_not_come_back_in_the_same_second() -> None:
    pauses = [pause_s(6, n / 100, max_s=300, retry_after_s=60) for n in range(100)]
    assert min(pauses) == 60 and max(pauses) > 110


def test_full_jitter_spreads_over_the_whole_span_and_not_over_its_end() -> None:
    pauses = [pause_s(20, n / 1000, max_s=100) for n in range(1000)]
    assert sum(pause < 50 for pause in pauses) == 500


@given(attempt=attempts, draw=draws, asked_s=st.floats(0, 10))
def test_a_retry_after_of_nothing_cancels_no_backoff(attempt: int, draw: float, asked_s: float) -> None:
    """3,600 calls an hour instead of 29: the header cut each pause to the second that it named."""
    assert pause_s(attempt, draw, max_s=300, retry_after_s=asked_s) >= pause_s(attempt, draw, max_s=300)
