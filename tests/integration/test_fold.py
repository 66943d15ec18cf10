"""The fold: what rows alone tell is what the counters would say, at every moment, whatever a fold came to."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store import fold, open_store, writer
from runtime.adapters.store.errors import StoreDamaged
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.stream_reader import StreamReader
from runtime.adapters.store.unfolded import MOST_UNFOLDED
from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest import quota as quota_module
from runtime.core.ingest.protocol import Put, Refusal, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.ingest.unfolded_rows import pack_gone
from runtime.core.settlement import Settled
from runtime.workers.store_housekeeping import LOOK_AT_DISK_S
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import WIDE, ObedientClock, copy_as_killed, decide, keep, put, waiting_ids

SMALL = Quota(Limit(Amount(60, 10**9), OverflowPolicy.DROP_OLDEST))
OWNERS = ("", "user 1000", "user 1001")
COMMITS = 120


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


@pytest.fixture
def store(path: Path) -> Iterator[MessageStore]:
    opened = MessageStore(path, ObedientClock())
    keep(opened, put([b"first"], producer="p", first=1, stream="s"), put([b"first"], stream="t"))
    yield opened
    opened.close()


def tables(path: Path) -> dict[str, list[Any]]:
    """What the counters say, after the opening of a copy has written down what the rows tell."""
    MessageStore(path, ObedientClock()).close()
    queries = {
        "store": "SELECT next_id, folded, next_stream, producers FROM store",
        "levels": "SELECT * FROM levels WHERE stored ORDER BY stream, priority",
        "producers": "SELECT producer, boot, memory FROM producers ORDER BY producer, boot",
        "messages": "SELECT id, stream, priority, bytes, iif(key LIKE '_/b%', key, '') FROM messages",
        "quarantine": "SELECT id FROM quarantine ORDER BY id",
        "losses": "SELECT stream, reason, messages, bytes FROM losses ORDER BY stream, reason",
        "ledger": "SELECT stored, delivered FROM ledger",
    }
    with closing(sqlite3.connect(path)) as db:
        return {name: db.execute(query).fetchall() for name, query in queries.items()}


def views(path: Path) -> dict[str, Any]:
    """What every reader shows."""
    with closing(StoreReader(path)) as reader, closing(StreamReader(path)) as streams:
        ledger, rows, aside = reader.ledger_and_rows()
        shown = {
            "backlog": reader.backlog(),
            "next_id": reader.next_id(),
            "ids": [row.id for row in reader.after(0, 10**6, 10**9)],
            "ledger": sorted(ledger.accounts, key=lambda account: account.stream),
            "rows": (rows, aside),
            "levels": streams.levels(),
            "so far": streams.stored_so_far(),
            "oldest": sorted(map(str, streams.oldest())),
            "ahead": [reader.ahead(number, 100) for number in range(1, reader.next_id(), 7)],
        }
        assert ledger.open_accounts == []
    with closing(UploadReader(path)) as upload:
        newest = upload.newest()
        found, reached = upload.find(0, newest, 10**6, 10**9)
        assert reached == newest
        assert {row.id for row in found} == set(shown["ids"])  # type: ignore[call-overload]
        waits = {name for name, level in streams.levels().items() if level.messages}
        assert upload.stored() >= waits and upload.stored_above(0) >= waits
        counted = {name: [0, 0, 0] for name in streams.levels()}
        for by_priority in upload.levels():
            for at, count in enumerate((by_priority.messages, by_priority.bytes, by_priority.stored)):
                counted[by_priority.stream][at] += count
        assert counted == {name: [*level[:3]] for name, level in streams.levels().items()}
    streams.close()
    return shown


def rows_beyond(path: Path) -> int:
    """The number of rows that no counter counts yet."""
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT count(*) FROM messages, store WHERE messages.id > folded"
        return int(db.execute(query).fetchone()[0])


class Twins:
    """One history in two stores: one folds after every commit, the other as seldom as it may."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance, self.folder, self.copies = random.Random(seed), folder, 0
        self.paths = [folder / name / "messages.db" for name in ("folded", "unfolded")]
        for path in self.paths:
            path.parent.mkdir()
        self.quota = self.chance.choice((WIDE, SMALL))
        self.stores = [
            MessageStore(path, ObedientClock(), policies=self.quota.policies()) for path in self.paths
        ]
        for store in self.stores:
            store.count()
        self.next = {(who, owner): 1 for who in "pq" for owner in OWNERS}
        self.sent: list[Put] = []
        self.ordinary = 0

    def request(self) -> Put:
        """A new request, at times with a gap or late; a repeat, whole or in part; or one without a key."""
        chance = self.chance
        if self.sent and chance.random() < 0.2:
            return chance.choice(self.sent[-6:])
        payloads = [chance.randbytes(chance.randint(0, 40)) for _ in range(chance.randint(1, 4))]
        stream, priority = chance.choice("st"), chance.randint(3, 5)
        who, owner = chance.choice([*self.next])
        if chance.random() < 0.2:
            return put(payloads, owner=owner, stream=stream, priority=priority)
        first = max(1, self.next[who, owner] + chance.choice((0, 0, 0, 0, 0, 0, 3, 9, -2)))
        self.next[who, owner] = max(self.next[who, owner], first + len(payloads))
        request = put(payloads, producer=who, first=first, owner=owner, stream=stream, priority=priority)
        self.sent.append(request)
        return request

    def settled(self) -> Settled:
        chance = self.chance
        waiting = waiting_ids(self.paths[0])[:20] or [1]
        few = [chance.choice(waiting) for _ in range(chance.choice((0, 0, 1, 3)))]
        match chance.randint(0, 24):
            case 0:
                return Settled(quarantined=[(number, "why") for number in few])
            case 1:
                return Settled(dropped=[(number, "expired") for number in dict.fromkeys(few)])
            case 2:
                with closing(StoreReader(self.paths[0])) as reader:
                    return Settled(requeued=[aside.message.id for aside in reader.quarantine(0, 2)])
        return Settled(delivered=[*few, *few[:1], *few, 10**9])

    def commit(self) -> None:
        requests = [self.request() for _ in range(self.chance.choice((0, 1, 1, 2)))]
        settled = self.settled()
        replies = []
        for store in self.stores:
            admission, decided = decide(store, requests, self.quota, settled)
            store.commit(admission, settled)
            replies.append([str(reply) for reply in decided])
        assert replies[0] == replies[1]
        self.stores[0].fold()

    def killed(self) -> Path:
        self.copies += 1
        return copy_as_killed(self.paths[1], self.folder / f"killed-{self.copies}")

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_the_rows_tell_is_what_the_counters_would_say(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every reader at every moment; and opened after a kill at any moment, for every counter."""
    monkeypatch.setattr(quota_module, "AHEAD_SHARE", 10)
    twins, unfolded = Twins(tmp_path, seed), 0
    for number in range(COMMITS):
        twins.commit()
        assert views(twins.paths[1]) == views(twins.paths[0])
        if number % 3:
            continue
        killed = twins.killed()
        unfolded += rows_beyond(killed) > 0
        copy = tmp_path / "copy"
        with closing(sqlite3.connect(twins.paths[0])) as db, closing(sqlite3.connect(copy)) as to:
            db.backup(to)
        assert tables(killed) == tables(copy)
        shutil.rmtree(killed.parent)
    twins.close()
    assert unfolded > COMMITS // 12, "most commits were to insert rows alone"


def test_an_ordinary_commit_writes_one_leaf_and_no_counter(store: MessageStore) -> None:
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    keep(store, put([b"2"], producer="p", first=2, stream="s"), settled=Settled(delivered=[1]))
    store._db.set_trace_callback(None)
    written = [each.split()[:3] for each in statements if each.split()[0] in ("INSERT", "UPDATE", "DELETE")]
    assert written == [["INSERT", "INTO", "messages"], ["UPDATE", "messages", "SET"]]
    assert store.backlog().messages == 2


@pytest.mark.parametrize("statement", range(8))
def test_a_fold_torn_at_any_point_is_done_again_whole(
    path: Path, store: MessageStore, tmp_path: Path, statement: int
) -> None:
    """At each of its statements; the last of them is that of the commit."""
    for number in range(2, 8):
        keep(store, put([b"x"], producer="p", first=number, stream="s"), settled=Settled(delivered=[number]))
    before, seen = views(path), 0

    def kill(sql: str) -> None:
        nonlocal seen
        if seen == statement or (sql == "COMMIT" and seen < statement):
            seen = 10**6
            copy_as_killed(path, tmp_path / "killed")
        seen += 1

    store._db.set_trace_callback(kill)
    store.fold()
    store._db.set_trace_callback(None)
    assert views(path) == before, "a fold changes nothing that can be seen"
    found = tables(tmp_path / "killed" / path.name)
    store.close()
    assert found == tables(path)


NOTES: dict[str, Callable[[int], object]] = {
    "what is not there": lambda row: pack_gone(row, [row - 1, 10**6]),
    "what was given to nothing": lambda row: pack_gone(row, [0]),
    "itself": lambda row: pack_gone(row, [row]),
    "a later row": lambda row: pack_gone(row, [row + 1]),
    "everything": lambda row: pack_gone(row, range(1, 2**40)[:20_000]),
    "with another row's checksum": lambda row: pack_gone(row - 1, [1]),
    "nothing legible": lambda row: "1-3",
    "a number": lambda row: 3,
    "bytes": lambda row: b"\xff",
}


@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_cannot_be_true_takes_no_message_away(
    path: Path, store: MessageStore, tmp_path: Path, note: str
) -> None:
    for number in range(2, 8):
        keep(store, put([b"x"], producer="p", first=number, stream="s"))
    row = store.next_id - 2
    store._db.execute("UPDATE messages SET gone = ? WHERE id = ?", (NOTES[note](row), row))
    waiting = [*range(1, store.next_id)]
    assert waiting_ids(path) == waiting
    killed = copy_as_killed(path, tmp_path / "killed")
    with closing(MessageStore(killed, ObedientClock())) as opened:
        assert opened.count() and opened.backlog().messages == len(waiting)
        (again,) = keep(opened, put([b"x"], producer="p", first=7, stream="s"))
        assert isinstance(again, Stored) and again.repeated
    assert waiting_ids(killed) == waiting
    assert views(killed)["rows"] == (len(waiting), 0)


def test_a_note_of_what_left_meanwhile_harms_nothing(path: Path, store: MessageStore, tmp_path: Path) -> None:
    keep(store, put([b"x"], producer="p", first=2, stream="s"), settled=Settled(delivered=[1]))
    keep(store, put([b"x"], producer="p", first=3, stream="s"), settled=Settled(delivered=[1, 1]))
    store._db.execute("DELETE FROM messages WHERE id = 1")
    killed = copy_as_killed(path, tmp_path / "killed")
    with closing(MessageStore(killed, ObedientClock())) as opened:
        assert opened.count()
    assert waiting_ids(killed) == [2, 3, 4]


@pytest.mark.parametrize(
    "flip",
    [
        "UPDATE messages SET id = id + 65536 WHERE id = 5",
        "UPDATE messages SET id = id + 64 WHERE id = 5",
        "DELETE FROM messages WHERE id = 4",
        "UPDATE store SET folded = folded + 1, next_id = next_id - 1",
        "UPDATE store SET closed = 1",
    ],
)
def test_rows_that_no_ordinary_commit_leaves_are_damage_and_poison_no_id(
    path: Path, store: MessageStore, tmp_path: Path, flip: str
) -> None:
    for number in range(2, 5):
        keep(store, put([b"x"], producer="p", first=number, stream="s"))
    killed = copy_as_killed(path, tmp_path / "killed")
    with closing(sqlite3.connect(killed)) as db:
        db.execute(flip)
        db.commit()
    with pytest.raises(StoreDamaged):
        MessageStore(killed, ObedientClock())


def test_an_id_that_no_commit_gave_is_seen_by_upload(path: Path, store: MessageStore) -> None:
    """After it upload would find nothing: new messages have smaller ids."""
    keep(store, put([b"x"], producer="p", first=2, stream="s"))
    with closing(UploadReader(path)) as upload:
        assert upload.newest() == 3
        store._db.execute("UPDATE messages SET id = ? WHERE id = 3", (3 + MOST_UNFOLDED,))
        with pytest.raises(StoreDamaged):
            upload.newest()


def test_a_salvage_keeps_what_only_rows_tell(path: Path, store: MessageStore, tmp_path: Path) -> None:
    for number in range(2, 8):
        request = put([b"x"], producer="p", first=number, owner="user 1", stream="s")
        keep(store, request, settled=Settled(delivered=[number - 1]))
    killed = copy_as_killed(path, tmp_path / "killed")
    before = views(path)
    list(salvage(killed, "for the test"))
    after = views(killed)
    assert after["next_id"] > before["next_id"] + 900, "the last rows might have been lost without a trace"
    same = before.keys() - {"next_id", "so far", "ahead"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    with closing(MessageStore(killed, ObedientClock())) as opened:
        (again,) = keep(opened, put([b"x"], producer="p", first=7, owner="user 1", stream="s"))
        assert isinstance(again, Stored) and again.repeated, "the memory of the producer is whole"


def test_a_salvage_counts_a_lost_row_that_no_counter_knew(
    path: Path, store: MessageStore, tmp_path: Path
) -> None:
    for number in range(2, 8):
        keep(store, put([b"x"], producer="p", first=number, stream="s"))
    killed = copy_as_killed(path, tmp_path / "killed")
    with closing(sqlite3.connect(killed)) as db:
        db.execute("DELETE FROM messages WHERE id IN (4, 5)")
        db.commit()
    list(salvage(killed, "for the test"))
    with closing(StoreReader(killed)) as reader:
        ledger, rows, _ = reader.ledger_and_rows()
    assert (ledger.total.stored, rows, ledger.total.lost) == (8, 6, {"damaged": 2})
    assert ledger.open_accounts == []


def test_an_opening_reads_as_much_however_much_is_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "AT_OPENING_S", 0.0)
    monkeypatch.setattr(open_store, "ALIVE_STEPS", 100)
    steps = []
    for messages in (2_000, 20_000):
        store = MessageStore(path, ObedientClock())
        for _ in range(messages // 500):
            keep(store, put([b"x"] * 500, stream="s"))
        for number in range(1, 400):
            keep(store, put([b"x"], producer="p", first=number + messages, stream="s"))
        killed = copy_as_killed(path, path.parent / f"killed-{messages}")
        store.close()
        beats: list[None] = []
        MessageStore(killed, ObedientClock(), alive=lambda beats=beats: beats.append(None)).leave()
        steps.append(len(beats))
    assert steps[0] > 50, "it had rows to read"
    assert steps[1] < 1.3 * steps[0], steps


def test_the_unfolded_rows_are_bounded(
    path: Path, store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "FOLD_ROWS", 10)
    most = 0
    for number in range(2, 60):
        keep(store, put([b"x"], producer="p", first=number, stream="s"), settled=Settled(delivered=[number]))
        most = max(most, rows_beyond(path))
    assert 3 <= most <= 10
    ((there,),) = store._db.execute("SELECT count(*) FROM messages").fetchall()
    assert there <= 12, "what is delivered leaves with the fold"


def test_a_full_store_folds_where_messages_give_way_and_not_with_every_commit(path: Path) -> None:
    limit = Quota(Limit(Amount(1_000, 10**9), OverflowPolicy.DROP_OLDEST))
    store = MessageStore(path, ObedientClock(), policies=limit.policies())
    keep(store, put([b"x"], producer="p", first=1, stream="s"), put([b"x"] * 999, stream="s"), quota=limit)
    folds, lost = set(), 0
    for number in range(2, 52):
        admission, _ = decide(store, [put([b"x"], producer="p", first=number, stream="s")], limit)
        lost += sum(loss.amount.messages for loss in store.commit(admission, Settled()))
        assert store.backlog().messages == 1_000 + number - 1 - lost <= 1_000
        folds |= set(store._db.execute("SELECT folded FROM store").fetchall())
    assert len(folds) <= 6, "ten give way at a time"
    ledger = store.ledger()
    assert ledger is not None and ledger.total.lost == {"drop-oldest": lost}
    store.close()


def test_a_quiet_store_folds_after_a_while_and_a_closed_one_has_nothing_to_fold(
    path: Path, tmp_path: Path
) -> None:
    clock = ObedientClock()
    store = MessageStore(path, clock)
    for number in range(1, 4):
        keep(store, put([b"x"], producer="p", first=number))
    clock.boot += 59
    store.fold_if_due()
    query = "SELECT next_id - 1 - folded + (SELECT max(id) FROM messages) - folded, closed FROM store"
    assert store._db.execute(query).fetchall() == [(2, 0)]
    clock.boot += 1
    store.fold_if_due()
    assert store._db.execute(query).fetchall() == [(0, 0)]
    keep(store, put([b"x"], producer="p", first=4))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(query).fetchall() == [(0, 1)]


def test_producers_whose_rows_are_behind_stay_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the disk they would take a repeat for a new message."""
    monkeypatch.setattr("runtime.adapters.store.producer_memory.IN_MEMORY", 3)
    store = MessageStore(path, ObedientClock())
    for first in (1, 2):
        for who in range(8):
            keep(store, put([b"x"], producer=f"p{who}", first=first))
    for who in range(8):
        (reply,) = keep(store, put([b"x"], producer=f"p{who}", first=2))
        assert isinstance(reply, Stored) and reply.repeated, who
    store.close()


def test_a_message_that_is_gone_gives_its_room_back(path: Path) -> None:
    quota = Quota(Limit(Amount(3, 10**9)))
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    store.count()
    keep(store, put([b"1", b"2"], producer="p", first=1), quota=quota)
    for number in range(3, 40):
        settled = Settled(delivered=[number - 2])
        (reply,) = keep(store, put([b"x"], producer="p", first=number), quota=quota, settled=settled)
        assert not isinstance(reply, Refusal), number
    assert waiting_ids(path) == [38, 39]
    store.close()


def test_large_messages_that_are_gone_do_not_keep_their_pages(store: MessageStore) -> None:
    """Else the disk would seem full, and messages be refused, or give way, until the next fold."""
    for number in range(8):
        keep(store, put([bytes(fold.FOLD_BYTES // 4)], producer="p", first=2 + number))
    spare_bytes = store.spare_bytes()
    keep(store, put([b"small"], producer="p", first=10), settled=Settled(delivered=[*range(3, 11)]))
    assert store.spare_bytes() > spare_bytes + fold.FOLD_BYTES


def test_a_full_disk_gets_the_room_of_messages_that_are_gone(path: Path) -> None:
    store = MessageStore(path, ObedientClock(), max_pages=700)
    for number in range(1, 3):
        keep(store, put([bytes(1_000_000)], producer="p", first=number))
    keep(store, put([b"small"], producer="p", first=3), settled=Settled(delivered=[1, 2]))
    assert rows_beyond(path) == 2, "an ordinary commit noted them"
    (reply,) = keep(store, put([bytes(1_000_000)], producer="p", first=4))
    assert isinstance(reply, Stored) and waiting_ids(path) == [3, 4]
    store.close()


def test_a_disk_without_room_gets_that_of_messages_that_are_gone_with_the_next_look(home: Home) -> None:
    clock = ObedientClock()
    manager = StoreManager(home.config, clock)

    def offer(payload: bytes, *delivered: int) -> object:
        clock.boot += LOOK_AT_DISK_S
        manager.tick()
        settled = Settled(delivered=delivered)
        admission = manager.admission((), settled)
        reply = admission.decide(put([payload]))
        manager.commit(admission, settled)
        return reply

    assert isinstance(offer(bytes(1_500_000)), Stored)
    assert isinstance(offer(bytes(1_500_000)), Stored)
    manager.close()
    home.write_config(f"[store]\nmin_free_bytes = {2**50}\n")  # beside what the store has, there is no room
    manager = StoreManager(home.config, clock)
    manager.commit(None, Settled(delivered=(1,)))
    assert isinstance(offer(b"small"), Stored)
    assert isinstance(offer(b"small", 2), Stored)
    assert rows_beyond(home.layout.messages_db) > 0, "an ordinary commit noted it"
    assert isinstance(offer(bytes(2_000_000)), Refusal)
    assert isinstance(offer(bytes(2_000_000)), Stored)
    manager.close()
