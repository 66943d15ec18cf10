"""The store: what it promises about disks, schemas, counters and room."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.clock import read_moment
from runtime.adapters.salvage.salvage import last_report, pending, salvage, set_aside
from runtime.adapters.store import errors
from runtime.adapters.store.errors import StoreDamaged, StoreFull, StoreNewer, StoreUnavailable
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.statements import AT_ONCE
from runtime.adapters.store.writer import MessageStore
from runtime.core.delivery.ttl import expires_s
from runtime.core.ingest.message_fields import MessageRow
from runtime.core.ingest.protocol import Refusal, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.message import CorruptRow, StoredMessage, StreamName
from runtime.core.settlement import Settled
from tests.support.store_tools import WIDE, ObedientClock, copy_as_killed, decide, ever_lost, keep, put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


@pytest.fixture
def store(path: Path) -> Iterator[MessageStore]:
    opened = MessageStore(path, ObedientClock())
    yield opened
    opened.close()


def stored(path: Path) -> list[StoredMessage]:
    reader = StoreReader(path)
    found = reader.after(0, 100_000, 10**9)
    reader.close()
    return [message for message in found if isinstance(message, StoredMessage)]


def test_a_commit_is_flushed_and_the_journal_is_bounded(store: MessageStore) -> None:
    in_force = {
        name: store._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "journal_size_limit", "wal_autocheckpoint", "auto_vacuum")
    }
    assert in_force == {
        "journal_mode": "wal", "synchronous": 2, "journal_size_limit": 4_194_304,
        "wal_autocheckpoint": 1000, "auto_vacuum": 2,
    }  # fmt: skip


def test_what_was_said_about_a_message_comes_out_again(store: MessageStore, path: Path) -> None:
    keep(store, put([b"\x00\xff"], producer="p", first=7, stream_group="g", stream="s", batch_id="b",
                    batch_slice_id="bs", message_id="m", chunk_id="c", content_type="t",
                    properties={"a": "ü"},
                    priority=9, ttl_s=60.5))  # fmt: skip
    (message,) = stored(path)
    assert message == StoredMessage(
        id=1, stream_group="g", stream="s", batch_id="b", batch_slice_id="bs", message_id="m", chunk_id="c",
        content_type="t", properties={"a": "ü"}, kind=message.kind, priority=9, ttl_s=60.5,
        stored_wall_s=1_800_000_000.0, stored_boot_s=100.0, stored_boot_id="boot-0", payload=b"\x00\xff",
        key="p/b/7",
    )  # fmt: skip


def test_a_clock_that_was_never_set_is_not_believed(path: Path) -> None:
    clock = ObedientClock()
    clock.wall = 12.0  # 1970: no battery, no network time yet
    store = MessageStore(path, clock)
    keep(store, put([b"x"]))
    store.close()
    (message,) = stored(path)
    assert message.stored_wall_s is None
    assert message.stored_boot_s == 100.0


def test_an_id_is_never_used_again_even_when_everything_was_delivered(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"] * 3))
    store.commit(None, Settled(delivered=[1, 2, 3]))
    store.close()
    store = MessageStore(path, ObedientClock())
    (reply,) = keep(store, put([b"y"]))
    store.close()
    assert reply == Stored(range(4, 5))


def test_a_repeat_is_recognised_after_delivery_and_restart(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    request = put([b"x", b"y"], producer="p", first=1)
    keep(store, request)
    store.commit(None, Settled(delivered=[1, 2]))
    store.close()
    store = MessageStore(path, ObedientClock())
    (reply,) = keep(store, request)
    assert reply == Stored([1, 2], repeated=2)
    assert store.backlog().messages == 0
    store.close()


@pytest.mark.parametrize(("many", "at"), [(1, 0), (2 * AT_ONCE + 1, 0), (2 * AT_ONCE + 1, 2 * AT_ONCE)])
def test_a_not_null_failure_is_no_acknowledgement(store: MessageStore, many: int, at: int) -> None:
    """`INSERT OR IGNORE` would have swallowed it."""
    admission, _ = decide(store, [put([b"x"] * many)])
    admission.rows[at] = MessageRow._make(admission.rows[at])._replace(payload=None)  # type: ignore[arg-type]  # the damage
    with pytest.raises(StoreDamaged):
        store.commit(admission, Settled())
    assert store.backlog().messages == 0


def test_quarantine_and_back(store: MessageStore, path: Path) -> None:
    keep(store, put([b"a", b"b", b"c"], stream="s"))
    losses = store.commit(None, Settled(quarantined=[(1, "poison"), (1, "poison")], dropped=[(2, "expired")]))
    assert {(loss.reason, loss.amount.messages) for loss in losses} == {("quarantined", 1), ("expired", 1)}
    reader = StoreReader(path)
    (aside,) = reader.quarantine()
    assert (aside.reason, aside.message.id) == ("poison", 1)
    store.commit(None, Settled(requeued=[1, 99]))
    assert reader.quarantine() == []
    assert [(m.id, m.payload) for m in stored(path)] == [(3, b"c"), (4, b"a")]
    assert ever_lost(store)[StreamName(None, "s"), "expired"] == Amount(1, 1)
    assert reader.backlog().messages == store.backlog().messages == 2
    reader.close()


@pytest.mark.parametrize(
    ("policy", "left"),
    [(OverflowPolicy.DROP_OLDEST, [b"3", b"4", b"new"]), (OverflowPolicy.DROP_LOWEST, [b"1", b"3", b"new"])],
)
def test_what_gives_way_is_counted_and_named(path: Path, policy: OverflowPolicy, left: list[bytes]) -> None:
    quota = Quota(Limit(Amount(3, 10_000), policy))
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    for text, priority in ((b"1", 5), (b"2", 1), (b"3", 5)):
        keep(store, put([text], priority=priority), quota=quota)
    keep(store, put([b"4"], priority=1 if policy is OverflowPolicy.DROP_LOWEST else 5), quota=quota)
    keep(store, put([b"new"], priority=5), quota=quota)
    store.close()
    assert [message.payload for message in stored(path)] == left


def test_a_stream_that_is_full_drops_only_its_own(path: Path) -> None:
    a = StreamName(None, "a")
    quota = Quota(WIDE.total, streams={a: Limit(Amount(2, 1_000), OverflowPolicy.DROP_OLDEST)})
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    keep(store, put([b"b"], stream="b"), put([b"1", b"2"], stream="a"), quota=quota)
    admission, _ = decide(store, [put([b"3"], stream="a")], quota)
    (loss,) = store.commit(admission, Settled())
    assert (loss.stream, loss.reason, loss.ranges) == (a, "drop-oldest", [[2, 2]])
    assert [message.payload for message in stored(path)] == [b"b", b"2", b"3"]
    store.close()


def test_a_full_disk_refuses_deletes_nothing_and_takes_deletes(path: Path) -> None:
    """`max_page_count` is a disk of 200 KiB."""
    store = MessageStore(path, ObedientClock(), max_pages=50)
    acknowledged = 0
    with pytest.raises(StoreFull):
        for _ in range(100):
            keep(store, put([b"x" * 4_000] * 2))
            acknowledged += 2
    assert acknowledged
    assert len(stored(path)) == store.backlog().messages == acknowledged
    store.commit(None, Settled(delivered=list(range(1, acknowledged // 2))))
    keep(store, put([b"x" * 4_000] * 2))
    store.close()


def test_the_file_shrinks_again_when_it_was_drained(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    for _ in range(20):
        keep(store, put([b"x" * 4_000] * 50))
    store.commit(None, Settled(delivered=list(range(1, 1_001))))
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = path.stat().st_size
    ((free,),) = store._db.execute("PRAGMA freelist_count").fetchall()
    steps = 1
    while store.vacuum(64):
        steps += 1
    assert steps == -(-free // 64), "a step gave back less than it should: after an outage it took weeks"
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size < before / 10
    store.close()


def test_a_newer_store_is_refused_in_one_sentence(path: Path) -> None:
    MessageStore(path, ObedientClock()).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {errors.SCHEMA_VERSION + 1}")
        db.execute("INSERT INTO _sqlite_migrations VALUES (99, 'messages', 'version_3', '')")
    db.close()
    with pytest.raises(StoreNewer, match="schema 3, this runtime knows 2"):
        MessageStore(path, ObedientClock())
    with pytest.raises(StoreUnavailable):
        StoreReader(path).open()


def test_the_reader_waits_for_a_store_and_follows_a_new_one(path: Path, tmp_path: Path) -> None:
    reader = StoreReader(path)
    with pytest.raises(StoreUnavailable):
        reader.open()
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"old"]))
    assert len(reader.after(0, 10, 1_000)) == 1
    store.close()
    path.rename(tmp_path / "elsewhere")
    store = MessageStore(path, ObedientClock())
    assert reader.after(0, 10, 1_000) == []
    store.close()
    reader.close()


def test_a_page_of_messages_is_bounded_by_bytes_but_never_empty(store: MessageStore, path: Path) -> None:
    keep(store, put([b"x" * 600] * 4))
    reader = StoreReader(path)
    assert [message.id for message in reader.after(0, 10, 1_300)] == [1, 2]
    assert [message.id for message in reader.after(2, 10, 1)] == [3]
    assert [message.id for message in reader.after(0, 3, 10**6)] == [1, 2, 3]
    reader.close()


def test_a_row_with_nonsense_in_it_is_named_and_does_not_stop_the_rest(
    store: MessageStore, path: Path
) -> None:
    keep(store, put([b"x"] * 3, properties={"a": "b"}))
    store._db.execute("UPDATE messages SET properties = '{' WHERE id = 2")
    reader = StoreReader(path)
    assert [type(message) for message in reader.after(0, 10, 1_000)] == [
        StoredMessage,
        CorruptRow,
        StoredMessage,
    ]
    reader.close()


def test_what_comes_back_from_quarantine_goes_by_the_name_under_which_the_hub_may_know_it(
    store: MessageStore, path: Path
) -> None:
    keep(store, put([b"keyless"]), put([b"keyed"], producer="p", first=1))
    before = {message.payload: message.key for message in stored(path)}
    for number in (1, 3):  # it may be poison twice
        store.commit(None, Settled(quarantined=[(number, "poison"), (number + 1, "poison")]))
        store.commit(None, Settled(requeued=[number, number + 1]))
    assert {message.payload: message.key for message in stored(path)} == before
    assert [message.id for message in stored(path)] == [5, 6]


def test_silent_producers_are_forgotten_only_when_there_are_too_many(path: Path) -> None:
    clock = ObedientClock()
    store = MessageStore(path, clock, max_producers=10)
    for number in range(10):
        keep(store, put([b"x"], producer=f"p{number}", first=1))
    (refused,) = keep(store, put([b"x"], producer="one-more", first=1))
    assert isinstance(refused, Refusal)
    assert store.crowded()
    assert store.forget_producers(600) == 0  # all of them were active just now
    clock.boot += 601
    assert store.forget_producers(600) == 2
    (reply,) = keep(store, put([b"x"], producer="one-more", first=1))
    assert isinstance(reply, Stored)
    store.close()


def damage(path: Path, where: float, count: int = 3) -> None:
    """Overwrite some pages in the middle of the file."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(int(size * where) // 4096 * 4096)
        file.write(b"\xa5" * 4096 * count)


