"""Upload's reader of messages.db: one stream, or all but some, in ranges of ids.

See `core/delivery/read_planner.py`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from runtime.adapters.store.errors import StoreDamaged, StoreReplaced, translated
from runtime.adapters.store.leaf_names import read_streams
from runtime.adapters.store.reader import READ_COLUMNS, StoreReader
from runtime.adapters.store.statements import IN
from runtime.adapters.store.unfolded import LEVELS, UNFOLDED_STREAMS, GoneIds, is_fold_point, most_given
from runtime.core.message import CorruptRow, StoredMessage, StreamName

_STORED = (
    "SELECT levels.stream FROM levels JOIN streams ON streams.id = levels.stream "  # noqa: S608
    "GROUP BY levels.stream HAVING max(messages) > 0 OR max(levels.bytes) > 0 OR sum(stored - delivered) > "
    "(SELECT coalesce(sum(losses.messages), 0) FROM losses WHERE losses.stream = levels.stream) "
    f"UNION SELECT id FROM streams WHERE id IN ({UNFOLDED_STREAMS})"
)

_LEVELS = (
    "SELECT levels.stream, priority, sum(messages), sum(levels.bytes), sum(stored) "  # noqa: S608
    f"FROM {LEVELS} AS levels JOIN streams ON streams.id = levels.stream GROUP BY levels.stream, priority"
)

READ_S = 0.1
"""A read that passes over other streams' messages ends after this time, and the next goes on from there."""
LEAST_STRETCH, MOST_STRETCH = 16, 1_024
"""Number of ids that one statement covers: the time is checked between two statements."""


class StoredLevel(NamedTuple):
    """What is stored of one stream at one priority, by the counters."""

    stream: StreamName
    priority: int
    messages: int
    bytes: int
    stored: int
    """Messages that were ever stored."""


