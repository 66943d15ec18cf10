"""Waiting awake: only for a producer that asks again at once, and where there is a core for it."""

from __future__ import annotations

import pytest

from runtime.core.ingest.busy_poll import QUICK_IN_A_ROW, SPIN_S, BusyPoll


def quick(poll: BusyPoll, times: int = QUICK_IN_A_ROW) -> None:
    for _ in range(times):
        poll.waited(SPIN_S / 2, 1)


def test_it_begins_after_quick_requests_in_a_row_and_ends_with_the_first_slow_one() -> None:
    poll = BusyPoll(cores=2)
    quick(poll, QUICK_IN_A_ROW - 1)
    assert poll.spin_s == 0.0
    quick(poll, 1)
    assert poll.spin_s == SPIN_S
    poll.waited(SPIN_S * 1.01, 1)
    assert poll.spin_s == 0.0
    quick(poll, QUICK_IN_A_ROW - 1)
    assert poll.spin_s == 0.0, "in a row"


@pytest.mark.parametrize("requests", [0, 2])
def test_a_wait_that_no_single_request_ended_is_not_quick(requests: int) -> None:
    poll = BusyPoll(cores=2)
    quick(poll)
    poll.waited(0.0, requests)
    assert poll.spin_s == 0.0


def test_a_machine_with_one_core_has_none() -> None:
    poll = BusyPoll(cores=1)
    quick(poll, 100)
    assert poll.spin_s == 0.0
