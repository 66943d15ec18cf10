"""Writing side of messages.db: only ingest opens it for writing, and only ingest checkpoints it.

Invariants:

1. When `commit` returns, everything it was given is on disk (WAL, `synchronous=FULL`, asserted at open), in
   files that can be found there (`file_identity.py`).
   When it raises, none of it counts. Messages found at opening are on disk, too (`wal.py`): else a repeat
   of one would be acknowledged from memory.
2. One transaction holds what arrived, what was settled, the memory of producers and every counter: written
   down, or in rows from which the next opening writes them down (`fold.py`). So the store never counts its
   messages, ids are never used again, and a repeat is recognised across crashes and deliveries.
3. The counters in memory (`view`) change only after the commit.

Considered and left: `INSERT OR IGNORE` (swallows NOT NULL failures, too, which would be acknowledged then),
AUTOINCREMENT (a second b-tree write per row), an index on messages (every row would pay; eviction indexes
exist only where a policy needs them).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from loguru import logger

from runtime.adapters.process.clock import wall_s_if_set
from runtime.adapters.store import ledger
from runtime.adapters.store.counters import (
    QUARANTINED,
    Loss,
    StoreCounters,
    overdrawn,
)
from runtime.adapters.store.errors import (
    StoreError,
    StoreFull,
    StoreUnreadable,
    translated,
)
from runtime.adapters.store.evictions import victims
from runtime.adapters.store.fold import FOLD_AFTER_S, Unfolded
from runtime.adapters.store.open_store import OpenStore
from runtime.adapters.store.recount import AT_OPENING_S, SLICE_S, Recount
from runtime.adapters.store.statements import IN, SIZE, insert
from runtime.adapters.store.stream_names import give_names_back
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.unfolded_rows import MOST_NOTED, pack_gone
from runtime.core.log_events import LogEvent
from runtime.core.settlement import Settled


class MessageStore(OpenStore):
    """The one writer of messages.db."""

    def _opened(self) -> None:
        with suppress(StoreUnreadable, StoreFull):  # a later call that needs it meets the error
            self.count(AT_OPENING_S)

    # --- the commit ---

    def commit(self, admission: Admission | None, settled: Settled) -> list[Loss]:
        """Store the admitted, remove the settled messages: on disk at the return. Changes all or nothing."""
        if not settled and (admission is None or not (admission.rows or admission.evictions)):
            return []
        assert admission is None or admission.view.next_id == self._next_id, "decided on what is stored now"
        try:
            changes = self._write(admission, settled)
        except StoreFull:
            if not self._unfolded.gone:
                raise
            changes = self._write(admission, settled, whole=True)  # messages that are gone leave their room
        return self._apply(changes, admission)

    def _write(self, admission: Admission | None, settled: Settled, *, whole: bool = False) -> StoreCounters:
        """Carry a commit out in one transaction, with a fold where that is wanted or needed."""
        self._quarantine.begin()
        self._life.begin()
        with translated(), self._transaction():
            changes = None if whole else self._insert_only(admission, settled)
            return changes or self._commit_whole(admission, settled)

    def _changes(self) -> StoreCounters:
        left: list[tuple[int, int, int, int]] | None = [] if self._recount or self._holders.several else None
        return StoreCounters(self._next_id, self._names, left=left)

    def _insert_only(self, admission: Admission | None, settled: Settled) -> StoreCounters | None:
        """An ordinary commit (`fold.py`); None where this one has more to write than rows."""
        if admission is None or not self._is_ordinary(admission, settled):
            return None
        changes, rows = self._changes(), self._rows(settled.delivered)
        for row in rows:
            changes.removed(*row, lost=None)
        has_file = any(file is not None for *_, file in rows)
        if changes.doubtful or has_file or overdrawn(changes, self._levels.levels):
            return None
        changes.noted = {number: size for number, _, _, size, _ in rows}
        if not self._unfolded.has_room(len(admission.rows), admission.disk_bytes, changes.noted):
            return None
        self._insert(admission, changes)
        if rows:
            first = admission.rows[0][0]
            note = pack_gone(first, changes.noted)
            self._db.execute("UPDATE messages SET gone = ? WHERE id = ?", (note, first))
        return changes

    def _is_ordinary(self, admission: Admission, settled: Settled) -> bool:
        """True if the rows of this commit tell all that it changes, but for what it delivers."""
        return (
            bool(admission.rows)
            and not self._closed
            and admission.rows_tell_all
            and not (admission.evictions or admission.new_streams)
            and len(settled.delivered) <= MOST_NOTED
            and not (settled.quarantined or settled.dropped or settled.requeued or settled.discarded)
            and self._recount is None
            and not self._quarantine.is_overfull
            and not self._evicted.among(settled.delivered)
            and self._holders.has_room(admission)
            and self._producers.has_rows(admission)
        )

    def _rows(self, ids: Sequence[int]) -> list[tuple[int, int, int, int, str | None]]:
        """Id, stream, priority, size and file of those of these messages that are stored."""
        wanted = [number for number in ids if number not in self._unfolded.gone]
        if not wanted:
            return []
        return self._db.execute(
            f"SELECT id, stream, priority, {SIZE}, file FROM messages WHERE id IN {IN}",  # noqa: S608
            (json.dumps(wanted),),
        ).fetchall()

    def _commit_whole(self, admission: Admission | None, settled: Settled) -> StoreCounters:
        """A commit that folds: with every row and counter that it changes."""
        changes = self._changes()
        self._write_unfolded()
        if settled:
            self._settle(settled, changes)
        if admission is not None:
            self._evict(admission, changes)
            self._store(admission, changes)
        if settled.requeued:
            self._quarantine.requeue(settled.requeued, changes, self.uuid)
        self._quarantine.trim(changes)
        self._count(changes, admission)
        return changes

    # --- the fold ---

    def fold(self) -> None:
        """Write the counters of what was committed since the last fold."""
        if self._unfolded.since_s is not None:
            with translated(), self._folding():
                pass

    def fold_if_due(self, after_s: float = FOLD_AFTER_S) -> None:
        """Fold where the last one is so long ago."""
        since_s = self._unfolded.since_s
        if since_s is not None and self._clock.boot_s() - since_s >= after_s:
            self.fold()

    @contextmanager
    def _folding(self) -> Iterator[None]:
        """A transaction in which all counters are on disk; what is done in it is no commit of messages."""
        with self._transaction():
            self._write_unfolded()
            yield
        self._folded()

    def _write_unfolded(self) -> None:
        if self._unfolded.since_s is not None:
            self._unfolded.write(self._db)
            self._producers.write_unfolded()
            self._db.execute("UPDATE store SET next_id = ?1, folded = ?1 - 1", (self._next_id,))

    def _folded(self) -> None:
        self._unfolded = Unfolded()
        self._producers.folded()

    def _store(self, admission: Admission, changes: StoreCounters) -> None:
        if admission.new_streams:
            self._named.store(admission)
        self._insert(admission, changes)
        if admission.producers:
            self._producers.store(admission)

    def _insert(self, admission: Admission, changes: StoreCounters) -> None:
        if admission.has_keyless:
            self._life.assign_ids(self._next_id, self.uuid)
        insert(self._db, admission.rows, admission.details)
        self._holders.store(admission)
        changes.next_id = admission.next_id
        for level, amount in admission.added.items():
            changes.added(*level, amount)

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
        ledger.write_counters(self._db, changes, self._levels.levels)
        if changes.lost:
            ledger.log_losses(self._db, changes, self.stamp(), wall_s_if_set(self._clock))
        assert changes.next_id >= self._next_id, "ids only grow"
        self._db.execute(
            "UPDATE store SET next_id = ?1, folded = ?1 - 1, closed = 0, next_stream = next_stream + ?2, "
            "producers = producers + ?3",
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
        self._set_unfolded(changes, admission)
        self._quarantine.committed()
        self._evicted.committed(changes)
        self._life.committed()
        self._next_id = changes.next_id
        if admission is not None:
            self._named.committed(admission)
            self._producers.committed(admission, met, folded=changes.noted is None)
        if self._recount is not None:
            self._recount.left(changes.left or ())  # while their owners are known
        if self._holders.committed(admission, changes.left or (), changes.back):
            self._counted, self._recount = False, None  # the owners of the stored messages were not counted
        if changes.recounted is not None:
            self._counted, self._recount = not self._holders.several, None
            self._levels.set(changes.recounted)
        else:
            self._levels.committed(changes)
        return changes.losses(self._names)

    def _set_unfolded(self, changes: StoreCounters, admission: Admission | None) -> None:
        if changes.noted is None:
            self._closed = False
            self._folded()
        elif admission is not None:
            self._unfolded.add(changes, len(admission.rows), admission.disk_bytes, self._clock.boot_s())

    @property
    def counting(self) -> bool:
        """True while a count of every message is in progress."""
        return self._recount is not None

    def count(self, slice_s: float = SLICE_S) -> bool:
        """Count some more of the messages; True if all were counted since the opening (`recount.py`)."""
        if self._counted:
            return True
        if self._recount is None:
            self.fold()  # it compares the counters on disk with the rows
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
                self._levels.set(levels)
            if wrong:
                logger.bind(event=LogEvent.COUNTERS_CORRECTED).error("counters were off: {}", wrong)
        self._holders.counted(recount.held)
        self._counted = True
        return True

    def give_back_streams(self, most: int) -> bool:
        """Give back names of streams with nothing stored, up to `most`; True if there were any."""
        if self._recount is not None:
            return False  # the recount may hold numbers of them
        with translated(), self._folding():
            earlier = give_names_back(self._db, most)
        return earlier is not None and self._named.gave_back(earlier, self._levels.levels)

    def crowded(self, room: int | None = None) -> bool:
        """True if `room` more producers, or a tenth of all, would not fit."""
        return self._producers.crowded(room)

    def forget_producers(self, older_than_s: float, but: Iterable[ProducerKey] = ()) -> int:
        """Forget up to a fifth of all producers: those silent for longest, and for `older_than_s`."""
        with translated(), self._folding():
            gone = self._producers.forget(self.stamp(), older_than_s, but)
        self._producers.forgotten(gone)
        return len(gone)

    def close(self) -> None:
        """Fold, and close the file; never raises. Where that fails the next opening folds."""
        with suppress(StoreError, sqlite3.Error):
            if not self._closed:
                with translated(), self._folding():
                    self._db.execute("UPDATE store SET closed = 1")
                self._closed = True
        self.leave()
