"""One flipped bit shows as a value of another type: ingest serves on, and what can be read is not lost."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.salvage.damaged_reader import ROWS_AT_ONCE
from runtime.adapters.salvage.salvage import last_report, salvage
from runtime.adapters.store import writer as writing
from runtime.adapters.store.errors import SCHEMA_VERSION, StoreDamaged, StoreError, StoreFull
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.recount import Recount
from runtime.adapters.store.statements import COLUMNS
from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.admission import MeasureFiles
from runtime.core.ingest.protocol import ProducerKey, Refusal, Reply, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.message import StoredMessage, StreamName
from runtime.core.settlement import Settled
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, decide, decide_file, ever_lost, keep, put

FLIPPED = {
    "nothing": "PRAGMA user_version",
    "priority is text": "UPDATE messages SET priority = 'x' WHERE id = 2",
    "priority is a fraction": "UPDATE messages SET priority = 4.5 WHERE id = 2",
    "stream is text": "UPDATE messages SET stream = 'x' WHERE id = 2",
    "stream is a fraction": "UPDATE messages SET stream = 1.5 WHERE id = 2",
    "boot is bytes": "UPDATE messages SET boot = x'00' WHERE id = 2",
    "bytes is text": "UPDATE messages SET bytes = 'x' WHERE id = 2",
    "bytes is enormous": "UPDATE messages SET bytes = 9223372036854775807 WHERE id > 1",
    "payload is nothing": "UPDATE messages SET payload = NULL WHERE id = 2",
    "key is not UTF-8": "UPDATE messages SET key = CAST(x'ff' AS TEXT) WHERE id = 2",
    "a message in quarantine": f"INSERT INTO quarantine ({COLUMNS}, reason) SELECT {COLUMNS}, 'why' "
    "FROM messages WHERE id = 2;"
    "UPDATE quarantine SET stream = 'x', reason = NULL",
    "name of a stream is not UTF-8": "UPDATE streams SET stream = CAST(x'ff' AS TEXT) WHERE id = 1",
    "next_id is text": "UPDATE store SET next_id = 'x'",
    "next_id is nothing": "UPDATE store SET next_id = NULL",
    "next_id is enormous": "UPDATE store SET next_id = 9223372036854775807",
    "next_id is too low": "UPDATE store SET next_id = 1",
    "folded is text": "UPDATE store SET folded = 'x'",
    "folded is nothing": "UPDATE store SET folded = NULL",
    "folded is enormous": "UPDATE store SET folded = 9223372036854775807",
    "folded is too low": "UPDATE store SET folded = 1",
    "folded has another bit": "UPDATE store SET folded = folded | 64",
    "both have another bit": "UPDATE store SET folded = folded | 64, next_id = (folded | 64) + 1",
    "both are too low": "UPDATE store SET folded = 2, next_id = 3",
    "closed is text": "UPDATE store SET closed = 'x'",
    "closed is nothing": "UPDATE store SET closed = NULL",
    "a note that is nonsense": "UPDATE messages SET gone = 'x', request = 'y'; UPDATE store SET closed = 0",
    "a note that is a number": "UPDATE messages SET gone = -1, request = x'00' WHERE id = 4",
    "next_stream is text": "UPDATE store SET next_stream = 'x'",
    "uuid is bytes": "UPDATE store SET uuid = x'00'",
    "next_id is beyond the bound": "UPDATE store SET next_id = 4503599627370497",
    "bytes of a level is enormous": "UPDATE levels SET bytes = bytes | 1073741824",
    "producers is enormous": "UPDATE store SET producers = producers | 16384",
    "the schema is another": "PRAGMA user_version = 65538",
    "producers is nothing": "UPDATE store SET producers = NULL",
    "the store has no row": "DELETE FROM store",
    "messages of a level is text": "UPDATE levels SET messages = 'x'",
    "priority of a level is text": "INSERT INTO levels VALUES (1, 'x', 1, 1, 1, 0)",
    "a loss": "INSERT INTO losses VALUES ('x', x'ff', 'x', 1, 1, 0)",
    "boot_id is not UTF-8": "UPDATE boots SET boot_id = CAST(x'ff' AS TEXT)",
    "memory is text": "UPDATE producers SET memory = 'x'",
    "memory is nothing": "UPDATE producers SET memory = NULL",
    "memory is cut": "UPDATE producers SET memory = x'00'",
}


def flip(path: Path, statements: str) -> None:
    """SQLite stores nothing in NOT NULL columns, as long as it knows."""
    with sqlite3.connect(path) as db:
        db.executescript(
            "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')"
        )
    with sqlite3.connect(path) as db:
        db.executescript(statements)


def served(keeper: StoreManager, number: int) -> list[Reply | MeasureFiles]:
    """What a new message and a repeat are answered; empty while the store cannot be used."""
    requests = [put([b"new"], producer="new", first=number, stream="w"), put([b"1"], producer="p", first=1)]
    try:
        admission = keeper.admission({ProducerKey("new", "b"), ProducerKey("p", "b")}, Settled())
        replies = [admission.decide(request) for request in requests]
        keeper.commit(admission, Settled())
    except StoreError as error:
        keeper.failed(error)
        return []
    return replies


@pytest.mark.parametrize("salvaged", [True, False])
@pytest.mark.parametrize("flipped", FLIPPED)
def test_whatever_one_value_says_ingest_serves_on_and_keeps_what_can_be_read(
    home: Home, flipped: str, salvaged: bool
) -> None:
    """It crashed at every start, or began the same salvage for ever."""
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"1", b"2", b"3"], producer="p", first=1, stream="w"), put([b"4"], stream="v"))
    store.close()
    flip(path, FLIPPED[flipped])
    keeper = StoreManager(home.config, clock)
    if salvaged:
        keeper.failed(StoreDamaged("for the test"))
    replies: list[Reply | MeasureFiles] = []
    for number in range(30):
        clock.boot += 1.0
        keeper.tick()
        replies = served(keeper, number) or replies
    assert [type(reply) for reply in replies] == [Stored, Stored], keeper.figures()["store"]
    keeper.close()
    with sqlite3.connect(path) as db:
        assert {id for (id,) in db.execute("SELECT id FROM messages WHERE id < 5")} == {1, 2, 3, 4}
    report = last_report(path)
    assert report is None or report["lost_ranges"] == []


def test_a_size_that_one_bit_made_enormous_does_not_lift_the_limit_when_it_leaves(tmp_path: Path) -> None:
    """More left the counters than had come: half a terabyte below nothing, and no limit held any more."""
    path, quota = tmp_path / "messages.db", Quota(Limit(Amount(1_000, 1_000)))
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x" * 100] * 10, stream="s"))
    store.close()
    flip(path, f"UPDATE messages SET bytes = {100 + 2**39} WHERE id = 2")
    store = MessageStore(path, ObedientClock())
    store.commit(None, Settled(delivered=[2]))
    assert store.backlog().bytes == 900
    assert isinstance(keep(store, put([b"x" * 101], stream="s"), quota=quota)[0], Refusal)
    assert store._db.execute("SELECT messages, bytes, delivered FROM levels").fetchall() == [(9, 900, 1)]
    store.close()


@pytest.mark.parametrize("size", [2**30, 2**62, 2**63 - 1, -(2**62), "'x'"])
@pytest.mark.parametrize("where", ["quarantine", "messages"])
def test_a_damaged_size_costs_nobody_else_the_quarantine_and_does_not_end_ingest(
    tmp_path: Path, where: str, size: object
) -> None:
    """All that was set aside before it was dropped for the room that it said it took; or no commit went."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock(), quarantine_bytes=2_500)
    keep(store, put([b"x" * 100] * 12, stream="s"))
    store.commit(None, Settled(quarantined=[(number, "why") for number in range(1, 8)]))
    store.close()
    flip(path, f"UPDATE {where} SET bytes = {size} WHERE id IN (2, 3, 8)")
    store = MessageStore(path, ObedientClock(), quarantine_bytes=2_500)
    for number in range(8, 12):
        store.commit(None, Settled(quarantined=[(number, "why")]))
    kept = store._db.execute("SELECT id FROM quarantine").fetchall()
    assert kept == [(number,) for number in range(2, 12)], "room for ten"
    assert store.backlog().messages == 1
    store.close()


