"""Link budget: rates, budgets per day and month, allowed hours, a kill switch, a used-up quota.

For links that cost money. Messages of an urgent priority pass rates, budgets and hours; nothing passes the
kill switch or the hub's own quota. Days and months are those of UTC. A wall clock that was never set ends no
day: a budget is renewed when a believable clock shows a later day than the one that was booked, or after 25
hours of running, restarts apart.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from runtime.core.delivery.metering import units
from runtime.core.delivery.over_budget import HOUR_S, BudgetLeft
from runtime.core.delivery.token_bucket import SharedTokenBucket, TokenBucket
from runtime.core.delivery.unit_counts import StreamUnits, UnitCounts, counted_as, streams_of
from runtime.core.delivery.unit_pace import UnitPace, UnitsLeft

BELIEVABLE_S = 1_704_067_200.0
"""2024-01-01: a wall clock before this was never set."""
_HOURS = r"(?!(\d\d:\d\d)\s*-\s*\1$)([01]\d|2[0-3]):([0-5]\d)\s*-\s*(?:([01]\d|2[0-3]):([0-5]\d)|24:00)"
HOURS_RULE = "must read HH:MM-HH:MM, in UTC, and end at another time than it begins"
DAY_S = 86_400.0
MONTH_S = 31 * DAY_S
LONGEST_DAY_S, LONGEST_MONTH_S = 25 * 3_600, 31 * 86_400 + 3_600
"""An hour more than the calendar's: a day that ended just before midnight would give its budget twice.
Running time is booked in steps, the first of which began before the day, and clocks are corrected."""
STEP_S = 600
"""Running time is booked in steps of this length: each one is a write to the disk."""
ASK_EVERY_S = 3600.0
"""Interval of the inquiries while the quota is reported used up: it can be raised, and clocks are wrong."""
SWITCHED_OFF = "switched off"
NONE_URGENT = 10
"""An urgent priority that no message has."""


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """A part of every day, in minutes since 00:00 UTC: from the start to before the end, over midnight where
    the end is less than the start.
    """

    start_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> TimeWindow:
        """Parse `22:00-06:00`. Raises ValueError."""
        parts = re.fullmatch(_HOURS, text)
        if parts is None:
            raise ValueError(HOURS_RULE)
        start_h, start_m, end_h, end_m = (int(part) for part in parts.groups("0")[1:])
        if parts[4] is None:
            end_h = 24
        return cls(start_h * 60 + start_m, end_h * 60 + end_m)

    def __contains__(self, minute: int) -> bool:
        if self.start_min <= self.end_min:
            return self.start_min <= minute < self.end_min
        return minute >= self.start_min or minute < self.end_min

    def __str__(self) -> str:
        return "{:02}:{:02}-{:02}:{:02}".format(*divmod(self.start_min, 60), *divmod(self.end_min, 60))


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """The limits agreed for the link. 0 means without limit."""

    messages_per_s: float = 0.0
    bytes_per_s: float = 0.0
    messages_per_day: int = 0
    bytes_per_day: int = 0
    messages_per_month: int = 0
    bytes_per_month: int = 0
    hours: tuple[TimeWindow, ...] = ()
    """When it may be used; empty: always."""
    urgent_priority: int = NONE_URGENT
    """Messages of at least this priority pass rates, budgets and hours."""
    sends_per_s: float = 0.0
    """Sends of any size: the device's share of what the hub serves a fleet."""
    reset_spread_s: float = 120.0
    """A hub's quota is renewed for all its devices at once: they come back spread over this time."""
    units_per_day: int = 0
    units_per_month: int = 0
    """Units that the hub bills, spread over the day and the month."""
    is_free: bool = field(init=False, repr=False, compare=False)
    """There is neither a budget nor are there hours: read several times for every message."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_free", not (self.has_budget() or self.hours))

    def has_budget(self) -> bool:
        """True if messages or bytes are limited by day or month."""
        budgets = self.messages_per_day or self.bytes_per_day or self.messages_per_month
        return bool(budgets or self.bytes_per_month or self.has_unit_budget())

    def has_unit_budget(self) -> bool:
        """True if the units that the hub bills are limited."""
        return bool(self.units_per_day or self.units_per_month)


@dataclass(slots=True)
class LinkUsage:
    """Messages, bytes and units sent in the current day and month; the figures survive restarts."""

    day: str = ""
    month: str = ""
    day_messages: int = 0
    day_bytes: int = 0
    month_messages: int = 0
    month_bytes: int = 0
    day_ran_s: int = 0
    month_ran_s: int = 0
    """Running time in seconds since the day and the month began."""
    day_units: int = 0
    month_units: int = 0
    """What the hub bills for."""
    streams: dict[str, StreamUnits] = field(default_factory=dict)
    """The same and more, by stream."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> LinkUsage:
        """The usage out of saved figures; an unusable figure counts as nothing."""
        usage = cls()
        for name, kind in (("day", str), ("month", str)):
            if isinstance(saved.get(name), kind):
                setattr(usage, name, saved[name])
        for name in _COUNTS:
            if isinstance(saved.get(name), int):
                setattr(usage, name, saved[name])
        usage.streams = streams_of(saved.get("streams"))
        return usage

    def renew(self, wall_s: float) -> None:
        """Begin a new day or month where the clock says so and can be believed."""
        if wall_s < BELIEVABLE_S:
            return
        today = datetime.fromtimestamp(wall_s, UTC)
        day, month = today.strftime("%Y-%m-%d"), today.strftime("%Y-%m")
        if day > self.day:
            self._begin_day(day)
        if month > self.month:
            self._begin_month(month)

    def ran(self, more_s: int) -> None:
        """Add running time: a day or month that has lasted long enough ends, whatever the clock shows."""
        self.day_ran_s += more_s
        self.month_ran_s += more_s
        if self.day_ran_s >= LONGEST_DAY_S:
            self._begin_day("")
        if self.month_ran_s >= LONGEST_MONTH_S:
            self._begin_month("")

    def _begin_day(self, day: str) -> None:
        self.day, self.day_messages, self.day_bytes, self.day_ran_s = day, 0, 0, 0
        self.day_units = 0
        for stream in self.streams.values():
            stream.day = UnitCounts()

    def _begin_month(self, month: str) -> None:
        self.month, self.month_messages, self.month_bytes, self.month_ran_s = month, 0, 0, 0
        self.month_units = 0
        self.streams = {name: StreamUnits(one.day) for name, one in self.streams.items() if one.day.units}

    def add(self, messages: int, size_bytes: int, billed_units: int = 0) -> None:
        self.day_messages += messages
        self.month_messages += messages
        self.day_bytes += size_bytes
        self.month_bytes += size_bytes
        self.day_units += billed_units
        self.month_units += billed_units

    def count(self, stream: str, counts: UnitCounts) -> None:
        """Count by stream what went out."""
        stream = counted_as(stream, self.streams)
        counted = self.streams.setdefault(stream, StreamUnits())
        counted.day.add(counts)
        counted.month.add(counts)


