"""Reading for the hub, over a real store: nothing hides anything, whatever else is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from runtime.adapters.store_lanes import MOST_STRETCH, READ_S, LaneReader
from runtime.core.message import StreamName
from tests.intake_world import Device


def slow_flash(reader: LaneReader) -> Callable[[], float]:
    """Each look at the clock finds that a statement took longer than a whole read may."""
    now_s = 0.0

    def tick() -> float:
        nonlocal now_s
        now_s += READ_S
        return now_s

    reader._now_s = tick
    return tick


def test_a_read_that_passes_over_large_messages_of_others_ends_in_time_and_goes_on_from_there(
    folder: Path,
) -> None:
    """30,000 of 10 kB were a page of the disk each: on slow flash the sentinel ended upload for ever."""
    with contextlib.closing(Device(folder)) as device:
        device.put("others", *[b"x" * 10_000] * 500)
        device.put("ours", b"1", b"2")
        device.put("others", *[b"x" * 10_000] * 500)
        device.put("ours", b"3")
        reader = LaneReader(device.home.layout.messages_db, lambda: 0.0)
        slow_flash(reader)
        found, after, looked_at = [], 0, []
        while after < 1003:
            page, reached = reader.find(after, 1003, 500, 1_000_000, StreamName(None, "ours"))
            found += page
            looked_at.append(reached - after)
            after = reached
        reader.close()
        assert [message.id for message in found] == [501, 502, 1003]
        assert max(looked_at) <= 2 * MOST_STRETCH and len(looked_at) > 10, "time ended most of the reads"


def test_all_is_delivered_where_every_read_is_ended_by_time(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        slow_flash(device.intake._store)
        for n in range(40):
            device.put("bulk", *[b"x"] * 20)
            device.put(f"s{n % 7}", b"y")
        for _ in range(2_000):
            device.turn()
            if not device.backlog():
                break
        assert device.backlog() == 0
        assert device.sent.count(1) == 1 and len(set(device.sent)) == len(device.sent) == 840


def test_a_gap_of_a_million_ids_is_not_looked_through(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        device.put("a", b"1")
        device.store._next_id = 5_000_000
        device.put("b", b"2")
        device.put("a", b"3")
        statements: list[str] = []
        reader = LaneReader(device.home.layout.messages_db)
        reader.newest()
        assert reader._db is not None
        reader._db.set_trace_callback(statements.append)
        found, reached = reader.find(1, 5_000_001, 500, 1_000_000, StreamName(None, "a"))
        reader.close()
        assert [message.id for message in found] == [5_000_001] and reached == 5_000_001
        assert len(statements) < 10
