"""Store view: the state of the store before a commit, and its time, as values to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.core.ingest.quota import NOTHING, Amount, Held, Levels
from runtime.core.message import StreamName


class Stamp(NamedTuple):
    """The time and the boot in which a commit is decided."""

    wall_s: float | None
    """None while the clock is not synchronised."""
    boot_s: float
    boot: int
    """The store's number for this boot."""


@dataclass(frozen=True, slots=True)
class View:
    """The state of the store before this commit."""

    next_id: int
    streams: Mapping[StreamName, int]
    next_stream: int
    levels: Levels
    total: Amount
    room_bytes: int
    """The bytes that the disk still takes."""
    most_new_producers: int = 1_000
    """Most producers unknown so far that may be taken into memory now."""
    producers_of: Mapping[str, int] = field(default_factory=dict)
    """The number of producers in memory, by owner."""
    producers_in_share: int = 0
    """The producers in an owner's share: it may have so many even where others hold all."""
    streams_of: Mapping[str, int] = field(default_factory=dict)
    """The number of streams that were named lately, by owner."""
    held: Held = field(default_factory=dict)
    sole_owner: str = ""
    """The owner of all that is stored, as far as is known; empty where there are several."""
    leaving: Amount = NOTHING
    """The amount that leaves with this commit; it is subtracted from `levels` and `total` already."""
    counted: bool = True
    """True if `levels` and `total` were counted from the rows: else one flipped bit might decide over
    messages."""
