"""Runway: how long until the store is full, the backlog drained, the hub's quota used up. Pure.

Every answer is a number of seconds, `math.inf` for never, or None for unknown. Unknown is said where too
little was observed: a forecast from the first seconds of a life, or across a restart, would be a guess.

Rates are taken over minutes and over an hour. What is feared (full, quota) is forecast by the faster of the
two, what is hoped for (drained) by the slower: a burst shows at once, and a pause hides nothing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

SHORT_S, LONG_S = 300.0, 3600.0
SLOT_S = 10.0
"""Looks closer together than this are one: an hour is 360 entries at most."""
LEAST_SHARE = 0.2
"""A window counts once so much of it was observed: a minute of five, twelve of an hour."""
SETTLE_S = 30.0
"""The first seconds do not count: a start writes its files once (ingest's ballast, logs)."""
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Change a second over minutes and over an hour; None where too little was observed."""

    short_per_s: float | None = None
    long_per_s: float | None = None

    @property
    def known(self) -> list[float]:
        """Those that are known."""
        return [rate for rate in (self.short_per_s, self.long_per_s) if rate is not None]


class RateMeter:
    """Rates of one figure. `counts`: it never falls, so a fall is a restart, and observation begins again."""

    def __init__(self, *, counts: bool, settle_s: float = 0.0) -> None:
        self._counts = counts
        self._settle_s = settle_s
        self._first_s: float | None = None
        self._looks: deque[tuple[float, float]] = deque()

    def observe(self, now_s: float, value: float) -> None:
        """Take in a look, by a clock that never jumps."""
        if self._first_s is None:
            self._first_s = now_s
        if now_s < self._first_s + self._settle_s:
            return
        if self._looks and (now_s < self._looks[-1][0] or (self._counts and value < self._looks[-1][1])):
            self._looks.clear()
        if len(self._looks) > 1 and self._looks[-1][0] - self._looks[-2][0] < SLOT_S:
            self._looks.pop()
        self._looks.append((now_s, value))
        while self._looks[0][0] < now_s - LONG_S:
            self._looks.popleft()

    def rates(self) -> Rates:
        return Rates(self._over(SHORT_S), self._over(LONG_S))

    def _over(self, window_s: float) -> float | None:
        if not self._looks:
            return None
        now_s, value = self._looks[-1]
        first_s, first = next(look for look in self._looks if look[0] >= now_s - window_s)
        observed_s = now_s - first_s
        return (value - first) / observed_s if observed_s >= LEAST_SHARE * window_s else None


def used_up_in_s(left: float | None, used: Rates) -> float | None:
    """Seconds until `left` is used up, at the faster of the rates. None: unknown."""
    if left is None or not used.known:
        return None
    if left <= 0:
        return 0.0
    fastest = max(used.known)
    return left / fastest if fastest > 0 else math.inf


def drained_in_s(backlog: float | None, growth: Rates) -> float | None:
    """Seconds until a backlog is gone, at the slower of the rates at which it shrinks. None: unknown."""
    if backlog is None:
        return None
    if backlog <= 0:
        return 0.0
    if not growth.known:
        return None
    slowest = max(growth.known)
    return backlog / -slowest if slowest < 0 else math.inf


def growth(rates: Rates) -> float | None:
    """The rate that is feared: the faster of those that are known."""
    return max(rates.known, default=None)


def a_day(rates: Rates) -> float | None:
    """The amount a day at the rate of the last hour; of the last minutes where no more is known."""
    rate = rates.long_per_s if rates.long_per_s is not None else rates.short_per_s
    return None if rate is None else rate * DAY_S
