"""messages.db as its one writer has it open: opened, checked and migrated, with what is kept in memory.

The order at opening: the WAL is made what it seems to be (`wal.py`), the schema is brought up to date, the
rows beyond the last fold are written to the counters (`fold.py`), and only then is anything read into memory.
What changes the store stands in `writer.py`.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.adapters.process.clock import Clock, wall_s_if_set
from runtime.adapters.store import ledger
from runtime.adapters.store.counters import (
    BY_LEVEL,
    LEAVING,
    READ_LEVELS,
    Evictions,
    without,
)
from runtime.adapters.store.errors import (
    StoreDamaged,
    StoreUnavailable,
    committing,
    translated,
)
from runtime.adapters.store.evictions import Policies, create_indexes
from runtime.adapters.store.file_identity import FileIdentity
from runtime.adapters.store.fold import Unfolded, fold_at_opening
from runtime.adapters.store.holders import Holders
from runtime.adapters.store.keyless_names import StoreLife
from runtime.adapters.store.level_totals import LevelTotals
from runtime.adapters.store.opening import bring_up_to_date, configure
from runtime.adapters.store.producer_memory import Known, ProducerMemory
from runtime.adapters.store.quarantine import MOST_BYTES, Quarantine
from runtime.adapters.store.reader import text_or_bytes
from runtime.adapters.store.recount import Recount
from runtime.adapters.store.statements import IN, files_named
from runtime.adapters.store.stream_names import Streams
from runtime.adapters.store.unfolded import prepare
from runtime.adapters.store.vacuum import begin_wal, give_back, spare_bytes, take_write_lock, wal_bytes
from runtime.adapters.store.wal import ends_early, write_again
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.quota import Amount, OverflowPolicy
from runtime.core.ingest.row_repair import is_id, is_number
from runtime.core.ingest.store_view import Stamp, View
from runtime.core.message import Backlog, StreamName
from runtime.core.operations.ledger import Ledger
from runtime.core.settlement import Settled

ALIVE_STEPS = 1_000_000
"""Instructions of SQLite's virtual machine: a tenth of a second. No ordinary commit takes so many."""


