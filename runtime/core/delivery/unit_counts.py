"""Unit counts: what the hub bills for, by stream, today and this month, and how much of it was sent again.

A send is counted when it goes out: the hub bills what arrives, so a connection that ends meanwhile may have
cost less than is counted here. What had been sent before, on a connection that ended, is counted as a repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from runtime.core.delivery.metering import UNIT_BYTES, units

MOST_STREAMS = 100
"""Streams that are counted by name; the others are one."""
OTHER_STREAMS = "(other streams)"
MANAGEMENT = "(device management)"
"""Twin requests, direct methods and commands, either way."""
PROBES = "(probes)"
"""Messages that test whether the hub takes any."""


@dataclass(slots=True)
class UnitCounts:
    """Sends, and what the hub bills for them."""

    units: int = 0
    """Steps of 4 KiB, each send by itself."""
    repeat_units: int = 0
    """Those of `units` that were sent before."""
    sends: int = 0
    """Messages as the hub sees them: a pack is one."""
    messages: int = 0
    """Messages as producers stored them; a piece of one counts as one."""
    bytes: int = 0
    """The documented size of all sends."""
    file_units: int = 0
    """Those of `units` that are for file uploads: they have no size."""
    saved_bytes: int = 0
    """What compression took off the documented size of all sends."""

    def add(self, more: UnitCounts) -> None:
        """Add other counts; field by field, for each send is added three times."""
        self.units += more.units
        self.repeat_units += more.repeat_units
        self.sends += more.sends
        self.messages += more.messages
        self.bytes += more.bytes
        self.file_units += more.file_units
        self.saved_bytes += more.saved_bytes

    @property
    def fill(self) -> float | None:
        """The share of the paid size that was used; None where nothing with a size was sent."""
        paid_bytes = (self.units - self.file_units) * UNIT_BYTES
        return self.bytes / paid_bytes if paid_bytes > 0 else None

    @property
    def compressed(self) -> float | None:
        """The share of the size before compression that it took off; None where it took off nothing."""
        return self.saved_bytes / (self.bytes + self.saved_bytes) if self.saved_bytes else None

    @property
    def repeated(self) -> float | None:
        """The share of the units that had been sent before."""
        return self.repeat_units / self.units if self.units else None

    @classmethod
    def of(cls, saved: object) -> UnitCounts:
        """The counts out of saved figures; an unusable figure counts as nothing."""
        figures = saved if isinstance(saved, Mapping) else {}
        return cls(**{name: figures[name] for name in _NAMES if type(figures.get(name)) is int})


_NAMES = tuple(field.name for field in fields(UnitCounts))


def of_send(size_bytes: int, messages: int = 1, *, repeat: bool = False, saved_bytes: int = 0) -> UnitCounts:
    """The counts of one send of this documented size, in which so many messages go."""
    billed = units(size_bytes)
    return UnitCounts(billed, billed if repeat else 0, 1, messages, size_bytes, 0, saved_bytes)


def of_file_calls(calls: int) -> UnitCounts:
    """The counts of calls for a file: beginning its upload is billed as a message, and ending it as another.

    The size of the file does not count.
    """
    return UnitCounts(units=calls, file_units=calls)


@dataclass(slots=True)
class StreamUnits:
    """The counts of one stream, of the current day and month."""

    day: UnitCounts = field(default_factory=UnitCounts)
    month: UnitCounts = field(default_factory=UnitCounts)


def streams_of(saved: object) -> dict[str, StreamUnits]:
    """The counts by stream out of saved figures."""
    tables = saved if isinstance(saved, Mapping) else {}
    return {
        name: StreamUnits(UnitCounts.of(one.get("day")), UnitCounts.of(one.get("month")))
        for name, one in tables.items()
        if isinstance(name, str) and isinstance(one, Mapping)
    }


def counted_as(stream: str, streams: Mapping[str, object]) -> str:
    """The name under which a stream is counted beside those that are counted already."""
    return stream if stream in streams or len(streams) < MOST_STREAMS else OTHER_STREAMS


def total(counts: Mapping[str, UnitCounts]) -> UnitCounts:
    """The counts of several streams together."""
    summed = UnitCounts()
    for one in counts.values():
        summed.add(one)
    return summed
