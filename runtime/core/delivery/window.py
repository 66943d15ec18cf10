"""The congestion window: the number of sends in flight, within the link budget."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

FIRST_WINDOW = 16
"""So few fill no line: up to here a window doubles, and only a hub that queues for seconds shrinks it."""
OPENING_WINDOW = 2
"""In flight before the first acknowledgement of a connection: a fleet that comes back at once brings its hub
so many for each device. Not 1: a hub that loses the first acknowledgement is found by the second."""
PROMPT_S = 0.5
"""A first acknowledgement as quick as this opens the window to FIRST_WINDOW at once, else it doubles. Of a
fleet only those may come so soon that the hub serves in so long: they add 8 s to its queue, however many the
devices are."""
QUEUED_S = 5.0
"""No line that is not full takes so long for a round trip: the hub queues. A sixth of the acknowledgements'
deadline (1 / QUEUED_SHARE), so that the queue that is left stays far from it."""
QUEUED_SHARE = 6
LEAST_WINDOW = 1
LARGEST_WINDOW = 256
"""More in flight brings nothing measurable, and each one is a repeat after a crash."""
WINDOW_BYTES = 1_048_576
"""No further send while so many bytes are in flight: they stay in memory, on a slow line for long."""
LOOK_WINDOW = 4
"""So few sends queue nowhere: their round trip is the line's own."""
LOOK_AFTER_ROUNDS = 64
"""Full rounds without growing before the line is measured again, which costs two round trips."""
TRY_AFTER_ROUNDS = 8
"""Full rounds without growing before a window twice as large is tried."""
TRY_ROUNDS = 4
"""So many rounds of either window are compared."""
_PAYS = 1.5
"""Gain that a window twice as large must bring: through a full line it brings none, else up to twice."""
_SELDOM = 8
"""After a try in vain the next one comes after one look, then two, four, at last so many."""
_NEAR_S = 0.005
_FAR_S = 0.020