def test_what_can_be_read_of_a_damaged_store_goes_on_and_what_is_lost_is_named(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    for number in range(40):
        keep(
            store,
            put([f"{number}/{i}".encode() * 40 for i in range(25)], producer="p", first=25 * number + 1),
        )
    next_id = store.figures()["next_id"]
    store.close()
    damage(path, 0.5)
    with pytest.raises(StoreDamaged):
        StoreReader(path).after(0, 10_000, 10**9)
    *_, report = salvage(path, "flipped bytes")
    assert 700 < report.salvaged < 1_000
    assert report.lost_ranges
    found = {message.id for message in stored(path)}
    lost = {i for first, last in report.lost_ranges for i in range(first, last + 1)}
    assert found | lost >= set(range(1, 1_001))
    assert not pending(path)
    saved = last_report(path)
    assert saved is not None
    assert saved["expected"] == 1_000
    store = MessageStore(path, ObedientClock())
    (reply,) = keep(store, put([b"x"], producer="p", first=1_001))
    assert reply == Stored(
        range(next_id, next_id + 1)
    )  # no id is used again, and the producer is still known
    assert store.backlog().messages == len(found) + 1
    store.close()


def test_a_store_that_is_no_database_any_more_becomes_an_empty_one(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"]))
    store.close()
    path.write_bytes(b"garbage" * 10_000)
    with pytest.raises(StoreDamaged):
        MessageStore(path, ObedientClock())
    *_, report = salvage(path, "garbage")
    assert (report.salvaged, report.expected) == (0, None)
    assert any(first <= 1 <= last for first, last in report.lost_ranges), "what is lost is named"
    store = MessageStore(path, ObedientClock())
    (reply,) = keep(store, put([b"y"]))
    assert isinstance(reply, Stored)
    assert reply.ids[0] is not None
    assert reply.ids[0] > 2**31  # far above whatever was given before
    store.close()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_salvage_that_is_killed_begins_again_and_loses_nothing(
    path: Path, tmp_path: Path, steps: int
) -> None:
    store = MessageStore(path, ObedientClock())
    for _ in range(60):
        keep(store, put([b"x" * 50] * 25))
    copy = copy_as_killed(path, tmp_path / "home")  # the WAL has not been checkpointed away
    store.close()
    going: Any = salvage(copy, "first try")
    set_aside(copy)
    for _ in range(steps):
        next(going)
    going.close()
    assert pending(copy)
    *_, report = salvage(copy, "second try")
    assert report.salvaged == 1_500
    assert len(stored(copy)) == 1_500
    assert json.loads((copy.parent / "damaged" / "report.json").read_text())["reason"] == "second try"


def test_quarantine_is_bounded_and_what_leaves_it_is_counted_and_named(path: Path) -> None:
    """It counted in no limit: a hub that refuses a kind of message for months filled the disk."""
    store = MessageStore(path, ObedientClock(), quarantine_bytes=3_500)
    keep(store, put([b"x" * 1_000] * 5, stream="s"))
    losses = [store.commit(None, Settled(quarantined=[(number, "poison")])) for number in range(1, 6)]
    reader = StoreReader(path)
    assert [aside.message.id for aside in reader.quarantine()] == [3, 4, 5]
    dropped = [loss for found in losses for loss in found if loss.reason == "quarantine_full"]
    assert [(loss.stream.stream, loss.amount, loss.ranges) for loss in dropped] == [
        ("s", Amount(1, 1_000), [[1, 1]]),
        ("s", Amount(1, 1_000), [[2, 2]]),
    ]
    assert ever_lost(store)[StreamName(None, "s"), "quarantine_full"] == Amount(2, 2_000)
    store.commit(None, Settled(requeued=[3], discarded=[4]))  # that makes room
    keep(store, put([b"y" * 1_000] * 2, stream="s"))
    store.commit(None, Settled(quarantined=[(7, "poison"), (8, "poison")]))
    assert [aside.message.id for aside in reader.quarantine()] == [5, 7, 8]
    store.close()
    store = MessageStore(
        path, ObedientClock(), quarantine_bytes=1
    )  # lowered: the last one stays all the same
    store.commit(None, Settled(quarantined=[(6, "poison")]))
    assert [aside.message.id for aside in reader.quarantine()] == [8]
    reader.close()
    store.close()


def test_what_is_stored_under_a_clock_that_is_not_synchronised_does_not_expire_by_it(tmp_path: Path) -> None:
    """Months behind, and believable: once it was right, what was five minutes old had expired."""
    path, clock = tmp_path / "messages.db", ObedientClock()
    clock.wall, clock.in_sync = 1_760_000_000.0, False
    with closing(MessageStore(path, clock)) as store:
        keep(store, put([b"a"], ttl_s=3_600))
    clock.reboot()
    clock.wall, clock.in_sync = 1_800_000_000.0, True
    (message,) = stored(path)
    assert expires_s(message, read_moment(clock), synchronised=True) == math.inf


def test_what_was_decided_on_an_earlier_state_of_the_store_is_not_stored(folder: Path) -> None:
    """Its ids would be given a second time, to other messages. It is a bug of ours, so ingest ends."""
    store = MessageStore(folder / "messages.db", ObedientClock())
    (first, _), (second, _) = decide(store, [put([b"first"])]), decide(store, [put([b"second"])])
    store.commit(first, Settled())
    with pytest.raises(AssertionError, match="decided on what is stored now"):
        store.commit(second, Settled())
    assert store.next_id == 2
    keep(store, put([b"third"]))
    assert [(m.id, m.payload) for m in stored(folder / "messages.db")] == [(1, b"first"), (2, b"third")]
    store.close()
