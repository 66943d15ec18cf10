"""Parts of the writer's SQL statements; every name in them is our own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import get_args, get_type_hints

from runtime.core.ingest.message_fields import DETAIL_COLUMNS, Details, MessageRow, Values, detail_values
from runtime.core.ingest.quota import LARGEST_BYTES, TEXTS_BYTES

_FIELDS = (*MessageRow._fields, *DETAIL_COLUMNS)
_KEPT = tuple(name for name in _FIELDS if name != "request")
_NEVER_NULL = {
    name for name, kind in get_type_hints(MessageRow).items() if type(None) not in get_args(kind)
} - {"id"}

COLUMNS = ", ".join(_KEPT)
"""The columns of a message, in quarantine too."""
SOUND_COLUMNS = ", ".join(f"coalesce({name}, 0)" if name in _NEVER_NULL else name for name in _KEPT)
"""The columns of a row that may be damaged, with values that the schema accepts."""
_CONTENT = (
    "CASE WHEN file IS NULL THEN length(payload) "
    "WHEN json_valid(CAST(payload AS TEXT)) "
    f"THEN coalesce(json_extract(CAST(payload AS TEXT), '$.size_bytes'), {LARGEST_BYTES}) "
    f"ELSE {LARGEST_BYTES} END"
)
SIZE = (
    f"CASE WHEN typeof(bytes) = 'integer' AND bytes BETWEEN 0 AND {_CONTENT} + {TEXTS_BYTES} "
    "THEN bytes ELSE -1 END"
)
"""Size that a message counts with; -1 where its row says more than it can have. One flipped bit there would
be as bad as one in the counters: all other messages would have to give way to it. The size of a file is known
from when it was taken."""
IN = "(SELECT value FROM json_each(?))"
"""A list of ids, given as JSON."""


def _statement(fields: tuple[str, ...], rows: int = 1) -> str:
    row = f"({', '.join('?' * len(fields))})"
    return f"INSERT INTO messages ({', '.join(fields)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # our own names


INSERT = _statement(MessageRow._fields)
"""Inserts only the columns that every message has: SQLite takes half the time for it."""
INSERT_DETAILED = _statement(_FIELDS)
AT_ONCE = 50
INSERT_MANY = _statement(MessageRow._fields, AT_ONCE)
"""The same for AT_ONCE rows: a sixth less time for each. SQLite keeps a copy of them until the next come."""


def insert(db: sqlite3.Connection, rows: Sequence[Values], details: Mapping[int, Details]) -> None:
    """Insert every row; rows without details have few columns and take half the time."""
    if not details:
        whole = len(rows) - len(rows) % AT_ONCE
        for at in range(0, whole, AT_ONCE):
            db.execute(INSERT_MANY, tuple(chain.from_iterable(rows[at : at + AT_ONCE])))
        db.executemany(INSERT, rows[whole:])
        return
    for row in rows:
        more = details.get(row[0])
        db.execute(*((INSERT, row) if more is None else (INSERT_DETAILED, (*row, *detail_values(more)))))


def files_named(db: sqlite3.Connection, names: Iterable[str]) -> set[str]:
    """Those of these files that messages name, in quarantine too."""
    db.execute("CREATE INDEX IF NOT EXISTS by_file ON messages (file) WHERE file IS NOT NULL")
    rows = db.execute(
        f"SELECT file FROM messages WHERE file IN {IN} UNION SELECT file FROM quarantine",  # noqa: S608
        (json.dumps(list(names)),),
    ).fetchall()
    return {file for (file,) in rows if file is not None} & set(names)
