"""PUBACKs that one connection is owed: always in order, each at its time, or kept back. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

PATIENCE_S = 10.0
"""A throttled connection whose PUBACKs are more than this behind is dropped."""


class PubackQueue:
    """A queue in strict order. Times are seconds of any one clock that does not jump."""

    def __init__(self) -> None:
        self._owed: deque[tuple[float, int]] = deque()
        self._last_due_s = float("-inf")

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, packet_ids: Iterable[int], now_s: float, delay_s: float, per_s: float | None) -> None:
        """Add PUBACKs that are to leave `delay_s` from now. Delays overlap; a throttle
        makes one wait for another.
        """
        spacing_s = 1 / per_s if per_s else 0.0
        for packet_id in packet_ids:
            self._last_due_s = max(now_s + delay_s, self._last_due_s + spacing_s)
            self._owed.append((self._last_due_s, packet_id))

    def reschedule(self, now_s: float, delay_s: float, per_s: float | None) -> None:
        """Apply other rules from now on: a PUBACK that would leave earlier under them does."""
        before, self._owed, self._last_due_s = self._owed, deque(), float("-inf")
        self.add((packet_id for _, packet_id in before), now_s, delay_s, per_s)
        pairs = zip(before, self._owed, strict=True)
        self._owed = deque((min(old_s, new_s), packet_id) for (old_s, packet_id), (new_s, _) in pairs)
        self._last_due_s = self._owed[-1][0] if self._owed else float("-inf")

    def due(self, now_s: float, most: int) -> list[int]:
        """Take the PUBACKs that may leave now, at most `most`."""
        packet_ids: list[int] = []
        while self._owed and len(packet_ids) < most and self._owed[0][0] <= now_s:
            packet_ids.append(self._owed.popleft()[1])
        return packet_ids

    def next_due_s(self) -> float | None:
        """The time at which the next one may leave."""
        return self._owed[0][0] if self._owed else None

    def lag_s(self, now_s: float) -> float:
        """The seconds by which the throttle has put us behind."""
        return self._last_due_s - now_s if self._owed else 0.0
