"""How fast: the window of sends in flight, within what the link may carry."""

from __future__ import annotations

from runtime.core.link import Link

FIRST_WINDOW = 16
LEAST_WINDOW = 1
LARGEST_WINDOW = 256
"""More in flight brings nothing measurable, and each one is a repeat after a crash."""
WINDOW_BYTES = 1_048_576
"""No further send while so many bytes are in flight: they are in memory, and on a slow line for long."""
LOOK_WINDOW = 4
"""So few queue nowhere: their round trip is the line's own."""
LOOK_AFTER_ROUNDS = 64
"""Full rounds without growing before the line is measured anew, which costs two round trips."""
_NEAR_S = 0.005
_FAR_S = 0.020


class Window:
    """Sends in flight, by the delay they cause (as TCP Vegas does), halved by a loss (as TCP Reno does).

    While the round trip stays near the shortest one seen, the line is not full and the window grows; when it
    becomes much longer, messages only queue somewhere, and it shrinks. A hub that throttles by answering
    later is thereby obeyed; one that throttles by dropping the connection halves it.

    The shortest round trip is that of this connection. It must not be forgotten with time: where messages
    queue all the while, the forgotten one would be replaced by a longer one, for which the window grows. Yet
    the way may become longer within a connection. So a window that does not grow for long is taken back to a
    few in flight for two round trips: what these take is the line's own delay now, no queue (as in TCP BBR).

    Up to FIRST_WINDOW the delay has no say: so few fill no line, and round trips that vary by themselves (a
    busy processor, a radio that sleeps) would else be taken for a queue and starve the backlog.
    """

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self.size = fixed or FIRST_WINDOW
        self._shortest_s = float("inf")
        self._smooth_s: float | None = None
        self._acks = 0
        self._full = False
        self._starting = True
        self._steady = 0  # full rounds in a row without growing
        self._size_before = 0  # of the look that is under way
        self._to_pass = 0  # acknowledgements still to come of what was sent before the look

    def acked(self, round_trip_s: float, in_flight: int) -> None:
        """A send was acknowledged; `in_flight` counts it too."""
        if self._fixed:
            return
        if self._size_before:
            self._look(round_trip_s)
            return
        self._shortest_s = min(self._shortest_s, round_trip_s)
        before_s = round_trip_s if self._smooth_s is None else self._smooth_s
        self._smooth_s = before_s + (round_trip_s - before_s) / 8
        self._full = self._full or in_flight >= self.size
        self._acks += 1
        if self._acks >= self.size:
            before, full = self.size, self._full
            self._round(self._smooth_s)
            self._steady = self._steady + 1 if full and self.size == before < LARGEST_WINDOW else 0
            if self._steady >= LOOK_AFTER_ROUNDS:
                self._begin_look(in_flight - 1)

    def _begin_look(self, in_flight: int) -> None:
        """Measure the line's own delay anew."""
        self._size_before, self.size = self.size, min(self.size, LOOK_WINDOW)
        self._to_pass, self._acks, self._steady = in_flight, 0, 0

    def _look(self, round_trip_s: float) -> None:
        """Only what was sent since the look began says something about the line."""
        if self._to_pass:
            self._to_pass -= 1
            return
        self._shortest_s = round_trip_s if not self._acks else min(self._shortest_s, round_trip_s)
        self._acks += 1
        if self._acks >= self.size:
            self._end_look()

    def _end_look(self) -> None:
        if self._size_before:
            self.size, self._size_before = self._size_before, 0
        self._smooth_s = None
        self._acks = self._steady = 0

    def _round(self, smooth_s: float) -> None:
        """A window's worth of acknowledgements came."""
        if self.size < FIRST_WINDOW:
            self.size = min(FIRST_WINDOW, 2 * self.size) if self._full else self.size
        elif smooth_s > 3 * self._shortest_s + _FAR_S:
            self.size = max(FIRST_WINDOW, self.size * 3 // 4)
            self._starting = False
        elif self._full and smooth_s < 1.5 * self._shortest_s + _NEAR_S:
            more = self.size if self._starting else max(1, self.size // 8)
            self.size = min(LARGEST_WINDOW, self.size + more)
        self._acks = 0
        self._full = False

    def connected(self) -> None:
        """A new connection may go another way."""
        self._end_look()
        self._shortest_s = float("inf")

    def lost(self) -> None:
        """A connection was lost with several in flight."""
        if not self._fixed:
            self._end_look()
            self.size = max(LEAST_WINDOW, self.size // 2)
            self._acks = 0


class Pace:
    """What `delivery` asks before it sends."""

    def __init__(self, window: Window | None = None, link: Link | None = None) -> None:
        self.link = link or Link()
        self._window = window or Window()

    @property
    def window(self) -> int:
        """Most sends in flight."""
        return self._window.size

    def open(self, now: float) -> bool:
        """Whether the link may be used at all."""
        return self.link.shut(now) is None

    def allows(self, priority: int, now: float) -> bool:
        """Whether a message of this priority may be sent now."""
        return self.link.allows(priority, now)

    def wait_s(self, now: float) -> float:
        """How long that stays as it is."""
        return self.link.wait_s(now)

    def connected(self) -> None:
        """A new connection stands."""
        self._window.connected()

    def sent(self, size_bytes: int) -> None:
        """A message was sent."""
        self.link.sent(size_bytes)

    def acked(self, round_trip_s: float, in_flight: int) -> None:
        """It was acknowledged."""
        self._window.acked(round_trip_s, in_flight)

    def lost(self) -> None:
        """A connection was lost with several in flight."""
        self._window.lost()