_COUNTS = [field.name for field in fields(LinkUsage) if field.type == "int"]


class FilePermit(Enum):
    """The class of files whose uploads may go on."""

    ALL = "all"
    SOON = "all, in a moment"
    URGENT = "only the urgent"
    NONE = "none"


class LinkBudget:
    """The budget that decides whether a message or a file may be sent now."""

    def __init__(self, policy: LinkPolicy | None = None, usage: LinkUsage | None = None) -> None:
        self.policy = policy or LinkPolicy()
        self.usage = usage or LinkUsage()
        self.off = False
        """The kill switch."""
        self.stopping = False
        """The process is to end: no further send begins, sends in flight may arrive."""
        self._quota_until_s = 0.0
        self._ask_at_s = 0.0
        self._booked_s: float | None = None
        """The time up to which the running time is booked."""
        self._wall_s = 0.0
        self._messages = TokenBucket(self.policy.messages_per_s)
        self._bytes = SharedTokenBucket(self.policy.bytes_per_s)
        self._sends = TokenBucket(self.policy.sends_per_s)
        self._units = UnitPace()
        self._set_pace()

    def set_policy(self, policy: LinkPolicy) -> None:
        """Permit what this policy permits from now on. What is used up stays used up."""
        before, self.policy = self.policy, policy
        if policy.messages_per_s != before.messages_per_s:
            self._messages = TokenBucket(policy.messages_per_s)
        if policy.bytes_per_s != before.bytes_per_s:
            self._bytes = SharedTokenBucket(policy.bytes_per_s)
        if policy.sends_per_s != before.sends_per_s:
            self._sends = TokenBucket(policy.sends_per_s)
        self._set_pace()

    def set_time(self, wall_s: float, now: float) -> None:
        """Take in the wall clock's time at `now`, which is read from a clock that does not jump.

        A clock that was years ahead books a day that does not come for years. So a day also ends when it has
        lasted for one, and a month for the longest: never sooner than agreed, whatever the wall clock does.
        """
        self._wall_s = wall_s
        self._booked_s = now if self._booked_s is None else self._booked_s
        steps = int((now - self._booked_s) // STEP_S)
        if steps:
            self._booked_s += steps * STEP_S
            self.usage.ran(steps * STEP_S)
        self.usage.renew(wall_s)
        self._set_pace()

    def _set_pace(self) -> None:
        """Spread what is left of the budgets of units over what is left of their time."""
        policy, used, known = self.policy, self.usage, self._wall_s >= BELIEVABLE_S
        budgets = []
        if policy.units_per_day:
            left_s = _until_midnight_s(self._wall_s) if known else DAY_S - used.day_ran_s
            budgets.append(UnitsLeft(policy.units_per_day - used.day_units, left_s))
        if policy.units_per_month:
            left_s = _until_month_ends_s(self._wall_s) if known else MONTH_S - used.month_ran_s
            budgets.append(UnitsLeft(policy.units_per_month - used.month_units, left_s))
        self._units.set_left(budgets)

    def units_left(self) -> BudgetLeft | None:
        """What is left of the budgets of units; None where there is none."""
        shares = [self.policy.units_per_day / DAY_S] if self.policy.units_per_day else []
        shares += [self.policy.units_per_month / MONTH_S] if self.policy.units_per_month else []
        if self._units.per_s is None:
            return None
        return BudgetLeft(self._units.per_s, self._units.ends_in_s, min(shares) * HOUR_S)

    def record_quota_used_up(self, now: float, wall_s: float, draw: float) -> None:
        """The hub's daily quota is used up: no send before 00:00 UTC, or for an hour without a clock."""
        reset_s = _until_midnight_s(wall_s) if wall_s >= BELIEVABLE_S else 3600.0
        self._quota_until_s = now + reset_s + draw * self.policy.reset_spread_s
        self._ask_at_s = now + ASK_EVERY_S

    def record_quota_renewed(self) -> None:
        """The hub takes messages again."""
        self._quota_until_s = 0.0

    def ask_again(self, now: float) -> bool:
        """True, once an hour, if the hub is to be asked now whether its quota is still used up."""
        if self.off or not self._ask_at_s <= now < self._quota_until_s:
            return False
        self._ask_at_s = now + ASK_EVERY_S
        return True

    def shut(self, now: float) -> str | None:
        """The reason why nothing at all may be sent, or None."""
        if self.off:
            return SWITCHED_OFF
        if self.stopping:
            return "upload is stopping"
        if now < self._quota_until_s:
            return "the hub's daily quota is used up until 00:00 UTC"
        return None

    def is_open(self, now: float) -> bool:
        """True if the link may be used at all."""
        return self.shut(now) is None

    def passes(self, priority: int) -> bool:
        """True if budgets and hours let a message of this priority go; rates only make it wait its turn."""
        return self.policy.is_free or self.barred() is None or self.is_urgent(priority)

    def barred(self) -> str | None:
        """The reason why only urgent messages may be sent, or None."""
        used, policy = self.usage, self.policy
        if policy.is_free:
            return None
        for most, have, reason in (
            (policy.messages_per_day, used.day_messages, "the day's budget of messages is used up"),
            (policy.bytes_per_day, used.day_bytes, "the day's budget of bytes is used up"),
            (policy.messages_per_month, used.month_messages, "the month's budget of messages is used up"),
            (policy.bytes_per_month, used.month_bytes, "the month's budget of bytes is used up"),
            (policy.units_per_day, used.day_units, "the day's budget of units is used up"),
            (policy.units_per_month, used.month_units, "the month's budget of units is used up"),
        ):
            if most and have >= most:
                return reason
        return None if self._in_hours() else "outside the allowed hours"

    def closes_within(self, seconds: float) -> bool:
        """True if the allowed hours end so soon."""
        return not self._in_hours(later_s=seconds)

    def _in_hours(self, later_s: float = 0.0) -> bool:
        if not self.policy.hours:
            return True
        if self._wall_s < BELIEVABLE_S:
            return False  # the hour is not known: traffic that costs money waits
        minute = int((self._wall_s + later_s) % 86_400) // 60
        return any(minute in window for window in self.policy.hours)

    def allows(self, priority: int, now: float) -> bool:
        """True if a message of this priority may be sent now."""
        if self.is_urgent(priority):
            return True
        if self.barred() is not None:
            return False
        return not (
            self._bytes.messages_wait_s(now)
            or self._messages.wait_s(now)
            or self._sends.wait_s(now)
            or self._units.wait_s(now)
        )

    def is_urgent(self, priority: int) -> bool:
        """True if a message of this priority passes rates, budgets and hours."""
        return priority >= self.policy.urgent_priority

    def files(self, now: float) -> FilePermit:
        """The class of files whose uploads may go on now."""
        if self.shut(now) is not None:
            return FilePermit.NONE
        if self.barred() is not None:
            return FilePermit.URGENT
        return FilePermit.SOON if self._bytes.files_wait_s(now) else FilePermit.ALL

    def takes_file(self, priority: int, now: float) -> bool:
        """True if the upload of a file may begin. Each block of it waits for the rate by itself."""
        permit = self.files(now)
        if self._units.wait_s(now) and not self.is_urgent(priority):
            return False  # it costs as much as three messages
        return permit in (FilePermit.ALL, FilePermit.SOON) or (
            permit is FilePermit.URGENT and self.is_urgent(priority)
        )

    def sent(self, size_bytes: int, priority: int = 0) -> None:
        """Charge a message of so many bytes."""
        urgent = self.is_urgent(priority)
        self.usage.add(1, size_bytes, units(size_bytes))
        self._units.spend(units(size_bytes), urgent=urgent)
        self._messages.spend(1, urgent=urgent)
        self._sends.spend(1, urgent=urgent)
        self._bytes.spend(size_bytes, urgent=urgent)

    def managed(self, size_bytes: int) -> None:
        """Charge twin requests, commands or calls, either way: messages of 4 KiB."""
        messages = units(size_bytes)
        self.usage.add(messages, size_bytes)
        self._messages.spend(messages)
        self._bytes.spend(size_bytes)

    def correct_charge(self, more_bytes: int) -> None:
        """Correct the charge of a message: it had so many bytes more than charged (fewer, where negative)."""
        self.usage.add(0, more_bytes)
        self._bytes.spend(more_bytes)

    def count(self, stream: str, counts: UnitCounts, charged_units: int = 0) -> None:
        """Count by stream what the hub bills for; `charged_units` of it were charged when they were sent."""
        more_units = counts.units - charged_units
        self.usage.add(0, 0, more_units)
        self.usage.count(stream, counts)
        self._units.spend(more_units)

    def uploaded(self, size_bytes: int, priority: int = 0) -> None:
        """Charge a part of a file of so many bytes."""
        self.usage.add(0, size_bytes)
        self._bytes.spend(0, size_bytes, urgent=self.is_urgent(priority))

    def wait_s(self, now: float) -> float:
        """Seconds for which no answer changes by itself, at most a minute."""
        if now < self._quota_until_s:
            return min(60.0, self._quota_until_s - now)
        waits = (
            self._messages.wait_s(now),
            self._sends.wait_s(now),
            self._bytes.messages_wait_s(now),
            self._bytes.files_wait_s(now),
            self._units.wait_s(now),
        )
        return min([60.0, *(wait_s for wait_s in waits if wait_s)])


def parse_hours(spans: Iterable[str]) -> tuple[TimeWindow, ...]:
    """Parse the windows, each as in `22:00-06:00`. Raises ValueError."""
    return tuple(map(TimeWindow.parse, spans))


def _until_midnight_s(wall_s: float) -> float:
    return DAY_S - wall_s % DAY_S


def _until_month_ends_s(wall_s: float) -> float:
    today = datetime.fromtimestamp(wall_s, UTC)
    days = monthrange(today.year, today.month)[1]
    return (days - today.day) * DAY_S + _until_midnight_s(wall_s)
