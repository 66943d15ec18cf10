"""The settings of the link: data only, as in `settings.py`."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.core.delivery.link_budget import HOURS_RULE, TimeWindow, parse_hours
from runtime.setting_rule import setting


@dataclass(frozen=True)
class LinkSettings:
    """The limits of the link, where it costs money. 0: no limit. Days are those of UTC."""

    messages_per_s: float = setting(0.0, "most messages a second", low=0)
    bytes_per_s: float = setting(0.0, "most bytes a second", low=0)
    sends_per_s: float = setting(
        0.0,
        "most sends of telemetry a second, of any size: the share of a hub that a whole fleet drains into",
        low=0,
        advanced=True,
    )
    messages_per_day: int = setting(0, "most messages a day", low=0)
    bytes_per_day: int = setting(0, "most bytes a day", low=0)
    messages_per_month: int = setting(0, "most messages a month", low=0)
    bytes_per_month: int = setting(0, "most bytes a month", low=0)
    units_per_day: int = setting(
        0, "most units of 4 KiB a day, as the hub bills them, spread over the day", low=0
    )
    units_per_month: int = setting(0, "most units of 4 KiB a month, spread over the month", low=0)
    hours: tuple[TimeWindow, ...] = setting(
        (),
        "when it may be used, as in 22:00-06:00 (UTC); empty: always",
        written=tuple[str, ...],
        parse=parse_hours,
        text=HOURS_RULE,
    )
    urgent_priority: int = setting(
        10, "messages of at least this priority pass all of the above; 10 none", low=0, high=10
    )
    reset_spread_s: float = setting(
        120.0,
        "a quota of the hub that is used up ends at 00:00 UTC for all devices: they come back within so long",
        low=0,
        high=43_200,
        advanced=True,
    )
