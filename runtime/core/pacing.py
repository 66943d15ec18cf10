"""How fast: the window of sends in flight, and what the link may carry."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WINDOW = 16
LEAST_WINDOW = 1
LARGEST_WINDOW = 256
"""More in flight brings nothing measurable, and each one is a repeat after a crash."""
_NEAR_S = 0.005
_FAR_S = 0.020
_FORGET = 1.02
"""The shortest round trip seen counts a little longer with every round: routes change."""


class Window:
    """Sends in flight, by the delay they cause (as TCP Vegas does), halved by a loss (as TCP Reno does).

    While the round trip stays near the shortest one seen, the line is not full and the window grows; when it
    becomes much longer, messages only queue somewhere, and it shrinks. A hub that throttles by answering
    later is thereby obeyed; one that throttles by dropping the connection halves it.
    """

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self.size = fixed or FIRST_WINDOW
        self._shortest_s = float("inf")
        self._smooth_s = 0.0
        self._acks = 0
        self._full = False
        self._starting = True

    def acked(self, round_trip_s: float, in_flight: int) -> None:
        """A send was acknowledged; `in_flight` counts it too."""
        if self._fixed:
            return
        self._shortest_s = min(self._shortest_s, round_trip_s)
        self._smooth_s += (
            (round_trip_s - self._smooth_s) / 8 if self._acks or self._smooth_s else round_trip_s
        )
        self._full = self._full or in_flight >= self.size
        self._acks += 1
        if self._acks >= self.size:
            self._round()

    def _round(self) -> None:
        if self._smooth_s > 3 * self._shortest_s + _FAR_S:
            self.size = max(LEAST_WINDOW, self.size * 3 // 4)
            self._starting = False
        elif self._full and self._smooth_s < 1.5 * self._shortest_s + _NEAR_S:
            more = self.size if self._starting else max(1, self.size // 8)
            self.size = min(LARGEST_WINDOW, self.size + more)
        self._shortest_s *= _FORGET
        self._acks = 0
        self._full = False

    def lost(self) -> None:
        """A connection was lost with several in flight."""
        if not self._fixed:
            self.size = max(LEAST_WINDOW, self.size // 2)
            self._acks = 0


@dataclass(slots=True)
class Pace:
    """What `delivery` asks before it sends."""

    line: Window
    window_bytes: int = 1_048_576
    """No further send while so many bytes are in flight."""

    @property
    def window(self) -> int:
        return self.line.size

    def open(self, now: float) -> bool:
        """Whether the link may be used at all."""
        return True

    def allows(self, size_bytes: int, priority: int, now: float) -> bool:
        """Whether a message may be sent now."""
        return True

    def may_upload(self, now: float) -> bool:
        """Whether a file may be uploaded now."""
        return True

    def wait_s(self, now: float) -> float:
        """When it may be otherwise."""
        return 60.0

    def sent(self, size_bytes: int, now: float) -> None:
        """Something was sent."""

    def acked(self, round_trip_s: float, in_flight: int) -> None:
        """It was acknowledged."""
        self.line.acked(round_trip_s, in_flight)

    def lost(self) -> None:
        """A connection was lost with several in flight."""
        self.line.lost()
