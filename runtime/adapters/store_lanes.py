"""messages.db as upload reads it: one stream, or all but some, in stretches of ids. See `core.reading`."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from runtime.adapters.store_errors import StoreDamaged, StoreReplaced, translated
from runtime.adapters.store_reader import _COLUMNS, StoreReader
from runtime.core.message import CorruptRow, StoredMessage, StreamName

_STORED = (
    "SELECT stream_group, streams.stream FROM levels JOIN streams ON streams.id = levels.stream "
    "GROUP BY levels.stream HAVING max(messages) > 0 OR max(levels.bytes) > 0 OR sum(stored - delivered) > "
    "(SELECT coalesce(sum(losses.messages), 0) FROM losses WHERE losses.stream = levels.stream)"
)


class LaneReader(StoreReader):
    """Short reads in autocommit, like all reads of the store: of one and the same store."""

    _newest = 0

    def _look_at(self, db: sqlite3.Connection) -> None:
        """A salvaged store is the same one; one that was begun anew, or brought back, is another."""
        before = self.uuid
        super()._look_at(db)
        if before not in (None, self.uuid) or self._next_id <= self._newest:
            raise _replaced()

    def newest(self) -> int:
        """The last id; 0 where the store is empty. Raises StoreDamaged for one that was never given.

        Beyond that nothing would be looked for: what comes has smaller ones.
        """
        db = self._connection()
        with translated():
            ((newest, next_id, uuid),) = db.execute(
                "SELECT (SELECT max(id) FROM messages), (SELECT next_id FROM store), (SELECT uuid FROM store)"
            ).fetchall()
        if isinstance(uuid, str) and uuid != self.uuid:  # ingest found that it is an older copy
            raise _replaced()
        if newest is not None and (not isinstance(next_id, int) or newest >= next_id):
            raise StoreDamaged(f"there is a message {newest}, though the next one is to be {next_id}")
        self._newest = max(self._newest, newest or 0)
        return newest or 0

    def stored(self) -> set[StreamName]:
        """Streams that have any message, from the counters: by any of them, for in one a bit may be flipped.

        What has none by all of them is not looked for.
        """
        db = self._connection()
        with translated():
            rows = db.execute(_STORED).fetchall()
        return {StreamName(group, stream) for group, stream in rows}

    def find(
        self,
        after: int,
        up_to: int,
        limit: int,
        max_bytes: int,
        only: StreamName | None = None,
        without: Collection[StreamName] = (),
    ) -> tuple[list[StoredMessage | CorruptRow], bool]:
        """Messages behind `after` up to `up_to`, in id order, and whether that is all of them there."""
        db = self._connection()
        with translated():
            numbers = {
                StreamName(group, stream): id
                for id, group, stream in db.execute("SELECT id, stream_group, stream FROM streams").fetchall()
            }
            if only is not None:
                condition, chosen = "stream = ?", [numbers.get(only, -1)]
            else:
                chosen = [numbers[name] for name in without if name in numbers]
                condition = f"stream NOT IN ({','.join('?' * len(chosen))})" if chosen else "1"
            sizes = db.execute(
                f"SELECT id, bytes FROM messages WHERE id > ? AND id <= ? AND {condition}"  # noqa: S608  # ours
                " ORDER BY id LIMIT ?",
                (after, up_to, *chosen, limit),
            ).fetchall()
            wanted, total_bytes = 0, 0
            for _, size in sizes:
                total_bytes += size if isinstance(size, int) else 0  # damaged: the row itself will say so
                if wanted and total_bytes > max_bytes:
                    break
                wanted += 1
            if not wanted:
                return [], True
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM messages WHERE id > ? AND id <= ? AND {condition} ORDER BY id",  # noqa: S608
                (after, sizes[wanted - 1][0], *chosen),
            ).fetchall()
        return [self._message(row) for row in rows], wanted == len(sizes) < limit


def _replaced() -> StoreReplaced:
    return StoreReplaced("messages.db is another store now: begin anew with what it has")
