"""Runway report: how long the store, the backlog and the budgets last, by the rates that were observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.adapters.process.status_file import StatusRecord
from runtime.core.operations.runway import Rates, a_day, drained_in_s, used_up_in_s
from runtime.settings import Settings

NEVER = "never"
"""A time that will not come: JSON has no infinity. None stands for unknown."""


def runway_of(state: Mapping[str, Any], sentinel: StatusRecord, settings: Settings | None) -> dict[str, Any]:
    """The runway section of an overview. `settings`: None where the configuration is wrong."""
    backlog, hub = state["backlog"], state["hub"]
    stored = rates_of(sentinel, "store_messages"), rates_of(sentinel, "store_bytes")
    ends_s = [
        used_up_in_s(backlog["room_messages"], stored[0]),
        used_up_in_s(backlog["room_bytes"], stored[1]),
    ]
    known = [end_s for end_s in ends_s if end_s is not None]
    return {
        "full_in_s": _shown(min(known, default=None)),
        "drained_in_s": _shown(drained_in_s(backlog["messages"], stored[0])),
        "quota_in_s": _shown(_quota_in_s(hub, sentinel, settings)),
        "written_bytes_a_day": _whole(a_day(rates_of(sentinel, "written_bytes"))),
        "units_a_day": _whole(a_day(rates_of(sentinel, "units"))),
    }


def _quota_in_s(hub: Mapping[str, Any], sentinel: StatusRecord, settings: Settings | None) -> float | None:
    """Until a budget of the day for the link is used up; never where there is none."""
    if settings is None:
        return None
    budgets = (
        (settings.link.messages_per_day, hub["sent_today"], "sent_messages"),
        (settings.link.bytes_per_day, hub["bytes_today"], "sent_bytes"),
    )
    ends_s = [math.inf]
    for most, sent, name in budgets:
        if most:
            end_s = None if sent is None else used_up_in_s(most - sent, rates_of(sentinel, name))
            if end_s is None:
                return None
            ends_s.append(end_s)
    return min(ends_s)


def rates_of(sentinel: StatusRecord, name: str) -> Rates:
    """The rates of one figure that the sentinel observed."""
    table = sentinel.values.get("rates")
    pair = table.get(name) if isinstance(table, Mapping) else None
    if not isinstance(pair, list) or len(pair) != 2:
        return Rates()
    return Rates(*(one if isinstance(one, int | float) and math.isfinite(one) else None for one in pair))


def _shown(seconds: float | None) -> float | str | None:
    if seconds is None:
        return None
    return NEVER if math.isinf(seconds) else round(seconds)


def _whole(amount: float | None) -> int | None:
    return None if amount is None else round(amount)
