"""An older store under a newer runtime: nothing in it is lost, forgotten or done again.

`messages-v1.sql` is a store as the first release left it: two of `press`'s three messages wait, one was
delivered; of the stream `b` one expired and one is in quarantine.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from runtime.adapters.process.process import Stop
from runtime.adapters.salvage import damaged_reader
from runtime.adapters.salvage.salvage import pending, salvage
from runtime.adapters.store import errors, opening
from runtime.adapters.store import schema as store_schema
from runtime.adapters.store.errors import StoreError, StoreFull, StoreNewer, StoreUnknown
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.protocol import Stored
from runtime.core.ingest.quota import Amount
from runtime.core.message import StoredMessage, StreamName
from runtime.core.settlement import Settled
from runtime.operations import doctor
from runtime.workers.store_manager import StoreManager, refusal
from runtime.workers.upload import UploadLoop
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, copy_as_killed, ever_lost, keep, put

FROZEN = Path(__file__).parents[1] / "data" / "messages-v1.sql"
WAITING = [(2, b"two"), (3, b"three"), (4, b"\x00\xff keyless"), (7, b"last")]
UUID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of schema 1."""
    path = tmp_path / "messages.db"
    db = sqlite3.connect(path)
    db.executescript(FROZEN.read_text())
    db.close()
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release to come: messages get a colour in their midst, that none of the old ones has."""
    steps = Migrations("messages")
    steps._migrations = list(store_schema.migrations._migrations)

    @steps()
    def version_3(db: Database) -> None:
        for table in ("messages", "quarantine"):
            db.table(table).add_column("colour", str, not_null_default="grey")
            db.table(table).transform(column_order=["id", "colour"])

    monkeypatch.setattr(store_schema, "migrations", steps)
    for module in (errors, store_schema, opening, damaged_reader):
        monkeypatch.setattr(module, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(store_schema.migrate, "__defaults__", (3,))


def columns(path: Path) -> tuple[int, list[str]]:
    with sqlite3.connect(path) as db:
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        found = [row[1] for row in db.execute("PRAGMA table_info(messages)")]
    db.close()
    return version, found


def stored(path: Path) -> list[tuple[int, bytes]]:
    reader = StoreReader(path)
    found = [(m.id, m.payload) for m in reader.after(0, 100, 10**6) if isinstance(m, StoredMessage)]
    reader.close()
    return found


def use_it(path: Path) -> None:
    """As ingest would go on with it: what was stored, remembered and counted stands."""
    store = MessageStore(path, ObedientClock())
    assert stored(path) == WAITING
    assert store.uuid == UUID, "keyless messages would come under other names"
    assert store.backlog().messages == 4
    assert ever_lost(store)[StreamName(None, "b"), "expired"] == Amount(1, 7)
    again, fresh = keep(
        store,
        put([b"one", b"two", b"three"], producer="press", first=1),
        put([b"4"], producer="press", first=4),
    )
    assert isinstance(again, Stored)
    assert (list(again.ids), again.repeated) == ([1, 2, 3], 3)
    assert fresh == Stored(range(8, 9))
    store.commit(None, Settled(delivered=[2, 3, 4, 7], requeued=[6]))
    store.close()
    assert stored(path) == [(8, b"4"), (9, b"poison")]


def test_what_a_released_schema_says_never_changes_again(tmp_path: Path, old: Path) -> None:
    """Else the same number would name two schemas, and a store of the first release would fit neither."""
    db = sqlite3.connect(tmp_path / "today")
    store_schema.migrate(db, 1)
    schemas = [
        each.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        for each in (db, sqlite3.connect(old))
    ]
    assert schemas[0] == schemas[1]


def test_every_version_has_its_step() -> None:
    """The salvage of an older store stops before the step that bears the next number."""
    names = [step.name for step in store_schema.migrations._migrations]
    assert names == [f"version_{number}" for number in range(1, errors.SCHEMA_VERSION + 1)]


def test_today_s_runtime_goes_on_with_a_store_of_the_first_release(old: Path) -> None:
    use_it(old)


def test_a_full_store_of_the_first_release_is_migrated_without_rewriting_it(old: Path) -> None:
    """A disk that is nearly full has no room for a copy, and a device no minutes."""
    with sqlite3.connect(old) as db:
        db.executemany(
            "INSERT INTO messages (id, stream, kind, priority, stored_boot_s, boot, bytes, payload) "
            "VALUES (?, 1, 0, 4, 1.0, 1, 1000, zeroblob(1000))",
            [(number,) for number in range(8, 3_000)],
        )
        db.execute("UPDATE store SET next_id = 3000")
        db.execute("UPDATE levels SET messages = messages + 2992, stored = stored + 2992 WHERE stream = 1")
    db.close()
    store = MessageStore(old, ObedientClock())
    assert old.with_name(f"{old.name}-wal").stat().st_size < old.stat().st_size / 10
    assert (store.next_id, len(stored(old))) == (3_000, 100)
    copy = copy_as_killed(old, old.parent / "killed")
    store.close()
    MessageStore(copy, ObedientClock()).close()
    assert [number for number, _ in stored(copy)[:5]] == [*dict(WAITING), 8]


def test_a_later_runtime_goes_on_with_a_store_of_the_first_release(old: Path, later: None) -> None:
    MessageStore(old, ObedientClock()).close()
    version, found = columns(old)
    assert (version, found[:2]) == (3, ["id", "colour"])
    use_it(old)


def test_a_migration_that_is_cut_short_is_done_again_whole(old: Path, later: None) -> None:
    """For want of room here; and where its step stood, but its number did not, the step is not repeated."""
    ((pages,),) = sqlite3.connect(old).execute("PRAGMA page_count").fetchall()
    with pytest.raises(StoreFull):
        MessageStore(old, ObedientClock(), max_pages=pages)
    assert columns(old)[0] == 2, "the step before it stands"
    assert "colour" not in columns(old)[1]
    MessageStore(old, ObedientClock()).close()
    with sqlite3.connect(old) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    MessageStore(old, ObedientClock()).close()
    use_it(old)
    assert columns(old)[0] == 3


@pytest.mark.usefixtures("later")
def test_a_later_runtime_salvages_a_damaged_store_of_the_first_release(old: Path) -> None:
    """By position a payload would land in another column, or every row be taken for damaged."""
    *_, report = salvage(old, "flipped bytes")
    assert (report.salvaged, report.lost_ranges) == (5, [])
    version, found = columns(old)
    assert (version, found[:2]) == (3, ["id", "colour"])
    use_it(old)


def test_an_older_runtime_leaves_a_damaged_newer_store_to_the_runtime_that_wrote_it(old: Path) -> None:
    with sqlite3.connect(old) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("INSERT INTO _sqlite_migrations VALUES (99, 'messages', 'version_99', '')")
    db.close()
    with pytest.raises(StoreNewer, match="damaged store has schema 99, this runtime knows 2"):
        list(salvage(old, "flipped bytes"))
    assert pending(old)
    assert columns(old.parent / "damaged" / old.name)[0] == 99


@pytest.mark.parametrize("version", [99, 3])
def test_a_newer_store_has_a_word_and_a_remedy_in_every_place(home: Home, version: int) -> None:
    """doctor said "in order", ingest refused all producers without a remedy, upload said nothing."""
    path = home.layout.messages_db
    MessageStore(path, ObedientClock()).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("INSERT INTO _sqlite_migrations VALUES (99, 'messages', 'version_99', '')")
    db.close()
    keeper = StoreManager(home.config, ObedientClock())
    with pytest.raises(StoreError) as caught:
        keeper.admission((), Settled())
    with pytest.raises(StoreUnknown) as read:
        StoreReader(path).open()
    judged = doctor.check_databases(home.layout)
    assert judged.verdict == "error"
    uploader = UploadLoop(home.config, Stop())
    uploader._read()
    words = [
        str(keeper.figures()["store"]),
        refusal(caught.value).message,
        str(read.value),
        f"{judged.text} {judged.remedy}",
        str(uploader._record()["alarm"]),
    ]
    for said in words:
        assert f"has schema {version}, this runtime knows 2" in said
        assert "install that again, or move the file away" in said
    keeper.close()
    uploader._reporter.close()
    shown = home.edgectl("quarantine", "ls")
    assert "install that again" in shown.stderr, shown


def test_doctor_names_an_identity_of_a_newer_runtime(home: Home) -> None:
    home.layout.state.mkdir(exist_ok=True)
    with sqlite3.connect(home.layout.identity_db) as db:
        db.execute("PRAGMA user_version = 77")
    db.close()
    judged = doctor.check_databases(home.layout)
    assert (judged.verdict, "schema 77" in judged.text) == ("error", True)
