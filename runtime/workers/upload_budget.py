"""The budget of units, as upload keeps it: foresees whether it holds, and sheds what it cannot hold where a
stream says so. It is not a worker of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from loguru import logger

from runtime.adapters.store.upload_reader import StoredLevel
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.metering import UNIT_BYTES
from runtime.core.delivery.outgoing import Outgoing
from runtime.core.delivery.over_budget import (
    REASON,
    BudgetLeft,
    Forecast,
    Shedding,
    StreamDemand,
    shedding,
    stays,
)
from runtime.core.delivery.packing import PackFormat
from runtime.core.delivery.read_planner import lane_of
from runtime.core.delivery.unit_counts import UnitCounts
from runtime.core.log_events import LogEvent
from runtime.core.message import StreamName
from runtime.settings import Settings

LOOK_EVERY_S = 10.0
AGAIN_S = 1.0
"""Until the next look where messages were shed: others were behind them in the store."""
FULL_BYTES = UNIT_BYTES - 256
"""Bytes of a full pack of one unit, besides its name and properties, about."""
LEAST_MEASURED = 100
"""So many messages of a stream must have gone for their size to be taken from what was sent."""


class BudgetWatch:
    """Looks at what waits every few seconds, while there is a budget of units."""

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        link: LinkBudget,
        levels: Callable[[], list[StoredLevel]],
        sent: Callable[[str], UnitCounts],
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._link = link
        self._levels = levels
        self._sent = sent
        self._forecast = Forecast()
        self._look_at_s = 0.0

    @property
    def over(self) -> bool:
        """True while the budget cannot hold what waits and comes."""
        return self._forecast.over

    def look(self, now: float) -> None:
        """Foresee, and shed. Raises Retryable and StoreDamaged where the store cannot be read."""
        left = self._link.units_left()
        if left is None:
            self._forecast.over = False
            return
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_EVERY_S
        demands = self._demands()
        before = self._forecast.over
        self._forecast.look(now, left, demands)
        if self._forecast.over != before:
            self._log(demands)
        if self._forecast.over and self._shed(demands, left, now):
            self._look_at_s = now + AGAIN_S

    def _demands(self) -> dict[str, StreamDemand]:
        """What waits and came, by stream, all leaves together, less what ingest has still to remove."""
        levels: dict[StreamName, list[StoredLevel]] = {}
        for level in self._levels():
            levels.setdefault(level.stream.without_leaf, []).append(level)
        gone = Counter(_place(message) for message in self._delivery.settled if message.candidate.stream)
        return {str(name): self._demand(name, found, gone) for name, found in levels.items()}

    def _demand(
        self, name: StreamName, levels: list[StoredLevel], gone: Counter[tuple[StreamName, int]]
    ) -> StreamDemand:
        waiting: Counter[int] = Counter()
        for level in levels:
            waiting[level.priority] += level.messages
        for priority in waiting:
            waiting[priority] = max(0, waiting[priority] - gone[name, priority])
        stored_bytes = sum(level.bytes for level in levels) / max(1, sum(level.messages for level in levels))
        policy = self._settings.of_stream(name).over_budget
        stored = sum(level.stored for level in levels)
        return StreamDemand(policy, self._units_each(name, stored_bytes), waiting, stored)

    def _units_each(self, name: StreamName, stored_bytes: float) -> float:
        """Units of one message in a full pack; by what was sent, else by what is stored."""
        sent = self._sent(str(name))
        measured = sent.messages >= LEAST_MEASURED
        if self._settings.of_stream(name).pack is not PackFormat.NONE:
            return max(1.0, sent.bytes / sent.messages if measured else stored_bytes) / FULL_BYTES
        if measured:
            return sent.units / sent.messages
        return max(1, math.ceil(stored_bytes / UNIT_BYTES))

    def _shed(self, demands: dict[str, StreamDemand], left: BudgetLeft, now: float) -> bool:
        """Drop what goes. True if there was any."""
        plans = shedding(demands, left.hourly)
        if not plans:
            return False
        choice = _Choice(plans, self._link.is_urgent)
        return self._delivery.shed(choice.goes, REASON, now) > 0

    def _log(self, demands: dict[str, StreamDemand]) -> None:
        if not self._forecast.over:
            logger.info("the budget of units holds what comes again")
            return
        heaviest = sorted(demands.items(), key=lambda one: -one[1].waiting_units)[:5]
        named = ", ".join(f"{name} ({demand.over_budget})" for name, demand in heaviest)
        logger.bind(event=LogEvent.OVER_BUDGET).warning(
            "the budget of units cannot hold what waits and comes, even in full packs: {}", named
        )


class _Choice:
    """Chooses what goes of the messages in the send queue, which come in store order."""

    def __init__(self, plans: dict[str, Shedding], is_urgent: Callable[[int], bool]) -> None:
        self._plans = plans
        self._is_urgent = is_urgent
        self._left = {name: plan.at_priority for name, plan in plans.items()}

    def goes(self, message: Outgoing) -> bool:
        name, priority = _place(message)
        plan = self._plans.get(str(name))
        if plan is None or self._is_urgent(priority):
            return False
        if plan.one_in > 1:
            return not stays(message.candidate.id, plan.one_in)
        if priority < plan.below_priority:
            return True
        if priority == plan.below_priority and self._left[str(name)] > 0:
            self._left[str(name)] -= 1
            return True
        return False


def _place(message: Outgoing) -> tuple[StreamName, int]:
    return lane_of(message.candidate)[0].without_leaf, message.candidate.priority