class UploadReader(StoreReader):
    """Short reads in autocommit, like all reads of the store, and always of one and the same store."""

    _newest = 0

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path)
        self._now_s = now_s
        self._stretch = LEAST_STRETCH
        self._gone = GoneIds()

    def _look_at(self, db: sqlite3.Connection) -> None:
        """Raises StoreReplaced for a new store, or an older copy; a salvaged store is the same one."""
        before = self.uuid
        super()._look_at(db)
        self._gone = GoneIds()
        if before not in (None, self.uuid) or self._next_id <= self._newest:
            raise _replaced()

    def newest(self) -> int:
        """The last id; 0 where the store is empty. Raises StoreDamaged for an id that was never given.

        After such an id upload would find nothing: new messages have smaller ids.
        """
        db = self._connection()
        with translated():
            ((newest, next_id, folded, closed, uuid),) = db.execute(
                "SELECT (SELECT max(id) FROM messages), next_id, folded, closed, uuid FROM store"
            ).fetchall()
        if isinstance(uuid, str) and uuid != self.uuid:  # ingest found that it is an older copy
            raise _replaced()
        if not is_fold_point(next_id, folded):
            raise StoreDamaged(f"all up to {folded} is counted, though the next one is to be {next_id}")
        if newest is not None and newest > most_given(folded, closed):
            raise StoreDamaged(f"there is a message {newest}, though all up to {folded} is counted")
        self._newest = max(self._newest, newest or 0)
        return newest or 0

    def stored(self) -> set[StreamName]:
        """Streams that have messages, by any of the counters, for in one of them a bit may be flipped.

        A stream that has none by all counters is not searched for.
        """
        db = self._connection()
        with translated():
            rows = db.execute(_STORED).fetchall()
        return {self._stream(number) for (number,) in rows}

    def levels(self) -> list[StoredLevel]:
        """What waits and what ever came, by stream and priority. Damaged counters are left out."""
        db = self._connection()
        with translated():
            rows = db.execute(_LEVELS).fetchall()
        return [
            StoredLevel(self._stream(number), *counts)
            for number, *counts in rows
            if all(type(count) is int for count in counts)
        ]

    def stored_above(self, least_priority: int) -> set[StreamName]:
        """Streams that have messages of at least this priority, from the counters."""
        db = self._connection()
        with translated():
            rows = db.execute(
                f"SELECT DISTINCT levels.stream FROM {LEVELS} AS levels JOIN streams"  # noqa: S608  # our own names
                " ON streams.id = levels.stream WHERE (messages > 0 OR bytes > 0) AND priority >= ?",
                (least_priority,),
            ).fetchall()
        return {self._stream(number) for (number,) in rows}

    def find(
        self,
        after: int,
        up_to: int,
        limit: int,
        max_bytes: int,
        only: StreamName | None = None,
        without: Collection[StreamName] = (),
    ) -> tuple[list[StoredMessage | CorruptRow], int]:
        """Messages after `after`, in id order, and the id up to which there are no others.

        That id may be before `up_to`: a page is full, or READ_S has passed. Large rows of other streams cost
        a page of the disk each, so passing over them is bounded by time, not by their number.
        """
        db = self._connection()
        with translated():
            condition, chosen = self._condition(db, only, without)
            if gone := self._gone.among(db, after, up_to):
                condition += f" AND id NOT IN ({','.join(map(str, gone))})"
            ids, reached = self._ids(db, after, up_to, limit, max_bytes, condition, chosen)
            rows = db.execute(
                f"SELECT {READ_COLUMNS} FROM messages WHERE id IN {IN} ORDER BY id",  # noqa: S608  # our own names
                (json.dumps(ids),),
            ).fetchall()
        return [self._message(row) for row in rows], reached

    def _condition(
        self, db: sqlite3.Connection, only: StreamName | None, without: Collection[StreamName]
    ) -> tuple[str, list[int]]:
        """Condition and stream numbers; after a salvage several may stand for the stream without a name."""
        wanted = set(without) if only is None else {only}
        if not wanted:
            return "", []
        numbers = [number for number, name in read_streams(db).items() if name in wanted]
        marks = ",".join("?" * len(numbers))
        if only is None:
            return f" AND (stream NOT IN ({marks}) OR stream IS NULL)", numbers
        return f" AND stream IN ({marks})", numbers

    def _ids(
        self,
        db: sqlite3.Connection,
        after: int,
        up_to: int,
        limit: int,
        max_bytes: int,
        condition: str,
        chosen: list[int],
    ) -> tuple[list[int], int]:
        """Ids that fit into both bounds, one at least, range by range; and the id up to which that is all."""
        statement = f"SELECT id, bytes FROM messages WHERE id > ? AND id <= ?{condition} ORDER BY id LIMIT ?"  # noqa: S608
        ids: list[int] = []
        total_bytes = 0
        until_s = self._now_s() + READ_S
        while after < up_to:
            end = min(up_to, after + self._stretch) if condition else up_to
            began_s = self._now_s()
            sizes = db.execute(statement, (after, end, *chosen, limit - len(ids))).fetchall()
            for id, size in sizes:
                total_bytes += size if isinstance(size, int) else 0  # damaged: the row itself will say so
                if ids and total_bytes > max_bytes:
                    return ids, ids[-1]
                ids.append(id)
            if len(ids) >= limit:
                return ids, ids[-1]
            after = end if sizes else _before_next(db, end, up_to)
            now_s = self._now_s()
            self._adapt(now_s - began_s)
            if now_s >= until_s:
                break
        return ids, after

    def _adapt(self, took_s: float) -> None:
        """Shorten the range of ids where a statement takes long, lengthen it where it does not."""
        if took_s > READ_S / 4:
            self._stretch = max(LEAST_STRETCH, self._stretch // 2)
        elif took_s < READ_S / 16:
            self._stretch = min(MOST_STRETCH, self._stretch * 2)


def _before_next(db: sqlite3.Connection, end: int, up_to: int) -> int:
    """Nothing was found up to `end`: how far there is nothing at all, so that gaps of ids cost nothing."""
    ((following,),) = db.execute("SELECT min(id) FROM messages WHERE id > ?", (end,)).fetchall()
    return up_to if following is None else min(up_to, following - 1)


def _replaced() -> StoreReplaced:
    return StoreReplaced("messages.db is another store now: begin anew with what it has")
