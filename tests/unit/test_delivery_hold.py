"""Deliveries wait for a message to be noted with, and never longer than was said."""

from __future__ import annotations

import math

import pytest

from runtime.core.ingest.delivery_hold import DeliveryHold
from runtime.core.ingest.unfolded_rows import MOST_NOTED
from runtime.core.settlement import Report, Settled, decode_report, encode_report

FEW = Report(1, Settled(delivered=(1, 2)))


def test_a_few_deliveries_wait_so_long_and_the_first_of_them_counts() -> None:
    hold = DeliveryHold(5.0)
    assert hold.left_s(100.0) == math.inf and hold.take(100.0, carried=False) == []
    hold.add([(b"upload", FEW)], 100.0)
    hold.add([(b"upload", Report(2, Settled(delivered=(3,))))], 104.0)
    assert hold.left_s(104.0) == 1.0
    assert hold.take(104.9, carried=False) == []
    assert [report.number for _, report in hold.take(105.0, carried=False)] == [1, 2]
    assert hold.left_s(105.0) == math.inf


def test_the_next_message_carries_them() -> None:
    hold = DeliveryHold(5.0)
    hold.add([(b"upload", FEW)], 100.0)
    assert hold.take(100.0, carried=True) == [(b"upload", FEW)]
    assert hold.take(200.0, carried=True) == []


@pytest.mark.parametrize(
    "report",
    [
        Report(1, Settled(delivered=(1,), quarantined=((2, "why"),))),
        Report(1, Settled(delivered=(1,), dropped=((2, "expired"),))),
        Report(1, Settled(requeued=(1,))),
        Report(1, Settled(discarded=(1,))),
        Report(1, damaged="a page"),
        Report(1, Settled(delivered=(1,)), hurry=True),
        Report(1, Settled(delivered=tuple(range(MOST_NOTED + 1)))),
        Report(1),
    ],
)
def test_whatever_else_is_reported_goes_at_once_with_all_that_waits(report: Report) -> None:
    hold = DeliveryHold(5.0)
    hold.add([(b"upload", FEW)], 100.0)
    hold.add([(b"other", report)], 100.0)
    assert hold.left_s(100.0) == 0.0
    assert hold.take(100.0, carried=False) == [(b"upload", FEW), (b"other", report)]


def test_nothing_waits_where_no_time_is_given() -> None:
    hold = DeliveryHold(0.0)
    hold.add([(b"upload", FEW)], 100.0)
    assert hold.take(100.0, carried=False) == [(b"upload", FEW)]


def test_the_hurry_of_a_report_travels() -> None:
    for hurry in (True, False):
        assert decode_report(encode_report(Report(3, FEW.settled, hurry=hurry))).hurry is hurry
