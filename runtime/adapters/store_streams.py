"""Names of streams that are given back: else as many invented ones as may be kept would lock out all others.

A stream gives its name back when nothing of it is stored, nor set aside, and its counters agree on that (a
damaged row may be stored and counted nowhere). Its number is never used again. What it stored, delivered and
lost stays counted, under the one name `EARLIER`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from runtime.adapters.store_statements import IN
from runtime.core.quota import EARLIER

_EMPTY = (
    "SELECT id FROM streams LEFT JOIN (SELECT stream, max(abs(messages), abs(bytes)) > 0 AS holds, "
    "sum(stored) AS stored, sum(stored - delivered) AS missing FROM levels GROUP BY stream) AS counted "
    "ON counted.stream = id WHERE coalesce(holds, 0) = 0 AND coalesce(missing, 0) <= "
    "(SELECT coalesce(sum(messages), 0) FROM losses WHERE losses.stream = id) "
    "AND NOT (stream_group IS NULL AND streams.stream IS ?) ORDER BY coalesce(stored, 0), id LIMIT ?"
)


class Earlier(NamedTuple):
    """Names that were given back."""

    numbers: Sequence[int]
    into: int
    """Number of the stream under which they are counted now."""


def give_back(db: sqlite3.Connection, most: int) -> Earlier | None:
    """Up to `most` of those that stored least; None where there are none. In the caller's transaction."""
    aside = {number for (number,) in db.execute("SELECT DISTINCT stream FROM quarantine").fetchall()}
    empty = db.execute(_EMPTY, (EARLIER.stream, most + len(aside))).fetchall()
    numbers = [number for (number,) in empty if number not in aside][:most]
    if not numbers:
        return None
    into, listed = _into(db), json.dumps(numbers)
    db.execute(
        "INSERT INTO levels (stream, priority, messages, bytes, stored, delivered) "  # noqa: S608  # our own names
        f"SELECT ?, priority, 0, 0, sum(stored), sum(delivered) FROM levels WHERE stream IN {IN} "
        "GROUP BY priority ON CONFLICT (stream, priority) DO UPDATE SET "
        "stored = stored + excluded.stored, delivered = delivered + excluded.delivered",
        (into, listed),
    )
    db.execute(
        "INSERT INTO losses (stream, reason, messages, bytes, first_id, last_id) "  # noqa: S608  # our own names
        "SELECT ?, reason, sum(messages), sum(bytes), min(first_id), max(last_id) FROM losses "
        f"WHERE stream IN {IN} GROUP BY reason ON CONFLICT (stream, reason) DO UPDATE SET "
        "messages = messages + excluded.messages, bytes = bytes + excluded.bytes, "
        "first_id = min(first_id, excluded.first_id), last_id = max(last_id, excluded.last_id)",
        (into, listed),
    )
    for table, column in (("levels", "stream"), ("losses", "stream"), ("streams", "id")):
        db.execute(f"DELETE FROM {table} WHERE {column} IN {IN}", (listed,))  # noqa: S608  # our own names
    return Earlier(numbers, into)


def _into(db: sqlite3.Connection) -> int:
    found = db.execute(
        "SELECT id FROM streams WHERE stream_group IS NULL AND stream = ?", (EARLIER.stream,)
    ).fetchone()
    if found:
        return int(found[0])
    ((number,),) = db.execute(
        "UPDATE store SET next_stream = max(next_stream, (SELECT coalesce(max(id), 0) FROM streams) + 1) + 1 "
        "RETURNING next_stream - 1"
    ).fetchall()
    db.execute(
        "INSERT INTO streams (id, stream_group, stream) VALUES (?, ?, ?)",
        (number, EARLIER.group, EARLIER.stream),
    )
    return int(number)