class CongestionWindow:
    """Sends in flight, by the delay they cause (as TCP Vegas does), halved by a loss (as TCP Reno does).

    While the round trip stays near the shortest one seen, the line is not full and the window grows; when it
    becomes much longer, messages only queue somewhere, and it shrinks. A hub that throttles by answering
    later is thereby obeyed; one that throttles by dropping the connection halves it.

    The shortest round trip is that of this connection. It must not be forgotten with time: where messages
    queue all the while, the forgotten one would be replaced by a longer one, for which the window grows. Yet
    the way may become longer within a connection. So a window that does not grow for long is taken back to a
    few in flight for two round trips: what these take is the line's own delay now, no queue (as in TCP BBR).

    A round trip may also be long and vary though nothing queues: a processor or a radio that sleeps or serves
    others most of the time, and then takes all there is. Its shortest one says nothing about the line. So a
    window that does not grow is doubled for some rounds. Where that carries more, the delay was the line's
    own and counts as such from then on; where the line is full, everything only takes twice as long.

    Up to FIRST_WINDOW a delay below `queued_s` has no say: so few fill no line, and round trips that vary by
    themselves (a busy processor, a radio that sleeps) would else be taken for a queue and starve the backlog.

    A fleet that shares one throttling hub sees no short round trip at all, and a window twice as large
    doubles a device's share of the hub, not what the hub carries. So from `queued_s` on a round trip is a
    queue, even where none was shorter: the window shrinks in proportion, down to one, and no larger one is
    tried. And a connection opens with a few sends; the first acknowledgement says whether there is a queue.
    """

    def __init__(self, fixed: int = 0, queued_s: float = QUEUED_S) -> None:
        self._fixed = fixed
        self._queued_s = queued_s
        self.size = fixed or FIRST_WINDOW
        self._opening = False
        """Nothing was acknowledged on this connection."""
        self._doubled_to = self.size
        """Up to here the window doubles: it was as large on the connection before."""
        self._shortest_s = float("inf")
        self._proven_s = 0.0  # a delay that was seen not to be a queue
        self._smooth_s: float | None = None
        self._acks = 0
        self._full = False
        self._sum_s = 0.0  # of the round trips in this round
        self._means_s: deque[float] = deque(maxlen=TRY_ROUNDS)  # of the last full rounds at this size
        self._starting = True
        self._steady = 0  # full rounds in a row without growing
        self._aside: _Look | _Try | None = None
        self._in_vain = 0  # looks to wait for after the last try
        self._to_wait = 0  # of them still to come

    def acked(self, round_trip_s: float, in_flight: int) -> None:
        """A send was acknowledged; `in_flight` counts it too."""
        if self._fixed:
            return
        if self._aside is not None and self._aside.to_pass:
            self._aside.to_pass -= 1
            return
        self._open(round_trip_s)
        self._full = self._full or in_flight >= self.size
        self._acks += 1
        self._sum_s += round_trip_s
        match self._aside:
            case _Look() as look:
                look.shortest_s = min(look.shortest_s, round_trip_s)
                if self._acks >= self.size:
                    self._looked(look)
            case _Try() as attempt:
                if self._acks >= self.size:
                    self._tried(attempt)
            case None:
                self._shortest_s = min(self._shortest_s, round_trip_s)
                before_s = round_trip_s if self._smooth_s is None else self._smooth_s
                self._smooth_s = before_s + (round_trip_s - before_s) / 8
                if self._acks >= self.size:
                    self._round(self._smooth_s, in_flight - 1)

    def _open(self, round_trip_s: float) -> None:
        """The first acknowledgement of a connection says whether there is a queue."""
        if self._opening and round_trip_s <= PROMPT_S:
            self.size = max(self.size, min(FIRST_WINDOW, self._doubled_to))
        self._opening = False

    def _round(self, smooth_s: float, in_flight: int) -> None:
        """A window's worth of acknowledgements came."""
        before, full, mean_s = self.size, self._full, self._sum_s / self._acks
        self._resize(mean_s, smooth_s)
        steady = full and self.size == before < LARGEST_WINDOW
        self._steady = self._steady + 1 if steady else 0
        if steady:
            self._means_s.append(mean_s)
        else:
            self._means_s.clear()
        self._begin_round()
        if self._steady >= LOOK_AFTER_ROUNDS:
            self._aside = _Look(self.size, in_flight)
            self.size = min(self.size, LOOK_WINDOW)
        elif self._steady == TRY_AFTER_ROUNDS and not self._to_wait and 2 * mean_s < self._queued_s:
            self._aside = _Try(self.size, in_flight + 2 * self.size, sum(self._means_s) / TRY_ROUNDS)
            self.size = min(2 * self.size, LARGEST_WINDOW)

    def _resize(self, mean_s: float, smooth_s: float) -> None:
        """Grow or shrink after a round with that mean, where `smooth_s` is the mean of some rounds."""
        own_s = max(self._shortest_s, self._proven_s)
        if mean_s >= self._queued_s:
            self.size = max(LEAST_WINDOW, int(self.size * self._queued_s / mean_s))
            self._starting = False
        elif self.size < FIRST_WINDOW:
            if self._full and 2 * mean_s < self._queued_s:
                self.size = min(FIRST_WINDOW, 2 * self.size)
        elif smooth_s > 3 * own_s + _FAR_S:
            self.size = max(FIRST_WINDOW, self.size * 3 // 4)
            self._starting = False
        elif self._full and smooth_s < 1.5 * own_s + _NEAR_S:
            doubles = self._starting or 2 * self.size <= self._doubled_to
            self.size = min(LARGEST_WINDOW, self.size + (self.size if doubles else max(1, self.size // 8)))

    def _looked(self, look: _Look) -> None:
        """The line's own delay was measured again: by the sends since the look began."""
        self._shortest_s = look.shortest_s
        self._to_wait = max(0, self._to_wait - 1)
        self._back()

    def _tried(self, attempt: _Try) -> None:
        """A round of the larger window is over."""
        attempt.means_s.append(self._sum_s / self._acks)
        full = self._full
        self._begin_round()
        if not full:  # there is not enough to send: nothing can be said
            self._back()
        elif len(attempt.means_s) == TRY_ROUNDS:
            now_s = sum(attempt.means_s) / TRY_ROUNDS
            if self.size * attempt.mean_s >= _PAYS * attempt.size_before * now_s:
                attempt.size_before = self.size
                self._proven_s = now_s
                self._in_vain = 0
            else:
                self._in_vain = min(_SELDOM, 2 * self._in_vain or 1)
                self._to_wait = self._in_vain
            steady = self._steady
            self._back()
            self._steady = 0 if not self._in_vain else steady

    def _begin_round(self) -> None:
        self._acks, self._sum_s, self._full = 0, 0.0, False

    def _back(self) -> None:
        """Go back to the window before a look or a try."""
        if self._aside is not None:
            self.size, self._aside = self._aside.size_before, None
        self._smooth_s = None
        self._steady = 0
        self._means_s.clear()
        self._begin_round()

    def connected(self) -> None:
        """A new connection may take another route, and the hub may have a queue by now."""
        self._back()
        if not self._fixed:
            if not self._opening:  # else nothing was acknowledged on the last one either
                self._doubled_to, self._opening = self.size, True
            self.size = min(self.size, OPENING_WINDOW)
        self._shortest_s = float("inf")
        self._proven_s = 0.0
        self._in_vain = self._to_wait = 0

    def lost(self) -> None:
        """A connection was lost with several in flight."""
        if not self._fixed:
            self._back()
            self.size = max(LEAST_WINDOW, self.size // 2)


@dataclass(slots=True)
class _Look:
    """A look: a few sends in flight, for two round trips."""

    size_before: int
    to_pass: int
    """Acknowledgements still to come that do not count: of earlier sends."""
    shortest_s: float = float("inf")


@dataclass(slots=True)
class _Try:
    """A try: twice as many sends in flight, for some rounds."""

    size_before: int
    to_pass: int
    mean_s: float
    """The mean round trip before the try."""
    means_s: list[float] = field(default_factory=list)
