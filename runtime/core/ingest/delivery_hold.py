"""Delivery hold: reports of deliveries wait a few seconds for a message in whose commit they are noted.

A commit of its own for a delivery writes as much as one for a message, and most are followed by a message
soon. So a few deliveries wait: for the next message, or until `hold_s` have passed. What else is reported,
and deliveries beyond MOST_NOTED, is carried out at once. The report is confirmed after its commit, as ever: a
process that dies meanwhile costs a repetition, of the report; where the device dies with it, of the messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from runtime.core.ingest.unfolded_rows import MOST_NOTED
from runtime.core.settlement import Report

Received = tuple[bytes, Report]
"""A report, and who sent it."""


class DeliveryHold:
    """The reports that wait."""

    def __init__(self, hold_s: float) -> None:
        self.hold_s = hold_s
        self._reports: list[Received] = []
        self._since_s = math.inf
        self._in_a_hurry = False

    def add(self, reports: Iterable[Received], now_s: float) -> None:
        """Take reports that have come."""
        for each in reports:
            self._since_s = min(self._since_s, now_s)
            self._in_a_hurry |= not _may_wait(each[1])
            self._reports.append(each)

    def left_s(self, now_s: float) -> float:
        """Seconds until they are due; infinite where none waits."""
        many = sum(len(report.settled.delivered) for _, report in self._reports) > MOST_NOTED
        if self._in_a_hurry or many:
            return 0.0
        return max(0.0, self._since_s + self.hold_s - now_s)

    def take(self, now_s: float, *, carried: bool) -> list[Received]:
        """All of them, where they are due, or where a message that comes now may carry them."""
        if not carried and self.left_s(now_s) > 0.0:
            return []
        reports, self._reports = self._reports, []
        self._since_s, self._in_a_hurry = math.inf, False
        return reports


def _may_wait(report: Report) -> bool:
    """True if it tells of deliveries alone, and its sender has time."""
    settled = report.settled
    others = settled.quarantined or settled.dropped or settled.requeued or settled.discarded
    return bool(settled.delivered) and not others and report.damaged is None and not report.hurry
