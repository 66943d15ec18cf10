"""The cut of a pack: how many of the waiting messages of a stream go as one, by what the hub bills for it.

A pack is filled to whole units, of several the last one to three quarters at least. The cut depends on the
messages from the head on, not on how many wait behind: what remains after whole packs is cut the same way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from runtime.core.delivery.envelope import LIMIT_BYTES, LONGEST_DEVICE_ID, Compression, Telemetry
from runtime.core.delivery.metering import UNIT_BYTES, units
from runtime.core.delivery.pack_items import CBOR_SEQUENCE, ItemSizes
from runtime.core.delivery.pack_names import MOST_MEMBERS, counted, named
from runtime.core.delivery.packing import (
    MEMBER_TYPE,
    PackFormat,
    PackRule,
    alike,
    completes,
    folds,
    join,
)

MARGIN_BYTES = 256
"""Room left in a pack: whether the properties that the hub stamps on a message count is not documented."""
LAST_UNIT = 0.75
"""Least part of the last of several units that is filled; else the pack ends at the unit before."""
FIRST_RATIO = 0.25
"""The compression expected of a stream's first pack."""
_TRIES = 4
_ENOUGH = 1.1
"""A compressed pack is joined again where this many times its members would fit."""
_CAREFUL = 1.03
"""Factor on the ratio of a pack when it is cut again: fewer messages compress less."""


def metered(telemetry: Telemetry) -> int:
    """The documented size under the longest device id: a message goes under the id in force then."""
    return telemetry.metered_bytes(LONGEST_DEVICE_ID)


def most_bytes(unit_count: int) -> int:
    """The documented size to which a pack of so many units is filled."""
    return min(unit_count * UNIT_BYTES, LIMIT_BYTES - UNIT_BYTES) - MARGIN_BYTES


@dataclass(frozen=True, slots=True)
class Joinable:
    """The messages at the head of a queue that may go in one pack, as far as its size is of interest."""

    messages: Sequence[Telemetry]
    fixed_bytes: Sequence[int]
    """The size of a pack of the first message, the first two, ...: all but the payload."""
    raw_bytes: Sequence[int]
    """The payload of such a pack before compression."""
    ended: bool
    """A message follows that may not join, or no more may: waiting for more serves nothing."""

    def size_bytes(self, count: int, ratio: float) -> float:
        """The size of a pack of so many, its payload compressed to `ratio`."""
        return self.fixed_bytes[count - 1] + self.raw_bytes[count - 1] * ratio

    def within(self, limit_bytes: int, ratio: float) -> int:
        """The number of messages that fit into so many bytes; at least one."""
        counts = range(1, len(self.messages) + 1)
        return max(1, bisect_right(counts, limit_bytes, key=lambda count: int(self.size_bytes(count, ratio))))

    def cut(self, most_units: int, ratio: float) -> int:
        """The number of messages of the next pack."""
        limit_units = most_units
        while True:
            count = self.within(most_bytes(limit_units), ratio)
            size_bytes = self.size_bytes(count, ratio)
            last = units(int(size_bytes) + MARGIN_BYTES)
            if last == 1 or count == 1 or size_bytes - most_bytes(last - 1) >= LAST_UNIT * UNIT_BYTES:
                return count
            limit_units = last - 1

    def fills_a_unit(self, ratio: float) -> bool:
        """True if one more message like these would not fit into one unit."""
        count = len(self.messages)
        size_bytes = self.size_bytes(count, ratio)
        return size_bytes + self.raw_bytes[-1] * ratio / count > most_bytes(1)


class _Sizes(Protocol):
    """The size of a pack, message by message."""

    fixed_bytes: int
    """All but the payload."""
    raw_bytes: int
    """The payload before compression."""

    def add(self, message: Telemetry) -> None:
        """Count one more message."""


class _JoinedSizes:
    """The sizes of packs whose payloads are joined as they are, with a separator or with their lengths."""

    def __init__(self, first: Telemetry, fixed_bytes: int, format: PackFormat) -> None:
        self.fixed_bytes = fixed_bytes
        self.raw_bytes = self._last_bytes = len(first.payload)
        self._separator = 1 if format is PackFormat.LINES else 0
        self._has_lengths = format is PackFormat.CONCAT
        if self._has_lengths:
            self.fixed_bytes += len(str(self.raw_bytes))

    def add(self, message: Telemetry) -> None:
        size_bytes = len(message.payload)
        if self._has_lengths and size_bytes != self._last_bytes:
            self.fixed_bytes += len(f",{size_bytes}*99")
        self._last_bytes = size_bytes
        self.raw_bytes += size_bytes + self._separator


