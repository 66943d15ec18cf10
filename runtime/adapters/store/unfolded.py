"""The store as its readers see it: the counters up to the last fold, and the rows beyond.

An ordinary commit inserts rows and writes no counter (`fold.py`). So a reader of counters adds the rows
with an id beyond `store.folded`, of which there are MOST_UNFOLDED at most; and a message that a note in one
of these rows calls delivered (`core/ingest/unfolded_rows.py`) is gone, though its row is still there. All of
it stands here: parts of SQL, for a connection that was prepared, each of which is read in one moment.
"""

from __future__ import annotations

import json
import sqlite3

from runtime.adapters.store.counters import COUNTABLE
from runtime.adapters.store.statements import SIZE
from runtime.core.ingest.row_repair import is_id
from runtime.core.ingest.unfolded_rows import unpack_gone

MOST_UNFOLDED = 1_000
"""No store has more rows beyond its counters: what an opening reads is bounded, and an id further on is
damaged. Part of the schema."""

NEXT_ID = (
    "(SELECT max(next_id, coalesce((SELECT max(id) + 1 FROM messages "  # noqa: S608  # our own names
    f"WHERE id <= folded + {MOST_UNFOLDED}), 0)) FROM store)"
)
"""The next id: all that were given are smaller."""
_BEYOND = "id > (SELECT folded FROM store)"
GONE = (
    "(SELECT value FROM (SELECT id, gone FROM messages "  # noqa: S608
    f"WHERE {_BEYOND} AND gone IS NOT NULL) AS notes, json_each(noted(notes.id, notes.gone)))"
)
"""The ids of messages that are delivered, and whose rows are still there."""
WAITS = f"id NOT IN {GONE}"
"""The condition for a row of `messages` that is a message."""
KNOWN = f"stream IN (SELECT id FROM streams) AND {COUNTABLE}"  # noqa: S608
"""The condition for a row that a level counts: of any other the level is unknown."""
UNFOLDED_STREAMS = f"SELECT DISTINCT stream FROM messages WHERE {_BEYOND}"  # noqa: S608
LEVELS = (
    "(SELECT stream, priority, messages, bytes, stored, delivered FROM levels "  # noqa: S608
    f"UNION ALL SELECT stream, priority, count(*), sum({SIZE}), count(*), 0 "
    f"FROM messages WHERE {_BEYOND} AND {KNOWN} GROUP BY stream, priority "
    f"UNION ALL SELECT stream, priority, -count(*), -sum({SIZE}), 0, count(*) "
    f"FROM messages WHERE id IN {GONE} AND {KNOWN} GROUP BY stream, priority)"
)
"""The table `levels` and what a fold would add to it: up to three rows of a level, to be added up."""
UNKNOWN_ROWS = f"(SELECT count(*) FROM messages WHERE {_BEYOND} AND ({KNOWN}) IS NOT TRUE)"  # noqa: S608
"""The number of rows beyond the fold whose level is unknown."""


def prepare(db: sqlite3.Connection) -> None:
    """Make the parts above usable on this connection."""
    db.create_function("noted", 2, _noted, deterministic=True)


def _noted(number: object, gone: object) -> str:
    return json.dumps(unpack_gone(number, gone) if isinstance(number, int) else [])


def is_fold_point(next_id: object, folded: object) -> bool:
    """True if these two are what a fold writes: they state one number twice, so that a flipped bit shows."""
    return is_id(next_id) and is_id(folded) and next_id == folded + 1  # type: ignore[operator]  # both are int


def most_given(folded: int, closed: object) -> int:
    """The highest id that may have been given: none behind the fold where the store was closed after it."""
    return folded if closed == 1 else folded + MOST_UNFOLDED


class GoneIds:
    """The messages that are gone, for a reader that asks again and again: each row is read once."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._folded = self._read_up_to = 0

    def among(self, db: sqlite3.Connection, after: int, up_to: int) -> list[int]:
        """Those with an id after `after`, and up to `up_to`."""
        ((folded,),) = db.execute("SELECT folded FROM store").fetchall()
        if folded != self._folded and is_id(folded):  # what earlier rows called gone has left the store
            self._folded, self._ids, self._read_up_to = folded, set(), folded
        rows = db.execute(
            "SELECT id, gone FROM messages WHERE id > ? ORDER BY id LIMIT ?",
            (self._read_up_to, MOST_UNFOLDED),
        ).fetchall()
        for number, gone in rows:
            self._ids.update(unpack_gone(number, gone))
        self._read_up_to = max([self._read_up_to, *(number for number, _ in rows)])
        return [id for id in self._ids if after < id <= up_to]