class OpenStore:
    """messages.db, open for writing: its parts in memory, its transactions, and what may be asked of it."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        policies: Policies = (OverflowPolicy.REJECT, frozenset()),
        max_pages: int | None = None,
        max_producers: int = 10_000,
        quarantine_bytes: int = MOST_BYTES,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Open, create or migrate the store. `max_pages` makes a small disk for tests. Raises StoreError.

        `alive` is called every now and then during long work, here and later: by it the loop shows progress.
        """
        self._path, self._clock = path, clock
        self._unfolded = Unfolded()
        self.flush_s = 0.0  # time that the disk took for the last commit
        write_again(path, alive)
        with translated():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            prepare(self._db)
            self._db.text_factory = text_or_bytes  # one value that cannot be decoded is one row's damage
            self._db.set_progress_handler(alive, ALIVE_STEPS)
            try:
                if ends_early(self._db, path):
                    raise StoreDamaged("the WAL is damaged, in front of commits that were acknowledged")
                configure(self._db, max_pages)
                bring_up_to_date(self._db, path)
                create_indexes(self._db, policies)
                self._identity = FileIdentity(path)
                with self._transaction():
                    fold_at_opening(self._db, Holders(self._db).owner_of)
                self._load(max_producers)
                self._life = StoreLife(self._db)
                aside = ledger.count_quarantine(self._db)
                with self._transaction():
                    ledger.open_ledger(self._db, aside, wall_s_if_set(self._clock))
                self._quarantine = Quarantine(self._db, quarantine_bytes)
                self._evicted = Evictions()
                self._opened()
            except (KeyError, TypeError, ValueError) as exc:
                self._db.close()
                raise StoreDamaged(f"the counters cannot be read: {exc!r}") from exc
            except BaseException:
                self._db.close()
                raise

    # --- opening ---

    def _opened(self) -> None:
        """Called at the end of the opening."""

    def _load(self, max_producers: int) -> None:
        run = self._db.execute
        self.uuid, self._closed, *numbers = run(
            "SELECT uuid, closed = 1, next_id, next_stream, producers FROM store WHERE id = 1"
        ).fetchone()
        if not isinstance(self.uuid, str) or not is_id(numbers[0]) or not all(map(is_number, numbers)):
            raise TypeError("one of them has the wrong type, or is beyond what a store can come to")
        self._next_id, next_stream, producers = numbers
        self._producers = ProducerMemory(self._db, producers, max_producers)
        self._named = Streams(self._db, next_stream)
        self._names, self._streams = self._named.names, self._named.numbers
        self._holders = Holders(self._db)
        self._levels = LevelTotals(run(READ_LEVELS).fetchall(), self._names)
        self._counted = False
        self._recount: Recount | None = None
        run(
            "INSERT INTO boots (boot_id) VALUES (?) ON CONFLICT (boot_id) DO NOTHING",
            (self._clock.boot_id(),),
        )
        (self._boot,) = run("SELECT id FROM boots WHERE boot_id = ?", (self._clock.boot_id(),)).fetchone()

    # --- figures and views ---

    def stamp(self) -> Stamp:
        """Time for a stored message: a wall clock that may be wrong is left out: nothing may expire by it."""
        wall_s = wall_s_if_set(self._clock) if self._clock.synchronised() else None
        return Stamp(wall_s, self._clock.boot_s(), self._boot)

    def view(self, room_bytes: int, settled: Settled) -> View:
        """State for the next decision: messages that are settled in the same commit make room for it."""
        levels, total = without(self._levels.levels, self._levels.total, self._leaving(settled))
        return View(
            self._next_id,
            self._streams,
            self._named.next_number,
            levels,
            total,
            room_bytes,
            self._producers.room,
            self._producers.owned,
            self._producers.share,
            self._named.owned,
            self._holders.view(),
            self._holders.sole,
            self._levels.total.minus(total),
            self._counted,
        )

    def _leaving(self, settled: Settled) -> list[tuple[StreamName, int, Amount]]:
        """Messages that the commit of `settled` removes. Damaged rows are ignored, as in the counters."""
        ids = [number for number in settled.leaving() if number not in self._unfolded.gone]
        if not ids:
            return []
        with translated():
            rows = self._db.execute(f"{LEAVING} WHERE id IN {IN} {BY_LEVEL}", (json.dumps(ids),)).fetchall()
        return [
            (self._names[stream], priority, Amount(messages, size))
            for stream, priority, messages, size in rows
            if stream in self._names
        ]

    def known(self, keys: Iterable[ProducerKey]) -> Known:
        """The remembered sequences of those of these producers that are known."""
        return self._producers.known(keys)

    def backlog(self) -> Backlog:
        """Messages and bytes stored; `oldest_id` is left to the reader."""
        return Backlog(*self._levels.total, None)

    def figures(self) -> dict[str, int]:
        """Figures for `edgectl status`."""
        return {
            "messages": self._levels.total.messages,
            "bytes": self._levels.total.bytes,
            **self._named.figures(),
            "producers": self._producers.count,
            "next_id": self._next_id,
        }

    def ledger(self) -> Ledger | None:
        """Where every message is that was ever stored."""
        with translated():
            return ledger.read_ledger(self._db)

    @property
    def name_counts(self) -> tuple[int, int]:
        """The number of streams of this device itself that have a name, and of leaves."""
        return self._named.counts

    @property
    def next_id(self) -> int:
        """The next id; all ids below were given."""
        return int(self._next_id)

    def rename(self) -> None:
        """Go on as another store, with a new uuid: this store has given the ids that come before."""
        name = uuid.uuid4().hex
        with translated(), self._transaction():
            self._life.keep_names(self.uuid)
            self._db.execute("UPDATE store SET uuid = ?", (name,))
        self.uuid = name

    def check_in_place(self) -> None:
        """Raises StoreUnavailable where the store's files were removed."""
        try:
            self._identity.check()
        except StoreUnavailable:
            self._identity.leave(self._db)
            raise

    def spare_bytes(self) -> int:
        """Free space inside the file that deletes have left."""
        with translated():
            return spare_bytes(self._db)

    def wal(self) -> tuple[int, int]:
        """Size of the WAL, and the growth of the database when the WAL is copied into it."""
        with translated():
            return wal_bytes(self._db, self._path)

    def begin_wal(self) -> bool:
        """Copy the WAL into the database and truncate it; False where another process reads from it."""
        with translated():
            return begin_wal(self._db)

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """No process writes to the store meanwhile. Raises StoreUnavailable where one does so already."""
        with translated():
            take_write_lock(self._db)
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    def files_named(self, names: Iterable[str]) -> set[str]:
        """Those of these files that messages name, in quarantine too."""
        with translated():
            return files_named(self._db, names)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything in it is on disk at the end, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            began_s = time.perf_counter()
            with committing():
                self._db.execute("COMMIT")
            assert not self._db.in_transaction, "what is acknowledged was committed"
            self.flush_s = time.perf_counter() - began_s
            self.check_in_place()  # else the commit is on disk in files that have no name
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def vacuum(self, pages: int, keep_free_pages: int = 0) -> bool:
        """Give up to `pages` free pages back to the disk; True if there are more to give."""
        with translated():
            return give_back(self._db, self._path, pages, keep_free_pages)

    def leave(self) -> None:
        """Close the file, and write nothing more; never raises, so that a failing disk can be left."""
        try:
            self._db.close()
        except sqlite3.Error:  # e.g. EIO at the last checkpoint: the WAL stays, and is read at the next open
            return
