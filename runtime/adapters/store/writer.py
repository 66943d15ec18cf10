"""Writing side of messages.db: only ingest opens it for writing, and only ingest checkpoints it.

Invariants:

1. When `commit` returns, everything it was given is on disk (WAL, `synchronous=FULL`, asserted at open), in
   files that can be found there (`file_identity.py`).
   When it raises, none of it counts. Messages found at opening are on disk, too (`wal.py`): else a repeat
   of one would be acknowledged from memory.
2. One transaction holds what arrived, what was settled, the memory of producers and every counter. So
   the store never counts its messages, ids are never used again, and a repeat is recognised across crashes
   and deliveries.
3. The counters in memory (`view`) change only after the commit.

Considered and left: `INSERT OR IGNORE` (swallows NOT NULL failures, too, which would be acknowledged then),
AUTOINCREMENT (a second b-tree write per row), an index on messages (every row would pay; eviction indexes
exist only where a policy needs them).
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from loguru import logger

from runtime.adapters.process.clock import Clock, wall_s_if_set
from runtime.adapters.store import ledger
from runtime.adapters.store.counters import (
    BY_LEVEL,
    LEAVING,
    QUARANTINED,
    READ_LEVELS,
    Evictions,
    Loss,
    StoreCounters,
    without,
)
from runtime.adapters.store.errors import (
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    StoreUnreadable,
    committing,
    translated,
)
from runtime.adapters.store.evictions import Policies, create_indexes, victims
from runtime.adapters.store.file_identity import FileIdentity
from runtime.adapters.store.holders import Holders
from runtime.adapters.store.keyless_names import StoreLife
from runtime.adapters.store.opening import bring_up_to_date, configure
from runtime.adapters.store.producer_memory import Known, ProducerMemory
from runtime.adapters.store.quarantine import MOST_BYTES, Quarantine
from runtime.adapters.store.reader import text_or_bytes
from runtime.adapters.store.recount import AT_OPENING_S, SLICE_S, Recount
from runtime.adapters.store.statements import IN, SIZE, files_named, insert
from runtime.adapters.store.stream_names import Streams, give_names_back
from runtime.adapters.store.vacuum import begin_wal, give_back, spare_bytes, wal_bytes
from runtime.adapters.store.wal import ends_early, write_again
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.quota import NOTHING, Amount, OverflowPolicy
from runtime.core.ingest.row_repair import is_id, is_number
from runtime.core.ingest.store_view import Stamp, View
from runtime.core.log_events import LogEvent
from runtime.core.message import Backlog, StreamName
from runtime.core.operations.ledger import Ledger
from runtime.core.settlement import Settled

ALIVE_STEPS = 1_000_000
"""Instructions of SQLite's virtual machine: a tenth of a second. No ordinary commit takes so many."""