NOT_UTF8 = "CAST(x'ff' AS TEXT)"
LEAVING = {
    "delivered": Settled(delivered=[2]),
    "set aside": Settled(quarantined=[(2, "why")]),
    "expired": Settled(dropped=[(2, "expired")]),
}


@pytest.mark.parametrize("column", ["file", "bytes", "priority", "stream"])
@pytest.mark.parametrize("leaves", [*LEAVING, "evicted"])
def test_a_value_that_is_no_utf8_costs_its_row_and_no_salvage_of_the_whole_store(
    tmp_path: Path, column: str, leaves: str
) -> None:
    """Whatever row left, for whatever reason: the store was set aside and copied for one flipped bit."""
    path, quota = tmp_path / "messages.db", Quota(Limit(Amount(3, 10_000), OverflowPolicy.DROP_OLDEST))
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1", b"2", b"3"], stream="s"))
    store.close()
    flip(path, f"UPDATE messages SET {column} = {NOT_UTF8} WHERE id = 2")
    store = MessageStore(path, ObedientClock())
    if leaves == "evicted":
        store.commit(None, Settled(delivered=[1]))
        assert isinstance(keep(store, put([b"4", b"5"], stream="s"), quota=quota)[0], Stored)
    else:
        store.commit(None, LEAVING[leaves])
        assert store._db.execute("SELECT id FROM messages").fetchall() == [(1,), (3,)]
    assert store.files_named({"a"}) == set()
    store.close()


