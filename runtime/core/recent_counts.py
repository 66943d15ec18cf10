"""Counts of the events of the last minute: kept in slots, at the same cost for any number."""

from __future__ import annotations

from collections import Counter, deque

SPAN_S = 60.0
SLOTS = 12


class RecentCounts:
    """Counts by name. `what` is one of few; `now_s` is a clock that only goes forward."""

    def __init__(self, span_s: float = SPAN_S) -> None:
        self._span_s = span_s
        self._slots: deque[tuple[float, Counter[str]]] = deque()
        """The slots, each with the time it began, the oldest first."""

    def add(self, what: str, now_s: float) -> None:
        """Count one occurrence of `what`."""
        self._forget(now_s)
        if not self._slots or now_s - self._slots[-1][0] >= self._span_s / SLOTS:
            self._slots.append((now_s, Counter()))
        self._slots[-1][1][what] += 1

    def counts(self, now_s: float) -> dict[str, int]:
        """The count of every event that occurred within the span."""
        self._forget(now_s)
        total: Counter[str] = Counter()
        for _, counted in self._slots:
            total.update(counted)
        return dict(total)

    def _forget(self, now_s: float) -> None:
        while self._slots and now_s - self._slots[0][0] >= self._span_s:
            self._slots.popleft()
