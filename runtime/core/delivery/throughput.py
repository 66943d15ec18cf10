"""Throughput, for operators: since when the connection stands, its last PUBACK, messages a second."""

from __future__ import annotations

from collections import deque

from runtime.core.delivery.events import Acked, Connected, ConnectionEvent

SLOT_S = 5.0
WINDOW_S = 60.0
"""The rate is that of the last minute, forgotten in slots."""


class Throughput:
    """Times are seconds on one clock that never jumps. `acked_s` may come from the process before us."""

    def __init__(self, now: float, acked_s: float | None = None) -> None:
        self.connected_s: float | None = None
        """The time at which the last client was accepted; valid only while the connection is up."""
        self.acked_s = acked_s
        """The time of the last PUBACK."""
        self._began_s = now
        self._slots: deque[tuple[float, int]] = deque()  # (begin, messages)

    def on_event(self, event: ConnectionEvent, now: float) -> None:
        """Take in an event of the connection."""
        match event:
            case Connected():
                self.connected_s = now
            case Acked():
                self.acked_s = now

    def delivered(self, messages: int, now: float) -> None:
        """Count so many delivered messages."""
        if messages and self._slots and now - self._slots[-1][0] < SLOT_S:
            self._slots[-1] = self._slots[-1][0], self._slots[-1][1] + messages
        elif messages:
            self._slots.append((now, messages))
        while self._slots and now - self._slots[0][0] > WINDOW_S:
            self._slots.popleft()

    def rate_per_s(self, now: float) -> float:
        """Messages delivered a second over the last minute, or since the process began."""
        self.delivered(0, now)
        span_s = min(WINDOW_S, max(SLOT_S, now - self._began_s))
        return sum(messages for _, messages in self._slots) / span_s
