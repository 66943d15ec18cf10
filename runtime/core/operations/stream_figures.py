"""Figures of the streams for `edgectl top`: rates from two looks at the counters, and their order. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from runtime.core.message import StreamName
from runtime.core.moment import Moment


class StreamLevel(NamedTuple):
    """One stream's part of the store."""

    messages: int
    bytes: int
    stored: int
    """Ever stored."""
    delivered: int
    """Ever delivered."""


@dataclass(frozen=True)
class StreamLook:
    """All streams at one moment."""

    at: Moment
    levels: Mapping[StreamName, StreamLevel] = field(default_factory=dict)
    oldest: Mapping[StreamName, Moment] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamFigures:
    """One row. None: not known."""

    stream: str
    stored_per_s: float | None
    delivered_per_s: float | None
    messages: int
    bytes: int
    oldest_age_s: float | None
    stored: int
    delivered: int

    def as_record(self) -> dict[str, Any]:
        return asdict(self)


ORDERS: dict[str, Callable[[StreamFigures], float]] = {
    "rate": lambda row: max(row.stored_per_s or 0.0, row.delivered_per_s or 0.0),
    "backlog": lambda row: row.messages,
    "bytes": lambda row: row.bytes,
    "age": lambda row: -1.0 if row.oldest_age_s is None else row.oldest_age_s,
}
"""What rows can be sorted by, the largest first."""


def stream_figures(before: StreamLook | None, now: StreamLook, order: str) -> list[StreamFigures]:
    """The rows in this order; rates are those since the look `before`, which may be missing."""
    span_s = now.at.since(before.at) if before is not None else None
    rows = [_figures(name, level, before, now, span_s) for name, level in now.levels.items()]
    keys = (ORDERS[order], ORDERS["backlog"])
    return sorted(rows, key=lambda row: (*(-key(row) for key in keys), row.stream))


def total(rows: list[StreamFigures]) -> StreamFigures:
    """All rows in one."""
    ages_s = [row.oldest_age_s for row in rows if row.oldest_age_s is not None]
    return StreamFigures(
        "all",
        _sum([row.stored_per_s for row in rows]),
        _sum([row.delivered_per_s for row in rows]),
        sum(row.messages for row in rows),
        sum(row.bytes for row in rows),
        max(ages_s, default=None),
        sum(row.stored for row in rows),
        sum(row.delivered for row in rows),
    )


def _figures(
    name: StreamName, level: StreamLevel, before: StreamLook | None, now: StreamLook, span_s: float | None
) -> StreamFigures:
    earlier = before.levels.get(name) if before is not None else None
    known = before is not None
    oldest = now.oldest.get(name)
    age_s = now.at.since(oldest) if oldest is not None and level.messages else None
    return StreamFigures(
        str(name),
        _rate(earlier.stored if earlier else 0, level.stored, span_s) if known else None,
        _rate(earlier.delivered if earlier else 0, level.delivered, span_s) if known else None,
        level.messages,
        level.bytes,
        None if age_s is None else round(max(0.0, age_s), 1),
        level.stored,
        level.delivered,
    )


def _rate(before: int, now: int, span_s: float | None) -> float | None:
    """Messages a second; None where the counters began again, or no time passed."""
    if span_s is None or not span_s > 0 or not math.isfinite(span_s) or now < before:
        return None
    return round((now - before) / span_s, 1)


def _sum(rates: list[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return round(sum(known), 1) if known else None
