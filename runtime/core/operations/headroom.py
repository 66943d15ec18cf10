"""Headroom: how much more can be stored, the least that the disk and the store's limits leave. Pure.

A store is full at the first of three ends: the disk, the bytes that it may hold, the messages that it may
hold. Which one comes first depends on how large messages are, so they are compared as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BYTES = 1_024.0
"""The assumed size of a message while none is stored."""
LEAST_BYTES_PER_S, LEAST_MESSAGES_PER_S = 100.0, 0.05
"""Slower growth counts as none: the store would be full in years."""


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """The stored amounts, their limits, and their growth; None where a figure is not known."""

    messages: int | None = None
    bytes: int | None = None
    most_messages: int | None = None
    most_bytes: int | None = None
    disk_room_bytes: float | None = None
    disk_limit: str = "disk"
    """`inodes` where the disk has free bytes, and no file can be made."""
    messages_per_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Headroom:
    """The room that is left, the nearest limit, and the time until it is reached at the present rate."""

    bytes: float | None
    messages: int | None
    limit: str | None
    """`disk`, `inodes`, `bytes` or `messages`."""
    full_in_s: float | None


def headroom(stored: StoreUsage) -> Headroom:
    left_messages = _left(stored.most_messages, stored.messages)
    left_bytes = _left(stored.most_bytes, stored.bytes)
    ends: dict[str, float] = {}
    if stored.disk_room_bytes is not None:
        ends[stored.disk_limit] = stored.disk_room_bytes
    if left_bytes is not None:
        ends["bytes"] = left_bytes
    least_bytes = min(ends.values(), default=None)
    if left_messages is not None:
        ends["messages"] = left_messages * _typical_bytes(stored)
    waits = [
        _full_in_s(least_bytes, stored.bytes_per_s, LEAST_BYTES_PER_S),
        _full_in_s(left_messages, stored.messages_per_s, LEAST_MESSAGES_PER_S),
    ]
    return Headroom(
        least_bytes,
        left_messages,
        min(ends, key=lambda end: ends[end]) if ends else None,
        min((wait for wait in waits if wait is not None), default=None),
    )


def _left(most: int | None, used: int | None) -> int | None:
    return None if most is None or used is None else max(0, most - used)


def _typical_bytes(stored: StoreUsage) -> float:
    return stored.bytes / stored.messages if stored.bytes and stored.messages else SMALL_BYTES


def _full_in_s(left: float | None, per_s: float | None, least_per_s: float) -> float | None:
    return left / per_s if left is not None and per_s is not None and per_s >= least_per_s else None