@pytest.mark.parametrize("table", ["streams", "producers"])
def test_a_damaged_page_costs_the_names_on_it_and_not_all_behind_it(tmp_path: Path, table: str) -> None:
    """Messages went to the wrong stream, and repeats were stored twice, for one page in the middle."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    names = [f"{number:04}{'x' * 40}" for number in range(600)]
    for name in names:
        keep(store, put([b"x"], producer=name, first=1, stream=name))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        leaves = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
        page = db.execute(leaves, [table]).fetchall()[3][0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    list(salvage(path, "for the test"))
    store = MessageStore(path, ObedientClock())
    known = {name.stream for name in store._streams} if table == "streams" else set()
    if table == "producers":
        known = {key.producer for key in store.known(ProducerKey(name, "b") for name in names)}
    assert 500 < len(known & set(names)) < 600
    assert store.backlog().messages == 600
    store.close()


def id_in_file(number: int) -> bytes:
    """As SQLite writes an id of three bytes into a page."""
    return bytes((0x80 | number >> 14, 0x80 | number >> 7 & 0x7F, number & 0x7F))


def test_rows_that_a_damaged_page_hides_without_an_error_are_lost_by_name(tmp_path: Path) -> None:
    """One bit in the number of its rows: the page reads as sound, and nobody named the others."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x" * 50] * 400))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        leaves = (
            "SELECT pageno, ncell FROM dbstat WHERE name = 'messages' AND pagetype = 'leaf' ORDER BY path"
        )
        page, rows = db.execute(leaves).fetchall()[2]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 3)
        file.write((rows - 5).to_bytes(2, "big"))
    *_, report = salvage(path, "for the test")
    ((first, last),) = report.lost_ranges
    assert last - first + 1 == 5
    with closing(sqlite3.connect(path)) as db:
        there = {number for (number,) in db.execute("SELECT id FROM messages")}
    assert there == set(range(1, 401)) - set(range(first, last + 1))


def leaves_of_messages(path: Path) -> list[tuple[int, int]]:
    """Their pages in order, each with the number of its rows."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT pageno, ncell FROM dbstat WHERE name = 'messages' AND pagetype = 'leaf' ORDER BY path"
        ).fetchall()


def overwrite(path: Path, page: int, at: int, by: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + at)
        file.write(by)


@pytest.mark.parametrize("counters", ["are there", "are lost"])
def test_hidden_rows_are_named_also_where_a_named_range_covers_as_many_that_were_delivered(
    tmp_path: Path, counters: str
) -> None:
    """The sum of what is missing and what is named came out right, and messages were gone without a word."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x" * 50] * 600))
    store.commit(None, Settled(delivered=[*range(300, 306)]))
    if counters == "are lost":
        store._db.execute("DROP TABLE levels")
    store.close()
    pages = leaves_of_messages(path)
    rows_before = list(itertools.accumulate(rows for _, rows in pages))
    unreadable = next(at for at, rows in enumerate(rows_before) if rows > 300)
    overwrite(path, pages[unreadable][0], 0, b"\xa5" * 4096)
    page, rows = pages[2]
    overwrite(path, page, 3, (rows - 5).to_bytes(2, "big"))
    *_, report = salvage(path, "for the test")
    with closing(sqlite3.connect(path)) as db:
        there = {number for (number,) in db.execute("SELECT id FROM messages")}
    named = {number for first, last in report.lost_ranges for number in range(first, last + 1)}
    assert len(there) < 595 - 30
    assert there | named == set(range(1, 601))


