"""Unit pace: a budget of the hub's units, spread over what is left of its day and month.

The pace is what is left of the budget by the time that is left: it rises after an outage, and a day that
began with a burst goes on slower. Sends take units from a token bucket that fills at this pace. Packs are cut
when a stream has its turn, so messages that wait for the bucket make the packs fuller: the linger follows the
budget by itself, and is as long as the budget needs, and no longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.core.delivery.token_bucket import owing

BURST_S = 60.0
"""A quiet minute's units may be used at once."""
LEAST_LEFT_S = 60.0
"""The last minute of a day is no shorter than this: what is left then does not go in a flood."""
SHORTEST_WAIT_S = 0.001


@dataclass(slots=True)
class UnitsLeft:
    """What is left of one budget, and of its time."""

    units: float
    seconds: float

    @property
    def per_s(self) -> float:
        return max(0.0, self.units) / max(LEAST_LEFT_S, self.seconds)


class UnitPace:
    """A token bucket of units, filled at the pace of what is left. Without a budget it holds nothing up."""

    def __init__(self) -> None:
        self.per_s: float | None = None
        """Units a second; None: without limit."""
        self.ends_in_s = 0.0
        """The time that is left of the budget that sets the pace."""
        self._level = 1.0
        self._at_s: float | None = None

    def set_left(self, budgets: list[UnitsLeft]) -> None:
        """Set the pace by what is left of the budgets: the slowest rules."""
        slowest = min(budgets, key=lambda left: left.per_s, default=None)
        self.per_s = None if slowest is None else slowest.per_s
        self.ends_in_s = 0.0 if slowest is None else max(LEAST_LEFT_S, slowest.seconds)

    def wait_s(self, now: float) -> float:
        """Seconds until a send may go: 0 while the level is positive; one send may overdraw it."""
        if self.per_s is None:
            return 0.0
        gained = 0.0 if self._at_s is None else (now - self._at_s) * self.per_s
        self._at_s = now
        self._level = min(max(1.0, self.per_s * BURST_S), self._level + gained)
        if self._level > 0:
            return 0.0
        return -self._level / self.per_s + SHORTEST_WAIT_S if self.per_s else float("inf")

    def spend(self, units: float, *, urgent: bool = False) -> None:
        """Take units. The debt of what is urgent, and so does not wait, has a bound."""
        if self.per_s is not None:
            self._level = owing(self._level, units, self.per_s if urgent else None)
