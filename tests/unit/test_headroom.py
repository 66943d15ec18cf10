"""Room is the least of what the disk and the limits leave, and lasts as long as the first of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.operations.headroom import StoreUsage, headroom

GIB = 2**30


@pytest.mark.parametrize(
    ("stored", "limit", "bytes_", "messages"),
    [
        (StoreUsage(0, 0, 10_000_000, GIB, 75 * GIB), "bytes", GIB, 10_000_000),
        (StoreUsage(1, 100, 10_000_000, GIB, 4_096), "disk", 4_096, 9_999_999),
        (StoreUsage(99_990, 9_999_000, 100_000, GIB, 75 * GIB), "messages", GIB - 9_999_000, 10),
        (StoreUsage(0, 0, 3, GIB, 75 * GIB), "messages", GIB, 3),
        (StoreUsage(10, 2 * GIB, 5, GIB, GIB), "bytes", 0, 0),
        (StoreUsage(disk_room_bytes=GIB), "disk", GIB, None),
        (StoreUsage(), None, None, None),
    ],
)
def test_the_nearest_limit_counts(
    stored: StoreUsage, limit: str | None, bytes_: int | None, messages: int | None
) -> None:
    found = headroom(stored)
    assert (found.limit, found.bytes, found.messages) == (limit, bytes_, messages)


def test_a_store_that_takes_one_gibibyte_has_no_room_for_75() -> None:
    assert headroom(StoreUsage(0, 0, 10_000_000, GIB, 75 * GIB)).bytes == GIB


@pytest.mark.parametrize(
    ("messages_per_s", "bytes_per_s", "full_in_s"),
    [(None, None, None), (10.0, None, 100.0), (10.0, 1_000.0, 50.0), (-3.0, -9.0, None), (0.01, 1.0, None)],
)
def test_it_is_full_when_the_first_limit_is_reached(
    messages_per_s: float | None, bytes_per_s: float | None, full_in_s: float | None
) -> None:
    stored = StoreUsage(0, 0, 1_000, 50_000, GIB, messages_per_s=messages_per_s, bytes_per_s=bytes_per_s)
    assert headroom(stored).full_in_s == full_in_s


@given(*[st.none() | st.integers(0, 2**40)] * 5)
def test_room_is_never_negative_and_never_more_than_the_disk_leaves(
    messages: int | None, size: int | None, most: int | None, most_bytes: int | None, disk: int | None
) -> None:
    found = headroom(StoreUsage(messages, size, most, most_bytes, disk))
    assert found.bytes is None or (found.bytes >= 0 and (disk is None or found.bytes <= disk))
    assert found.messages is None or found.messages >= 0
