"""What is known about one store must never touch the messages of another that took its place."""

from __future__ import annotations

import ast
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.store.errors import StoreError, StoreFull, StoreReplaced, StoreUnavailable
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.workers.store_manager import StoreManager
from tests.support import store_tools
from tests.support.harness import Cloud, Home, eventually
from tests.support.store_tools import ObedientClock
from tests.support.upload import backlog, put, uploading


def test_messages_of_a_store_begun_anew_are_delivered(home: Home, cloud: Cloud) -> None:
    """The ids begin again at 1: upload must not think that it has seen them."""
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"one", b"two")
    eventually(lambda: backlog(home) == 0)
    cloud.faults(withhold_acks=True)
    put(home, {"stream": "s"}, b"three")
    home.workers["ingest"].kill()
    for file in home.layout.messages_db.parent.glob("messages.db*"):
        file.unlink()
    home.start_worker("ingest")
    new = [b"new-1", b"new-2", b"new-3"]
    put(home, {"stream": "s"}, *new)
    cloud.no_faults()
    eventually(lambda: not home.workers["upload"].running(), 20, "upload leaves")
    home.start_worker("upload")  # as supervisord does
    eventually(lambda: {m.payload for m in cloud.messages()} >= set(new), 20, "all new ones arrive")


def test_messages_after_a_copy_was_brought_back_are_delivered_under_ids_of_their_own(
    home: Home, cloud: Cloud, tmp_path: Path
) -> None:
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"old")
    eventually(lambda: backlog(home) == 0)
    back_up(home.layout.messages_db, tmp_path / "copy")
    put(home, {"stream": "s"}, b"before-1", b"before-2")
    eventually(lambda: backlog(home) == 0)
    (tmp_path / "copy").replace(home.layout.messages_db)
    eventually(lambda: "as another store" in home.workers["ingest"].said(), 20, "ingest notices")
    new = [b"new-1", b"new-2", b"new-3"]
    put(home, {"stream": "s"}, *new)
    eventually(lambda: not home.workers["upload"].running(), 20, "upload leaves")
    home.start_worker("upload")  # as supervisord does
    eventually(lambda: {m.payload for m in cloud.messages()} >= set(new), 20, "all new ones arrive")
    ids: dict[str, bytes] = {}
    assert all(ids.setdefault(m.message_id, m.payload) == m.payload for m in cloud.messages())


def test_a_report_about_another_store_removes_nothing(home: Home) -> None:
    home.start_worker("ingest")
    eventually(lambda: backlog(home) == 0, 20, "ingest starts")
    put(home, {"stream": "s"}, b"mine")
    reader, reporter = StoreReader(home.layout.messages_db), DeliveryReporter(home.layout)
    try:
        reader.open()
        reporter.report(Settled(delivered=[1]), "another")
        eventually(lambda: reporter.confirmed() == {1}, 10, "nobody repeats it for ever")
        assert backlog(home) == 1
        reporter.report(Settled(delivered=[1]), reader.uuid)
        eventually(lambda: reporter.confirmed() == {1}, 10)
        assert backlog(home) == 0
    finally:
        reader.close()
        reporter.close()


READER = """
import sys
from pathlib import Path
from runtime.adapters.store.reader import StoreReader
from runtime.errors import EdgeError

reader = StoreReader(Path(sys.argv[1]))
for _ in sys.stdin:
    try:
        print([message.payload for message in reader.after(0, 1_000, 10**6)], flush=True)
    except EdgeError as error:
        print(repr(str(error)), flush=True)
"""