class MessageStore:
    """The one writer of messages.db."""

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
        self.flush_s = 0.0  # time that the disk took for the last commit
        write_again(path, alive)
        with translated():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self._db.text_factory = text_or_bytes  # one value that cannot be decoded is one row's damage
            self._db.set_progress_handler(alive, ALIVE_STEPS)
            try:
                if ends_early(self._db, path):
                    raise StoreDamaged("the WAL is damaged, in front of commits that were acknowledged")
                configure(self._db, max_pages)
                bring_up_to_date(self._db, path)
                create_indexes(self._db, policies)
                self._load(max_producers)
                self._identity = FileIdentity(path)
                self._life = StoreLife(self._db)
                aside = ledger.count_quarantine(self._db)
                with self._transaction():
                    ledger.open_ledger(self._db, aside, wall_s_if_set(self._clock))
                self._quarantine = Quarantine(self._db, quarantine_bytes)
                self._evicted = Evictions()
                with suppress(StoreUnreadable, StoreFull):  # a later call that needs it meets the error
                    self.count(AT_OPENING_S)
            except (KeyError, TypeError, ValueError) as exc:
                self._db.close()
                raise StoreDamaged(f"the counters cannot be read: {exc!r}") from exc
            except BaseException:
                self._db.close()
                raise

    # --- opening ---

    def _load(self, max_producers: int) -> None:
        run = self._db.execute
        self.uuid, *numbers = run(
            "SELECT uuid, next_id, next_stream, producers FROM store WHERE id = 1"
        ).fetchone()
        if not isinstance(self.uuid, str) or not is_id(numbers[0]) or not all(map(is_number, numbers)):
            raise TypeError("one of them has the wrong type, or is beyond what a store can come to")
        self._next_id, next_stream, producers = numbers
        self._producers = ProducerMemory(self._db, producers, max_producers)
        self._named = Streams(self._db, next_stream)
        self._names, self._streams = self._named.names, self._named.numbers
        self._holders = Holders(self._db)
        self._set_levels(run(READ_LEVELS).fetchall())
        self._counted, self._recount = False, None  # type: tuple[bool, Recount | None]
        run(
            "INSERT INTO boots (boot_id) VALUES (?) ON CONFLICT (boot_id) DO NOTHING",
            (self._clock.boot_id(),),
        )
        (self._boot,) = run("SELECT id FROM boots WHERE boot_id = ?", (self._clock.boot_id(),)).fetchone()

    def _set_levels(self, levels: Iterable[tuple[int, int, int, int]]) -> None:
        self._levels: dict[StreamName, dict[int, Amount]] = {}
        self._total = NOTHING
        for number, priority, messages, size in levels:
            amount = Amount(messages, size)
            level = self._levels.setdefault(self._names[number], {})
            level[int(priority)] = level.get(int(priority), NOTHING).plus(amount)
            self._total = self._total.plus(amount)

    # --- figures and views ---

    def stamp(self) -> Stamp:
        """Time for a stored message: a wall clock that may be wrong is left out: nothing may expire by it."""
        wall_s = wall_s_if_set(self._clock) if self._clock.synchronised() else None
        return Stamp(wall_s, self._clock.boot_s(), self._boot)

    def view(self, room_bytes: int, settled: Settled) -> View:
        """State for the next decision: messages that are settled in the same commit make room for it."""
        levels, total = without(self._levels, self._total, self._leaving(settled))
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
            self._total.minus(total),
            self._counted,
        )

    def _leaving(self, settled: Settled) -> list[tuple[StreamName, int, Amount]]:
        """Messages that the commit of `settled` removes. Damaged rows are ignored, as in the counters."""
        ids = settled.leaving()
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
        return Backlog(self._total.messages, self._total.bytes, None)

    def figures(self) -> dict[str, int]:
        """Figures for `edgectl status`."""
        return {
            "messages": self._total.messages,
            "bytes": self._total.bytes,
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

    def files_named(self, names: Iterable[str]) -> set[str]:
        """Those of these files that messages name, in quarantine too."""
        with translated():
            return files_named(self._db, names)

    # --- the commit ---

    def commit(self, admission: Admission | None, settled: Settled) -> list[Loss]:
        """Store the admitted, remove the settled messages: on disk at the return. Changes all or nothing."""
        if not settled and (admission is None or not (admission.rows or admission.evictions)):
            return []
        assert admission is None or admission.view.next_id == self._next_id, "decided on what is stored now"
        changes = StoreCounters(
            self._next_id, self._names, left=[] if self._recount or self._holders.several else None
        )
        self._quarantine.begin()
        self._life.begin()
        with translated(), self._transaction():
            if settled:
                self._settle(settled, changes)
            if admission is not None:
                self._evict(admission, changes)
                self._store(admission, changes)
            if settled.requeued:
                self._quarantine.requeue(settled.requeued, changes, self.uuid)
            self._quarantine.trim(changes)
            self._count(changes, admission)
        return self._apply(changes, admission)

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

    def _store(self, admission: Admission, changes: StoreCounters) -> None:
        if admission.new_streams:
            self._named.store(admission)
        if admission.has_keyless:
            self._life.assign_ids(self._next_id, self.uuid)
        insert(self._db, admission.rows, admission.details)
        self._holders.store(admission)
        changes.next_id = admission.next_id
        for level, amount in admission.added.items():
            changes.added(*level, amount)
        if admission.producers:
            self._producers.store(admission)

    def _settle(self, settled: Settled, changes: StoreCounters) -> None:
        wall_s = wall_s_if_set(self._clock)
        for number, reason in settled.quarantined:
            self._quarantine.set_aside(number, reason, wall_s)
            self._remove([number], changes, QUARANTINED)
        for reason in {reason for _, reason in settled.dropped}:
            self._remove([number for number, why in settled.dropped if why == reason], changes, reason)
        self._remove(settled.delivered, changes, None)
        for number, evicted in self._evicted.among(settled.delivered):
            changes.delivered_after_all(number, evicted)
        self._quarantine.discard(settled.discarded, changes)

    def _remove(self, ids: Sequence[int], changes: StoreCounters, lost: str | None) -> None:
        """Delete messages; ids that are already gone do no harm."""
        if not ids:
            return
        gone = self._db.execute(
            f"DELETE FROM messages WHERE id IN {IN} RETURNING id, stream, priority, {SIZE}, file",  # noqa: S608
            (json.dumps(ids),),
        ).fetchall()
        assert len(gone) <= len(ids), "a message leaves the store once"
        for number, stream, priority, size, file in gone:
            changes.removed(number, stream, priority, size, file, lost)

    def _evict(self, admission: Admission, changes: StoreCounters) -> None:
        for eviction in admission.evictions:
            streams = None  # numbers of one name; after a salvage several may have it
            if eviction.stream is not None:
                streams = [number for number, name in self._names.items() if name == eviction.stream]
            self._remove(victims(self._db, eviction, streams, self._holders), changes, eviction.policy)

    def _count(self, changes: StoreCounters, admission: Admission | None) -> None:
        ledger.write_counters(self._db, changes, self._levels)
        if changes.lost:
            ledger.log_losses(self._db, changes, self.stamp(), wall_s_if_set(self._clock))
        assert changes.next_id >= self._next_id, "ids only grow"
        self._db.execute(
            "UPDATE store SET next_id = ?, next_stream = next_stream + ?, producers = producers + ?",
            (changes.next_id, *self._growth(admission)),
        )

    def _growth(self, admission: Admission | None) -> tuple[int, int]:
        """Numbers of new streams and new producers in this commit."""
        if admission is None:
            return 0, 0
        met = sum(1 for key in admission.producers if not self._producers.has_row(key))
        return len(admission.new_streams), met

    def _apply(self, changes: StoreCounters, admission: Admission | None) -> list[Loss]:
        """Bring the counters in memory up to date: the commit is on disk. Returns the losses."""
        _, met = self._growth(admission)
        self._quarantine.committed()
        self._evicted.committed(changes)
        self._life.committed()
        self._next_id = changes.next_id
        if admission is not None:
            self._named.committed(admission)
            self._producers.committed(admission, met)
        if self._recount is not None:
            self._recount.left(changes.left or ())  # while their owners are known
        if self._holders.committed(admission, changes.left or (), changes.back):
            self._counted, self._recount = False, None  # the owners of the stored messages were not counted
        if changes.recounted is not None:
            self._counted, self._recount = not self._holders.several, None
            self._set_levels(changes.recounted)
            return changes.losses(self._names)
        for (number, priority), change in changes.levels.items():
            level = self._levels.setdefault(self._names[number], {})
            level[priority] = level.get(priority, NOTHING).plus(change.amount)
            self._total = self._total.plus(change.amount)
        return changes.losses(self._names)

    @property
    def counting(self) -> bool:
        """True while a count of every message is in progress."""
        return self._recount is not None

    def count(self, slice_s: float = SLICE_S) -> bool:
        """Count some more of the messages; True if all were counted since the opening (`recount.py`)."""
        if self._counted:
            return True
        # not kept here meanwhile: after an error the count begins again
        recount, self._recount = self._recount or Recount(self._holders.owner_of), None
        with translated():
            recount.advance(self._db, self._names, slice_s)
            if not recount.done:
                self._recount = recount
                return False
            wrong = recount.wrong(self._db)
            if wrong or recount.changes_ledger(self._db):
                with self._transaction():
                    levels = recount.write(self._db)
                self._set_levels(levels)
            if wrong:
                logger.bind(event=LogEvent.COUNTERS_CORRECTED).error("counters were off: {}", wrong)
        self._holders.counted(recount.held)
        self._counted = True
        return True

    def vacuum(self, pages: int, keep_free_pages: int = 0) -> bool:
        """Give up to `pages` free pages back to the disk; True if there are more to give."""
        with translated():
            return give_back(self._db, self._path, pages, keep_free_pages)

    def give_back_streams(self, most: int) -> bool:
        """Give back names of streams with nothing stored, up to `most`; True if there were any."""
        if self._recount is not None:
            return False  # the recount may hold numbers of them
        with translated(), self._transaction():
            earlier = give_names_back(self._db, most)
        return earlier is not None and self._named.gave_back(earlier, self._levels)

    def crowded(self, room: int | None = None) -> bool:
        """True if `room` more producers, or a tenth of all, would not fit."""
        return self._producers.crowded(room)

    def forget_producers(self, older_than_s: float, but: Iterable[ProducerKey] = ()) -> int:
        """Forget up to a fifth of all producers: those silent for longest, and for `older_than_s`."""
        with translated(), self._transaction():
            gone = self._producers.forget(self.stamp(), older_than_s, but)
        self._producers.forgotten(gone)
        return len(gone)

    def close(self) -> None:
        """Close the file; never raises, so that a failing disk can be left."""
        try:
            self._db.close()
        except sqlite3.Error:  # e.g. EIO at the last checkpoint: the WAL stays, and is read at the next open
            return
