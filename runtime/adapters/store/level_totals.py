"""The amounts stored, by stream and priority, as they are after the last commit: in memory, for decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.adapters.store.counters import StoreCounters
from runtime.core.ingest.quota import NOTHING, Amount
from runtime.core.message import StreamName


class LevelTotals:
    """The counters of the store, the rows beyond its last fold included."""

    def __init__(self, rows: Iterable[tuple[int, int, int, int]], names: Mapping[int, StreamName]) -> None:
        self._names = names
        self.set(rows)

    def set(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Take over all levels: (stream, priority, messages, bytes)."""
        self.levels: dict[StreamName, dict[int, Amount]] = {}
        self.total = NOTHING
        for number, priority, messages, size in rows:
            self._add(number, int(priority), Amount(messages, size))

    def committed(self, changes: StoreCounters) -> None:
        """Add what a commit changed."""
        for (number, priority), change in changes.levels.items():
            self._add(number, priority, change.amount)

    def _add(self, number: int, priority: int, amount: Amount) -> None:
        level = self.levels.setdefault(self._names[number], {})
        level[priority] = level.get(priority, NOTHING).plus(amount)
        self.total = self.total.plus(amount)