class Kept:
    """A storekeeper, and a reader beside it as upload: within one process they would share SQLite's locks."""

    def __init__(self, home: Home) -> None:
        self.path, self.clock = home.layout.messages_db, ObedientClock()
        self.keeper = StoreManager(home.config, self.clock)
        self.reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def keep(self, *payloads: bytes) -> None:
        admission = self.keeper.admission((), Settled())
        admission.decide(store_tools.put(payloads))
        self.keeper.commit(admission, Settled())

    def go_on(self, error: StoreError) -> None:
        """As ingest does a second later."""
        self.keeper.failed(error)
        self.clock.boot += 1.0
        self.keeper.tick()

    def read(self) -> set[bytes]:
        assert self.reader.stdin is not None and self.reader.stdout is not None
        print(file=self.reader.stdin, flush=True)
        return set(ast.literal_eval(self.reader.stdout.readline()))

    def close(self) -> None:
        self.keeper.close()
        self.reader.communicate(timeout=10)

    def stored(self) -> set[bytes]:
        with sqlite3.connect(self.path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return {payload for (payload,) in db.execute("SELECT payload FROM messages")}


@pytest.fixture
def kept(home: Home) -> Iterator[Kept]:
    with contextlib.closing(Kept(home)) as kept:
        yield kept


@pytest.mark.parametrize(
    "taken", ["messages.db*", "messages.db", "messages.db-wal", "messages.db-shm", "messages.db-*"]
)
@pytest.mark.parametrize("looked", [True, False])
def test_nothing_is_acknowledged_into_a_file_that_somebody_removed(
    kept: Kept, taken: str, looked: bool
) -> None:
    """SQLite writes on to what has no name any more: hours of acknowledged messages went with the process.

    While upload read the store, ingest could not open it any more, or upload saw nothing any more.
    """
    kept.keep(b"before")
    assert kept.read() == {b"before"}
    for file in kept.path.parent.glob(taken):
        file.unlink()
    if looked:
        kept.read()
    with pytest.raises(StoreUnavailable, match="removed or replaced") as caught:
        kept.keep(b"after", *[b"%d" % number for number in range(500)])
    kept.go_on(caught.value)
    kept.keep(b"again")
    assert kept.read() == kept.stored() >= {b"again"}
    database_too = taken in ("messages.db*", "messages.db")
    assert b"before" in kept.stored() or database_too, "SQLite still had the WAL, and wrote it down"


def test_a_reader_in_the_midst_of_a_read_costs_no_message_of_a_wal_that_is_gone(kept: Kept) -> None:
    kept.keep(b"before")
    assert kept.read() == {b"before"}  # upload stays: the last one to leave would write all of it down
    reading = sqlite3.connect(kept.path, isolation_level=None, check_same_thread=False)
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM messages").fetchall()
    kept.keep(b"acknowledged")
    kept.path.with_name("messages.db-wal").unlink()
    done = threading.Timer(0.1, lambda: reading.execute("COMMIT"))
    done.start()
    with pytest.raises(StoreUnavailable, match="removed or replaced") as caught:
        kept.keep(b"after")
    done.join()
    reading.close()
    kept.go_on(caught.value)
    assert kept.stored() >= {b"before", b"acknowledged"}


def test_a_wal_that_went_while_ingest_was_away_does_not_keep_it_out(kept: Kept) -> None:
    """As long as upload was there SQLite looked for frames that were nowhere: nobody could store anything."""
    kept.keep(b"before")
    assert kept.read() == {b"before"}
    kept.keeper.close()
    kept.path.with_name("messages.db-wal").unlink()
    kept.go_on(StoreUnavailable("for the test"))
    kept.keep(b"again")
    assert kept.read() == kept.stored() >= {b"again"}


def test_a_backup_that_is_brought_back_is_not_mixed_with_what_came_after_it(
    kept: Kept, tmp_path: Path
) -> None:
    """The WAL of the store that it replaced stayed, and was read into it."""
    kept.keep(b"old")
    back_up(kept.path, tmp_path / "backup")
    kept.keep(*[b"%d" % number for number in range(500)])
    assert kept.read() > {b"old"}
    (tmp_path / "backup").replace(kept.path)
    with pytest.raises(StoreUnavailable, match="removed or replaced") as caught:
        kept.keep(b"after")
    kept.go_on(caught.value)
    kept.keep(b"again")
    assert kept.read() == kept.stored() == {b"old", b"again"}


@pytest.mark.parametrize("alive", [True, False])
def test_a_backup_that_is_brought_back_gives_no_id_a_second_time(
    home: Home, tmp_path: Path, alive: bool
) -> None:
    """A late report took away a new message that nobody had, or the cloud took it for a repeat."""
    clock, layout = ObedientClock(), home.layout
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        store(keeper, b"old")
        back_up(layout.messages_db, tmp_path / "backup")
        store(keeper, b"delivered")
        late = identity(layout.messages_db)
        if alive:
            (tmp_path / "backup").replace(layout.messages_db)
            clock.boot += 1.0
            keeper.tick()  # notices
            clock.boot += 1.0
            keeper.tick()  # opens
            store(keeper, b"new")
            assert not keeper.is_this(late)
    if not alive:
        (tmp_path / "backup").replace(layout.messages_db)
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        store(keeper, b"new")
        assert not keeper.is_this(late)
        new = identity(layout.messages_db)
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        assert keeper.is_this(new), "an ordinary start changes nothing"


@pytest.mark.parametrize("failure", [StoreFull, StoreUnavailable])
def test_a_disk_that_fails_while_a_copy_is_renamed_lets_it_give_no_id_either(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[StoreError]
) -> None:
    """It stayed open under its old name, or was opened so a second later: what was given was forgotten."""
    clock, path = ObedientClock(), home.layout.messages_db
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        store(keeper, b"old")
        back_up(path, tmp_path / "copy")
        store(keeper, b"delivered")
        late = identity(path)
    (tmp_path / "copy").replace(path)
    with monkeypatch.context() as at_first:

        def fail(_store: MessageStore) -> None:
            raise failure("the disk")

        at_first.setattr(MessageStore, "rename", fail)
        keeper = StoreManager(home.config, clock)
        with pytest.raises(StoreError):
            store(keeper, b"new")
    with contextlib.closing(keeper):
        clock.boot += 60.0
        keeper.tick()
        store(keeper, b"new")
        assert not keeper.is_this(late)


def test_what_is_said_of_ids_is_never_ahead_of_the_store(home: Home) -> None:
    """Else an ordinary crash would pass for an older copy."""
    clock = ObedientClock()
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        store(keeper, b"1")
        name = identity(home.layout.messages_db)
        for said in (home.layout.ids_given.read_bytes(), b"", b"torn", b"\xff" * 40):
            home.layout.ids_given.write_bytes(said)
            store(keeper, b"2")
            clock.boot += 60.0
            keeper.tick()
            with contextlib.closing(StoreManager(home.config, clock)) as after_a_crash:
                assert after_a_crash.is_this(name)


def test_upload_does_not_read_on_under_the_old_name_of_a_copy(home: Home) -> None:
    """It had opened the copy before ingest did: no report counted, and new messages had old message ids."""
    with contextlib.closing(StoreManager(home.config, ObedientClock())) as keeper:
        store(keeper, b"old")
        reader = UploadReader(home.layout.messages_db)
        assert reader.newest() == 1
        with contextlib.closing(MessageStore(home.layout.messages_db, ObedientClock())) as ingest:
            ingest.rename()
        with pytest.raises(StoreReplaced):
            reader.newest()
        reader.close()


def store(keeper: StoreManager, payload: bytes) -> None:
    admission = keeper.admission((), Settled())
    admission.decide(store_tools.put([payload]))
    keeper.commit(admission, Settled())


def back_up(path: Path, copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(copy)) as to:
        db.backup(to)


def identity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return str(db.execute("SELECT uuid FROM store").fetchone()[0])


def test_an_ingest_without_guests_notices_that_its_store_was_removed(home: Home) -> None:
    """Upload would wait for a store for as long as nobody came."""
    clock = ObedientClock()
    keeper = StoreManager(home.config, clock)
    for file in home.layout.state.glob("messages.db*"):
        file.unlink()
    for _ in range(4):
        clock.boot += 1.0
        keeper.tick()
    assert home.layout.messages_db.exists()
    assert keeper.figures()["store"] == "open"
    keeper.close()