def test_a_page_that_is_not_the_one_that_belongs_there_is_named_though_the_sum_is_right(
    tmp_path: Path,
) -> None:
    """A write that went to the wrong place: what it wrote over was gone, and the counters knew no better."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x" * 50] * 400))
    store.close()
    pages = leaves_of_messages(path)
    with path.open("rb") as file:
        file.seek((pages[1][0] - 1) * 4096)
        other = file.read(4096)
    overwrite(path, pages[3][0], 0, other)
    first = sum(rows for _, rows in pages[:3]) + 1
    hidden = range(first, first + pages[3][1])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE levels SET messages = messages - ?", (len(hidden),))
        db.commit()
    *_, report = salvage(path, "for the test")
    assert report.lost_ranges == [(hidden[0], hidden[-1])]


def test_a_row_that_is_dropped_for_the_id_of_another_is_not_counted(tmp_path: Path) -> None:
    """The store was fuller than it was, for good."""
    path, first = tmp_path / "messages.db", 2**20
    store = MessageStore(path, ObedientClock())
    store._next_id = first
    keep(store, put([b"x" * 20] * 10))
    store.close()
    damaged = path.read_bytes()
    (at,) = (match.start() for match in re.finditer(re.escape(id_in_file(first + 5)), damaged))
    path.write_bytes(damaged[:at] + id_in_file(first + 4) + damaged[at + 3 :])
    *_, report = salvage(path, "for the test")
    assert (report.salvaged, report.expected) == (9, 10)
    assert (first + 5, first + 5) in report.lost_ranges
    store = MessageStore(path, ObedientClock())
    assert store.backlog().messages == 9
    store.close()


def test_an_id_that_no_store_comes_to_decides_nothing_and_its_message_is_kept(tmp_path: Path) -> None:
    """Ids went on behind it, up to where the store would open no more; or it was thrown away."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1", b"2", b"3", b"4"]))
    before = names(path)
    store._db.execute("UPDATE messages SET id = ? WHERE id = 2", (2**60,))
    store.close()
    flip(path, f"UPDATE messages SET key = '{before[b'2']}' WHERE id = {2**60}")
    *_, report = salvage(path, "for the test")
    assert report.lost_ranges == []
    store = MessageStore(path, ObedientClock())
    assert store.figures()["next_id"] == 6
    assert names(path) == before
    store.close()


