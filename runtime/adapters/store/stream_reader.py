"""Streams as they are now, and the messages that are being stored: for `edgectl top` and `edgectl tap`.

It reads as every reader does: short statements in autocommit, each ended by `fetchall()`, so that nothing
holds ingest up. A message that is stored and delivered between two looks is not seen, but counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runtime.adapters.store.errors import translated
from runtime.adapters.store.reader import READ_COLUMNS, StoreReader
from runtime.adapters.store.unfolded import LEVELS, NEXT_ID, WAITS
from runtime.core.message import CorruptRow, StoredMessage, StreamName
from runtime.core.moment import Moment
from runtime.core.operations.stream_figures import StreamLevel

MOST_AGED = 2_000
"""So many of the oldest messages are looked through for the oldest of each stream."""
MOST_READ = 500
"""Messages of one look."""
_HEADS = READ_COLUMNS.removesuffix(", payload")


@dataclass(frozen=True, slots=True)
class PassingMessage:
    """A message that has just been stored, with the beginning of its payload."""

    message: StoredMessage | CorruptRow
    payload_bytes: int
    """Size of the whole payload, of its file where it has one."""


@dataclass(frozen=True, slots=True)
class StoredSoFar:
    """Counters of one moment: they tell how many messages passed between two."""

    next_id: int
    stored: Mapping[StreamName, int]


class StreamReader(StoreReader):
    """Reader of levels by stream, and of messages as they come."""

    def levels(self) -> dict[StreamName, StreamLevel]:
        """What is stored of every stream, and was stored and delivered ever."""
        db = self._connection()
        with translated():
            rows = db.execute(
                f"SELECT stream, sum(messages), sum(bytes), sum(stored), sum(delivered) FROM {LEVELS}"  # noqa: S608
                " GROUP BY stream"
            ).fetchall()
        return {
            self._name(number): StreamLevel(*counts)
            for number, *counts in rows
            if all(isinstance(count, int) for count in counts)
        }

    def oldest(self) -> dict[StreamName, Moment]:
        """When the oldest message of each stream was stored, as far as it is among the oldest of all."""
        db = self._connection()
        with translated():
            rows = db.execute(
                "SELECT stream, stored_wall_s, stored_boot_s, boot FROM messages WHERE id IN"  # noqa: S608
                f" (SELECT min(id) FROM (SELECT id, stream FROM messages WHERE {WAITS} ORDER BY id LIMIT ?)"
                " GROUP BY stream)",
                (MOST_AGED,),
            ).fetchall()
        return {
            self._name(number): Moment(wall_s or 0.0, boot_s, self._boot(boot))
            for number, wall_s, boot_s, boot in rows
            if isinstance(wall_s, float | None) and isinstance(boot_s, float) and isinstance(boot, int)
        }

    def stored_so_far(self) -> StoredSoFar:
        """The counters, all of one moment."""
        db = self._connection()
        with translated():
            rows = db.execute(
                f"SELECT {NEXT_ID}, sums.stream, sums.stored FROM store LEFT JOIN"  # noqa: S608  # our own names
                f" (SELECT stream, sum(stored) AS stored FROM {LEVELS} GROUP BY stream) AS sums"
            ).fetchall()
        stored = {self._name(number): count for _, number, count in rows if isinstance(count, int)}
        return StoredSoFar(int(rows[0][0]) if rows else 1, stored)

    def changed_since(self, version: int | None) -> tuple[bool, int]:
        """True if the store was written to since it had this version, and its version now."""
        db = self._connection()
        with translated():
            ((now,),) = db.execute("PRAGMA data_version").fetchall()
        return now != version, int(now)

    def passing(self, after: int, before: int, shown_bytes: int) -> list[PassingMessage]:
        """Messages with an id between these two, oldest first, with `shown_bytes` of each payload."""
        db = self._connection()
        with translated():
            rows = db.execute(
                f"SELECT {_HEADS}, substr(payload, 1, ?), length(payload), bytes FROM messages"  # noqa: S608 - our names
                " WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
                (shown_bytes, after, before, MOST_READ),
            ).fetchall()
        return [self._passing(row) for row in rows]

    def _passing(self, row: tuple[object, ...]) -> PassingMessage:
        *columns, payload_bytes, size_bytes = row
        message = self._message(columns)
        if isinstance(message, StoredMessage) and message.file is not None:
            return PassingMessage(
                replace(message, payload=b""), size_bytes if isinstance(size_bytes, int) else 0
            )
        return PassingMessage(message, payload_bytes if isinstance(payload_bytes, int) else 0)

    def _name(self, number: int) -> StreamName:
        try:
            return StreamName(*self._stream(number))
        except KeyError:  # damaged, or removed meanwhile
            return StreamName(None, f"#{number}")
