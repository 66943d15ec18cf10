"""Over budget: what happens to messages that a budget of units cannot hold, even in full packs.

A stream's `over_budget` says it: its messages wait for another day, or the least important go, or one in N
stays. Whether a budget holds is a forecast: what waits and what will have come by the end of the budget's day
or month, against what is left of it. Nothing is given up while less than an hour's share of the budget waits,
nor on what came within minutes: the arrivals of an hour are believed for a day, those of a day for a month.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

RULE = "must be wait, drop-lowest, or sample:N with N from 2 to 1,000,000"
REASON = "over_budget"
"""The reason in the ledger."""
HOUR_S = 3_600.0
DAY_S = 86_400.0
OBSERVED_S = 3_600.0
"""Arrivals are observed over this time, and nothing is foreseen from less: they are believed for a day."""
OBSERVED_FOR_LONGER_S = DAY_S
"""The same where the budget ends later: a machine that works by day fills no month by its busiest hour."""
_LOOKS = 360
"""The looks of that time that are kept."""
_SAMPLE = re.compile(r"sample:([1-9]\d{0,6})")
_LARGEST_SAMPLE = 1_000_000


class Remedy(Enum):
    """The fate of the messages of a stream that the budget cannot hold."""

    WAIT = "wait"
    DROP_LOWEST = "drop-lowest"
    SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The setting `over_budget` of a stream."""

    remedy: Remedy = Remedy.WAIT
    one_in: int = 1
    """Of a sample: one message in so many stays."""

    @classmethod
    def parse(cls, text: str) -> OverBudget:
        """Parse `wait`, `drop-lowest` or `sample:N`. Raises ValueError."""
        if text in (Remedy.WAIT.value, Remedy.DROP_LOWEST.value):
            return cls(Remedy(text))
        match = _SAMPLE.fullmatch(text)
        if match is None or not 2 <= int(match[1]) <= _LARGEST_SAMPLE:
            raise ValueError(RULE)
        return cls(Remedy.SAMPLE, int(match[1]))

    def __str__(self) -> str:
        return f"sample:{self.one_in}" if self.remedy is Remedy.SAMPLE else self.remedy.value


def stays(id: int, one_in: int) -> bool:
    """True if a message is one of the sample: the answer is the same after every restart."""
    return zlib.crc32(id.to_bytes(8, "little")) % one_in == 0


@dataclass(frozen=True, slots=True)
class StreamDemand:
    """What waits of one stream, and what ever came."""

    over_budget: OverBudget
    units_each: float
    """Units of one message in a full pack; of one that goes alone, at least 1."""
    waiting: Mapping[int, int]
    """Messages that wait, by priority."""
    stored: int
    """Messages that were ever stored."""

    @property
    def waiting_units(self) -> float:
        return self.units_each * sum(self.waiting.values())


@dataclass(frozen=True, slots=True)
class Shedding:
    """What goes of one stream now."""

    one_in: int = 1
    """All go that are not in the sample of one in so many; 1: none by sampling."""
    below_priority: int = 0
    """All of a lower priority go."""
    at_priority: int = 0
    """Of this one so many, the oldest first."""


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """A budget, as far as a forecast needs it."""

    per_s: float
    """Units a second that are left on average, until its end."""
    ends_in_s: float
    hourly: float
    """An hour's share of the whole of it."""


class Forecast:
    """Whether a budget holds what waits and comes. Times are on one clock that never jumps."""

    def __init__(self) -> None:
        self.over = False
        """The budget cannot hold it."""
        self._stored: dict[str, int] = {}
        """Messages that were ever stored, by stream, at the last look."""
        self._arrived = 0.0
        """Units that have arrived since the first look."""
        self._arrivals: deque[tuple[float, float]] = deque()

    def look(self, now: float, left: BudgetLeft, demands: Mapping[str, StreamDemand]) -> None:
        """Take in what waits and what came, by stream."""
        waiting = sum(demand.waiting_units for demand in demands.values())
        for name, demand in demands.items():  # only what is new: its size is measured again all the time
            more = demand.stored - self._stored.get(name, demand.stored)
            self._arrived += demand.units_each * max(0, more)
        self._stored = {name: demand.stored for name, demand in demands.items()}
        arriving_per_s = self._observe(now, OBSERVED_S if left.ends_in_s <= DAY_S else OBSERVED_FOR_LONGER_S)
        needed = waiting + (arriving_per_s or 0.0) * left.ends_in_s
        holds = needed <= left.per_s * left.ends_in_s + left.hourly
        if holds:
            self.over = False
        elif arriving_per_s is not None and waiting > left.hourly:
            self.over = True

    def _observe(self, now: float, window_s: float) -> float | None:
        """Units a second that arrived in the last `window_s`; None where less was observed."""
        looks = self._arrivals
        if not looks or now - looks[-1][0] >= window_s / _LOOKS:
            looks.append((now, self._arrived))
        while len(looks) > 1 and looks[1][0] <= now - window_s:
            looks.popleft()
        first_s, first = looks[0]
        return (self._arrived - first) / (now - first_s) if now - first_s >= window_s else None


def shedding(demands: Mapping[str, StreamDemand], hourly: float) -> dict[str, Shedding]:
    """What goes of each stream where the budget cannot hold all: of the samples all but one in N, and of the
    least important so many that no more than an hour's share waits.
    """
    plans = {
        name: Shedding(demand.over_budget.one_in)
        for name, demand in demands.items()
        if demand.over_budget.remedy is Remedy.SAMPLE
    }
    dropping = {
        name: demand
        for name, demand in demands.items()
        if demand.over_budget.remedy is Remedy.DROP_LOWEST and demand.waiting_units
    }
    excess = sum(demand.waiting_units for demand in demands.values()) - hourly
    droppable = sum(demand.waiting_units for demand in dropping.values())
    for name, demand in dropping.items():
        share = min(1.0, max(0.0, excess) / droppable)
        plans[name] = _lowest(demand, int(share * sum(demand.waiting.values())))
    return plans


def _lowest(demand: StreamDemand, messages: int) -> Shedding:
    """The `messages` of lowest priority."""
    for priority, waiting in sorted(demand.waiting.items()):
        if messages <= waiting:
            return Shedding(below_priority=priority, at_priority=messages)
        messages -= waiting
    return Shedding()