@pytest.mark.parametrize("bit", [52, 53, 60])
def test_messages_behind_a_next_id_that_no_store_comes_to_survive_the_salvage(
    tmp_path: Path, bit: int
) -> None:
    """Served under ids beyond the bound, and thrown away by a salvage whose bound was another."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1", b"2"]))
    store.close()
    flip(path, f"UPDATE store SET next_id = next_id + {2**bit}")
    flip(
        path,
        f"INSERT INTO messages ({COLUMNS}) SELECT {2**bit} + 3, {OTHER_COLUMNS} FROM messages WHERE id = 1",
    )
    flip(path, "UPDATE messages SET payload = 'late' WHERE id > 2")
    before = names(path)
    for _ in salvage(path, "for the test"):
        pass
    store = MessageStore(path, ObedientClock())
    assert names(path) == before
    (reply,) = keep(store, put([b"new"]))
    assert isinstance(reply, Stored) and 2 < min(number or 0 for number in reply.ids) < 2**52
    store.close()


OTHER_COLUMNS = COLUMNS.replace("id, ", "", 1)


def names(path: Path) -> dict[bytes, str]:
    """By payload: under which name the cloud knows each message."""
    reader = StoreReader(path)
    found = [m for m in reader.after(0, 100, 10**6) if isinstance(m, StoredMessage)]
    reader.close()
    return {message.payload: message.key for message in found}


ONE_BIT = [0, 1, 2, 14, 20, 30, 31, 40, 52, 61]


@pytest.mark.parametrize("bit", ONE_BIT)
@pytest.mark.parametrize("column", ["messages", "bytes"])
@pytest.mark.parametrize("policy", list(OverflowPolicy))
def test_one_flipped_bit_in_a_counter_drops_and_refuses_nothing(
    tmp_path: Path, policy: OverflowPolicy, column: str, bit: int
) -> None:
    """All that was acknowledged gave way to the next message; or an empty store was full for ever."""
    path = tmp_path / "messages.db"
    quota = Quota(Limit(Amount(2**14, 2**20), policy), Limit(Amount(2**12, 2**18), policy))
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    keep(store, put([b"x" * 100] * 30, stream="s"), put([b"y"] * 2, stream="t"))
    for drained in (False, True):
        if drained:
            store.commit(None, Settled(delivered=[*range(1, 34)]))
        store.close()
        flip(path, f"UPDATE levels SET {column} = ({column} | {2**bit}) - ({column} & {2**bit})")
        store = MessageStore(path, ObedientClock(), policies=quota.policies())
        (reply,) = keep(store, put([b"new"], stream="s"), quota=quota)
        assert isinstance(reply, Stored), reply
        assert store.backlog().messages == (1 if drained else 33)
    assert ever_lost(store) == {}
    store.close()


def test_a_large_store_is_counted_in_slices_beside_the_commits(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing gives way meanwhile, and what leaves or comes while it is counted is counted right."""
    home.write_config('[store]\nmax_messages = 4000\npolicy = "drop-oldest"')
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"x" * 10] * 3_000, stream="s"))
    store.close()
    flip(path, "UPDATE levels SET messages = messages + 1048576")
    monkeypatch.setattr(MessageStore.count, "__defaults__", (0.0,))
    monkeypatch.setattr("runtime.workers.store_manager.UNASKED_SLICE_S", 0.0)
    monkeypatch.setattr(writing, "AT_OPENING_S", 0.0)
    keeper = StoreManager(home.config, clock)
    with contextlib.closing(keeper):
        admission = keeper.admission((), Settled())
        assert isinstance(admission.decide(put([b"new"], stream="s")), Refusal) and admission.wants_count
        slices = 0
        while not keeper.count():
            slices += 1
            settled = Settled(delivered=[slices, 3_000 - slices])
            keeper.commit(None, settled)
            assert keeper.patience_s(1.0) == 0.0, "there is more to count"
        assert slices >= 3
        admission = keeper.admission((), Settled())
        assert isinstance(admission.decide(put([b"new"], stream="s")), Stored)
        assert keeper.commit(admission, Settled()) == []
        left = 3_001 - 2 * slices
        figures = keeper.figures()
        assert (figures["messages"], figures["bytes"]) == (left, 10 * (left - 1) + 3)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT sum(messages), sum(bytes) FROM levels").fetchall() == [
            (left, 10 * (left - 1) + 3)
        ]


@pytest.mark.parametrize("bit", [0, 13, 14, 30, 61])
def test_one_flipped_bit_in_the_number_of_producers_refuses_no_new_one(home: Home, bit: int) -> None:
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, *[put([b"x"], producer=f"p{number}", first=1) for number in range(20)])
    store.close()
    flip(path, f"UPDATE store SET producers = (producers | {2**bit}) - (producers & {2**bit})")
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        replies = served(keeper, 1)
        assert [type(reply) for reply in replies] == [Stored, Stored]


@pytest.mark.parametrize("bit", [*range(1, 32)])
def test_one_flipped_bit_in_the_number_of_the_schema_makes_no_store_that_of_a_newer_runtime(
    tmp_path: Path, bit: int
) -> None:
    """Nothing was stored or delivered until a person came."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"], producer="p", first=1))
    store.close()
    flipped = SCHEMA_VERSION ^ 1 << bit
    flip(path, f"PRAGMA user_version = {flipped - 2**32 if flipped >= 2**31 else flipped}")
    store = MessageStore(path, ObedientClock())
    assert store.backlog().messages == 1
    store.close()
    reader = StoreReader(path)
    assert reader.backlog().messages == 1
    reader.close()


@pytest.mark.parametrize("payload", [b"1", b""])
@pytest.mark.parametrize("column", ["messages", "bytes", "stored", "delivered"])
def test_a_counter_that_one_bit_emptied_hides_no_message_from_upload(
    tmp_path: Path, column: str, payload: bytes
) -> None:
    """A stream without messages is passed over: its only one was never read, over restarts."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([payload], stream="s"))
    store.close()
    flip(path, f"UPDATE levels SET {column} = 1 - min({column}, 1)")
    reader = UploadReader(path)
    assert {name.stream for name in reader.stored()} == {"s"}
    reader.close()


