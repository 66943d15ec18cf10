"""Reading for the hub, over a real store: nothing hides anything, whatever else is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from runtime.adapters.store.upload_reader import MOST_STRETCH, READ_S, UploadReader
from runtime.core.delivery.link_budget import LinkPolicy
from runtime.core.delivery.read_planner import PAGE_BYTES
from runtime.core.delivery.send_queue import FULL_BYTES
from runtime.core.message import StreamName
from tests.support.upload_source_world import Device


def slow_flash(reader: UploadReader) -> Callable[[], float]:
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
        reader = UploadReader(device.home.layout.messages_db, lambda: 0.0)
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
        slow_flash(device.source._store)
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
        reader = UploadReader(device.home.layout.messages_db)
        reader.newest()
        assert reader._db is not None
        reader._db.set_trace_callback(statements.append)
        found, reached = reader.find(1, 5_000_001, 500, 1_000_000, StreamName(None, "a"))
        reader.close()
        assert [message.id for message in found] == [5_000_001] and reached == 5_000_001
        assert len(statements) < 20


def test_an_urgent_message_is_sent_while_the_budget_is_used_up_and_400_streams_wait(folder: Path) -> None:
    """The hand was full of what may not go, and nothing was read any more."""
    terms = LinkPolicy(messages_per_day=10, urgent_priority=8)
    with contextlib.closing(Device(folder, terms=terms)) as device:
        device.link.usage.day_messages = 10
        for n in range(400):
            device.put(f"s{n}", b"x" * 32_000)
        device.turns(60)
        device.put("alarm", *[b"fire"] * 600, priority=9)
        device.turns(60)
        assert device.sent == list(range(401, 1001))
        assert device.delivery.queue.bytes <= FULL_BYTES + 2 * PAGE_BYTES
        device.link.usage.day_messages = 0
        device.link.policy = LinkPolicy()
        device.turns(400)
        assert device.backlog() == 0


def test_an_important_message_is_sent_while_a_slow_line_has_more_than_enough_in_hand(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        device.answers = False
        for n in range(400):
            device.put(f"s{n}", b"x" * 32_000)
        device.turns(60)
        device.put("alarm", b"fire", priority=9)
        device.turns(60)
        assert 401 in device.delivery.queue.messages
        device.answers = True
        device.turns(15)
        assert 401 in device.sent


def test_telemetry_is_sent_at_full_speed_while_60_streams_stand_behind_their_files(folder: Path) -> None:
    """The storage answers 503: what stands behind the files filled the hand, and all others stood too."""
    with contextlib.closing(Device(folder)) as device:
        for n in range(60):
            device.put(f"files-{n}", b"x" * 300_000, *[b"x" * 200_000] * 2)
        device.turns(70)
        assert device.sent == []
        device.put("telemetry", *[b"t"] * 2_000)
        device.put("mixed", b"m", b"x" * 300_000, b"m")
        device.turns(80)
        assert len(device.sent) == 2_001 and set(device.sent) == {*range(181, 2_182)}
        assert device.delivery.queue.bytes <= FULL_BYTES
        for _ in range(10_000):
            for id in device.uploads:
                device.source.link(id, f"blob-{id}")
                device.delivery.uploaded(id, device.clock.boot)
            device.uploads.clear()
            device.turn()
            if not device.backlog():
                break
        assert device.backlog() == 0, "all goes once the storage is back"


def test_a_stream_that_stands_is_not_read_again_and_again_for_nothing(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        for n in range(60):
            device.put(f"files-{n}", b"x" * 300_000, b"x" * 200_000)
        device.turns(120)
        assert device.source._store._db is not None
        statements: list[str] = []
        device.source._store._db.set_trace_callback(statements.append)
        device.turns(100)  # a second
        reads = sum("payload" in statement for statement in statements)
        assert reads <= 70, f"{reads} reads: one a second for each stream that stands"


def test_a_producers_own_chunks_are_not_torn_apart_by_fresh_first(folder: Path) -> None:
    toml = '[stream.s]\ndrain = "fresh-first"\n[upload]\nbacklog_per_s = 50\n'
    with contextlib.closing(Device(folder, toml)) as device:
        device.put("s", *[b"x"] * 400)
        device.put("s", b"chunk", message_id="m", chunk_id="0")
        device.turn(sends=False)
        device.turn(sends=False)  # the front has reached the end: what comes now is fresh
        device.put("s", b"fresh")
        device.turn(sends=False)
        for n in (1, 2):
            device.put("s", b"chunk", message_id="m", chunk_id=str(n))
        device.put("s", b"fresh")
        for _ in range(3_000):
            device.turn()
            device.clock.boot += 0.1
            if not device.backlog():
                break
        assert device.backlog() == 0
        assert [id for id in device.sent if id > 400 and id != 402] == [401, 403, 404, 405]


def test_the_newest_do_not_overtake_fresh_ones_when_the_backlog_is_over(folder: Path) -> None:
    with contextlib.closing(Device(folder, '[stream.s]\ndrain = "fresh-first"\n', window=4)) as device:
        device.put("s", *[b"x"] * 266)
        device.turn(sends=False)
        device.turn(sends=False)
        device.put("s", *[b"fresh"] * 240)
        for _ in range(120):
            device.put("s", *[b"fresh"] * 2)
            device.turn()
        for _ in range(1_000):
            device.turn()
            if not device.backlog():
                break
        fresh = [id for id in device.sent if id > 266]
        assert fresh == sorted(fresh) and len(fresh) == 480


def test_interleaved_batches_are_not_torn_where_other_streams_have_a_backlog(folder: Path) -> None:
    """The hand was crowded, and the batch gave way though its next messages were in the store."""
    with contextlib.closing(Device(folder, window=32)) as device:
        for n in range(10):
            device.put(f"bulk-{n}", *[b"x" * 2_000] * 260)
        for batch in "AB":
            device.put("s", b"1", batch_id=batch)
        for n in range(300):
            device.put(f"new-{n}", *[b"x" * 1_000] * 5)
        for batch in "AB":
            device.put("s", b"2", batch_id=batch)
            device.complete("s", batch)
        ours = {message.id: message for message in device.stored("s")}
        for _ in range(2_000):
            device.turn()
            if not device.backlog():
                break
        assert device.backlog() == 0
        order = [ours[id].batch_id for id in device.sent if id in ours]
        assert order == ["A"] * 3 + ["B"] * 3


def test_a_damaged_row_that_is_alone_in_the_store_is_set_aside(folder: Path) -> None:
    """No counter knows of it, so the front passed over it; and so for ever."""
    with contextlib.closing(Device(folder)) as device:
        device.put("s", b"x")
        device.store._db.execute("UPDATE messages SET stream = 99")
        device.store._db.execute("UPDATE levels SET messages = 0, bytes = 0, stored = 0")
        device.turns(3)
        assert list(device.aside) == [1]


def test_a_damaged_row_between_others_is_set_aside_once_they_are_delivered(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        for _ in range(3):
            device.put("s", *[b"x"] * 300)
        device.store._db.execute("UPDATE messages SET stream = 99 WHERE id = 700")
        for _ in range(200):
            device.turn()
        assert list(device.aside) == [700]
        assert sorted(device.sent) == [id for id in range(1, 901) if id != 700]


def test_what_was_sent_while_its_age_was_unknown_does_not_expire_once_it_is_known(folder: Path) -> None:
    """It was counted as lost though it may have arrived: nothing had noted that it was sent."""
    with contextlib.closing(Device(folder)) as device:
        device.put("s", b"x", ttl_s=100.0)
    with contextlib.closing(Device(folder)) as device:
        device.clock.reboot()
        device.clock.in_sync = device.answers = False
        device.turns(3)
        assert device.sent == [1]
    with contextlib.closing(Device(folder)) as device:
        device.clock.reboot()
        device.clock.wall += 86_400.0
        device.turns(3)
        assert device.sent == [1] and device.backlog() == 0