def joinable(waiting: Sequence[Telemetry], rule: PackRule, ratio: float) -> Joinable:
    """The messages at the head of `waiting` that may go in one pack whose payload shrinks to `ratio`, about.

    Looked at are twice as many as will fit: how well they compress is known only when they are compressed.
    """
    first = waiting[0]
    ended = completes(first)  # it goes alone
    sizes = _sizes(first, rule)
    least_ratio = ratio if rule.compression is Compression.NONE else ratio / 2
    limit_bytes = most_bytes(rule.units)
    prefix, number = counted(first.mid)
    numbers, fixed, raw = [number], [sizes.fixed_bytes], [sizes.raw_bytes]
    for message in () if ended else islice(waiting, 1, MOST_MEMBERS):
        other_prefix, number = counted(message.mid)
        if other_prefix != prefix or number <= numbers[-1]:
            break
        if alike(first, message, rule.format):
            sizes.add(message)
        elif folds(first, message):
            ended = True
        else:
            break
        if sizes.fixed_bytes + sizes.raw_bytes * least_ratio > limit_bytes:
            break
        numbers.append(number)
        fixed.append(sizes.fixed_bytes)
        raw.append(sizes.raw_bytes)
        if ended:
            break
    _, count = named(first.mid, numbers)
    count = max(1, count)
    ended = ended or count < len(waiting) or count >= MOST_MEMBERS
    return Joinable(list(islice(waiting, count)), fixed[:count], raw[:count], ended)


def _sizes(first: Telemetry, rule: PackRule) -> _Sizes:
    fixed_bytes = _fixed_bytes(first, rule)
    if rule.format is PackFormat.CBOR_SEQ:
        return ItemSizes(first, fixed_bytes + len(MEMBER_TYPE) + len(CBOR_SEQUENCE))
    return _JoinedSizes(first, fixed_bytes, rule.format)


def _fixed_bytes(first: Telemetry, rule: PackRule) -> int:
    """The size of a pack besides payload and lengths, about: a name that grows long is within the margin."""
    names_bytes = (len(first.mid) + 16) * (2 if rule.as_message_id else 1)
    folded_bytes = len("complete-batch true") if rule.fold_completion else 0
    own_bytes = metered(first) - len(first.payload)
    return own_bytes + names_bytes + folded_bytes + len("pack concat pack-lengths br encoding")


def fill(messages: Joinable, rule: PackRule, ratio: float) -> tuple[int, Telemetry]:
    """Join as many messages as the rule allows: their number, and what is sent.

    A compressed pack is joined again with fewer or more members where it turns out to fill its units badly.
    The strongest compression takes 79 ms a unit: for it the number is found by the fastest, and then once.
    """
    if rule.compression is Compression.NONE:
        count = messages.cut(rule.units, 1.0)
        return count, _joined(messages, count, rule)
    quick = replace(rule, compression=Compression.FASTEST)
    count, pack = _search(messages, quick, messages.cut(rule.units, ratio), _TRIES)
    return (count, pack) if rule == quick else _search(messages, rule, count, 1)


def _search(messages: Joinable, rule: PackRule, count: int, tries: int) -> tuple[int, Telemetry]:
    """The pack that fills its units best, as far as it is found in so many tries from `count` on."""
    limit_bytes = most_bytes(rule.units)
    pack = _joined(messages, count, rule)
    fitting = (count, pack) if metered(pack) <= limit_bytes else None
    for _ in range(tries):
        measured = len(pack.payload) / max(1, messages.raw_bytes[count - 1])
        better = messages.cut(rule.units, min(1.0, measured * _CAREFUL))
        if better == count or (fitting and count < better <= count * _ENOUGH):
            break
        count, pack = better, _joined(messages, better, rule)
        if metered(pack) <= limit_bytes:
            fitting = count, pack
    if fitting is None:
        count = messages.cut(rule.units, 1.0)
        fitting = count, _joined(messages, count, rule)
    return fitting


def _joined(messages: Joinable, count: int, rule: PackRule) -> Telemetry:
    return messages.messages[0] if count == 1 else join(messages.messages[:count], rule)