@pytest.mark.parametrize("says", [2**21 - 1, 1])
def test_a_flipped_id_at_the_end_of_a_slice_costs_no_other_message(tmp_path: Path, says: int) -> None:
    """A large one hid all messages behind it, and nobody named them; a small one had no end."""
    path, first = tmp_path / "messages.db", 2**20
    store = MessageStore(path, ObedientClock())
    store._db.execute("UPDATE store SET next_id = ?", (first,))
    store._next_id = first
    for _ in range(3):
        keep(store, put([b"x" * 20] * 400))
    store.close()
    flipped = first + ROWS_AT_ONCE - 1
    damaged = path.read_bytes()
    (at,) = (match.start() for match in re.finditer(re.escape(id_in_file(flipped)), damaged))
    path.write_bytes(damaged[:at] + id_in_file(says) + damaged[at + 3 :])
    slices = itertools.islice(salvage(path, "for the test"), 100)
    assert len(list(slices)) < 100, "it comes to an end"
    store = MessageStore(path, ObedientClock())
    there = {id for (id,) in store._db.execute("SELECT id FROM messages")}
    assert there == {*range(first, first + 1_200), says} - {flipped}
    store.close()


def test_after_a_salvage_that_lost_the_names_of_streams_all_is_read_and_the_oldest_give_way(
    tmp_path: Path,
) -> None:
    """One number stood for the stream without a name: the others' messages stuck, and the newest gave way."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    for number in range(12):
        keep(store, put([b"%d" % number], stream=f"s{number % 3}"))
    store.close()
    flip(path, "DELETE FROM streams WHERE stream != 's1'; UPDATE streams SET stream = NULL")
    for _ in salvage(path, "for the test"):
        pass
    reader, nameless = UploadReader(path), StreamName(None, None)
    found, _ = reader.find(0, reader.newest(), 100, 10**6, only=nameless)
    assert [row.id for row in found] == [*range(1, 13)]
    assert reader.stored() == {nameless}
    assert reader.find(0, 12, 100, 10**6, without=[nameless]) == ([], 12)
    reader.close()
    for policy in (OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST):
        quota = Quota(Limit(Amount(10**6, 10**9)), Limit(Amount(10, 10**6), policy))
        store = MessageStore(path, ObedientClock(), policies=quota.policies())
        assert isinstance(keep(store, put([b"new"]), quota=quota)[0], Stored)
        ids = [id for (id,) in store._db.execute("SELECT id FROM messages ORDER BY id")]
        assert len(ids) == 10 and ids == [*range(ids[0], ids[0] + 10)], "the oldest gave way"
        store.close()


@pytest.mark.parametrize("salvaged", [False, True])
@pytest.mark.parametrize("bit", [15, 20, 30, 39, 40, 62])
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("policy", list(OverflowPolicy))
def test_one_flipped_bit_in_the_size_of_a_message_makes_no_other_give_way(
    tmp_path: Path, policy: OverflowPolicy, file: bool, bit: int, salvaged: bool
) -> None:
    """The counters were right by it: all that was older was dropped, or every producer refused."""
    path = tmp_path / "messages.db"
    quota = Quota(Limit(Amount(2**14, 2**15), policy))
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    keep(store, put([b"x" * 100] * 10, stream="s"))
    admission, _ = decide(store, [])
    decide_file(admission, put([b""], producer="p", first=1, file="clip", stream="s"))
    store.commit(admission, Settled())
    store.close()
    flip(path, f"UPDATE messages SET bytes = bytes | {2**bit} WHERE id = {11 if file else 5}")
    if salvaged:
        for _ in salvage(path, "for the test"):
            pass
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    (reply,) = keep(store, put([b"new"], stream="s"), quota=quota)
    assert isinstance(reply, Stored), reply
    assert ever_lost(store) == {}
    store.commit(None, Settled(delivered=[*range(1, 13)]))
    assert store.backlog().messages == store.backlog().bytes == 0
    assert store._db.execute("SELECT delivered FROM levels").fetchall() == [(12,)]
    store.close()


def test_a_count_whose_result_found_no_room_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after it would be missing in the counters that it wrote down later."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"] * 3, stream="s"))
    store.close()
    flip(path, "UPDATE levels SET messages = 1024")

    def full(_recount: Recount, _db: sqlite3.Connection) -> list[tuple[int, int, int, int]]:
        raise StoreFull("no room")

    with monkeypatch.context() as failing:
        failing.setattr(Recount, "write", full)
        store = MessageStore(path, ObedientClock())
        with pytest.raises(StoreFull):
            store.count()
    keep(store, put([b"y"], stream="s"))
    assert store.count()
    assert store.backlog().messages == 4
    store.close()
