"""The quarantine in messages.db, bounded on its own: beyond that the oldest messages go, counted and named.

Its size is added up once, when the first message is set aside, and kept up to date from then on.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from runtime.adapters.store.counters import DISCARDED, StoreCounters
from runtime.adapters.store.keyless_names import read_names
from runtime.adapters.store.statements import COLUMNS, IN, SIZE, SOUND_COLUMNS
from runtime.core.ingest.admission import EVICTED_AT_ONCE
from runtime.core.ingest.quota import LARGEST_BYTES, ROW_OVERHEAD_BYTES, TEXTS_BYTES

MOST_BYTES = 107_374_182
FULL = "quarantine_full"
"""Reason of messages dropped from a full quarantine: set aside no longer, and lost for ever."""
_MOST = f"CASE WHEN file IS NULL THEN length(payload) + {TEXTS_BYTES} ELSE {LARGEST_BYTES} END"
_SIZE = (
    f"CASE WHEN typeof(bytes) = 'integer' AND bytes BETWEEN 0 AND {_MOST} THEN bytes "
    f"ELSE coalesce(length(payload), 0) END + {ROW_OVERHEAD_BYTES}"
)
"""Size according to the row, where that is possible: one flipped bit must not push all other messages out."""
_ROW = f"id, stream, file, {_SIZE}"


class Quarantine:
    """The quarantine; it is changed within the callers' transactions."""

    def __init__(self, db: sqlite3.Connection, most_bytes: int) -> None:
        self._db = db
        self._most_bytes = most_bytes
        self._bytes: int | None = None
        """Bytes on disk; None until they were added up."""
        self._change = 0

    @property
    def is_overfull(self) -> bool:
        """True if the next commit drops messages from it."""
        return (self._bytes or 0) > self._most_bytes

    def begin(self) -> None:
        """Called when a transaction begins; the one before may have failed."""
        self._change = 0

    def committed(self) -> None:
        """Called when the transaction is on disk."""
        if self._bytes is not None:
            self._bytes += self._change

    def set_aside(self, number: int, reason: str, wall_s: float | None) -> None:
        """Copy a message into quarantine; the caller deletes it from `messages`."""
        self._look()
        self._changed(
            f"INSERT INTO quarantine ({COLUMNS}, reason, set_aside_wall_s) SELECT {SOUND_COLUMNS}, ?, ? "  # noqa: S608
            "FROM messages WHERE id = ? ON CONFLICT (id) DO NOTHING",  # our own names
            (reason, wall_s, number),
            1,
        )

    def discard(self, ids: Sequence[int], changes: StoreCounters) -> None:
        """Delete messages that an operator gives up."""
        for number, stream, file, size in self._delete(ids):
            changes.given_up(number, stream, size - ROW_OVERHEAD_BYTES, file, DISCARDED)

    def requeue(self, ids: Sequence[int], changes: StoreCounters, store: str) -> None:
        """Append messages to `messages`, under a new id and still under the key that the hub may know.

        They lose their ttl, which may long be over, and the recorded state of their file when it was taken:
        the operator who requeues them wants them sent, as they are now.
        """
        columns = COLUMNS.replace("id, ", "", 1).replace("key", "coalesce(key, ? || '/' || id)")
        columns = columns.replace("ttl_s", "NULL")
        columns = columns.replace("payload", "CASE WHEN file IS NULL THEN payload ELSE x'' END")
        names = read_names(self._db, store)
        for number in dict.fromkeys(ids):  # a report that was repeated names them twice
            row = self._db.execute(
                f"INSERT INTO messages ({COLUMNS}) SELECT ?, {columns} FROM quarantine WHERE id = ? "  # noqa: S608
                f"RETURNING stream, priority, {SIZE}",
                (changes.next_id, names.of(number), number),
            ).fetchall()
            for stream, priority, size in row:
                changes.next_id += 1
                changes.returned(stream, priority, size)
        self._delete(ids)

    def trim(self, changes: StoreCounters) -> None:
        """Drop the oldest messages beyond the bound; the newest one stays, however large."""
        excess = (self._bytes or 0) + self._change - self._most_bytes
        if excess <= 0:
            return
        oldest = self._db.execute(
            f"SELECT {_ROW} FROM quarantine "  # noqa: S608
            "WHERE id < (SELECT max(id) FROM quarantine) ORDER BY id LIMIT ?",
            (EVICTED_AT_ONCE,),
        ).fetchall()
        gone = []
        for number, stream, file, freed_bytes in oldest:
            if excess <= 0:
                break
            excess -= freed_bytes
            gone.append(number)
            changes.given_up(number, stream, freed_bytes - ROW_OVERHEAD_BYTES, file, FULL)
        self._delete(gone)

    def _look(self) -> None:
        if self._bytes is None:
            ((self._bytes,),) = self._db.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM quarantine")  # noqa: S608

    def _delete(self, ids: Sequence[int]) -> list[tuple[int, object, object, int]]:
        """Delete messages; those that are already gone do no harm. Returns the rows."""
        if not ids:
            return []
        return self._changed(f"DELETE FROM quarantine WHERE id IN {IN}", (json.dumps(ids),), -1)  # noqa: S608

    def _changed(
        self, statement: str, values: tuple[object, ...], sign: int
    ) -> list[tuple[int, object, object, int]]:
        rows = self._db.execute(f"{statement} RETURNING {_ROW}", values).fetchall()
        self._change += sign * sum(size for *_, size in rows)
        return rows
