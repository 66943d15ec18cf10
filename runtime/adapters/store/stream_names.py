"""Stream names that are given back: else as many invented names as may be kept would lock out all others.

A stream's name is given back when none of its messages is stored or set aside, and its counters agree on that
(a damaged row may be stored and counted nowhere). Its number is never used again. The messages that it
stored, delivered and lost stay counted, under the one name `EARLIER`.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runtime.adapters.store.leaf_names import forget_leaves, read_streams, write_streams
from runtime.adapters.store.statements import IN
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.quota import EARLIER, Amount
from runtime.core.message import StreamName

_EMPTY = (
    "SELECT id FROM streams LEFT JOIN (SELECT stream, max(abs(messages), abs(bytes)) > 0 AS holds, "
    "sum(stored) AS stored, sum(stored - delivered) AS missing FROM levels GROUP BY stream) AS counted "
    "ON counted.stream = id WHERE coalesce(holds, 0) = 0 AND coalesce(missing, 0) <= "
    "(SELECT coalesce(sum(messages), 0) FROM losses WHERE losses.stream = id) "
    "AND NOT (stream_group IS NULL AND streams.stream IS ?) ORDER BY coalesce(stored, 0), id LIMIT ?"
)


class Earlier(NamedTuple):
    """Stream numbers whose names were given back."""

    numbers: Sequence[int]
    into: int
    """Number of the stream under which their messages are counted now."""


class Streams:
    """The streams of the store, as they are on disk."""

    def __init__(self, db: sqlite3.Connection, next_number: int) -> None:
        """Load the streams. Raises TypeError where a stream's name is not text."""
        self._db = db
        self.names = read_streams(db)
        """Names by stream number; after a salvage several may have the same one: that of no stream."""
        if not all(part is None or isinstance(part, str) for name in self.names.values() for part in name):
            raise TypeError("the name of a stream is no text")
        self.numbers = {name: number for number, name in self.names.items()}
        self.next_number = max([next_number, *(number + 1 for number in self.names)])
        self._named_by: dict[StreamName, str] = {}
        self._owned: Counter[str] = Counter()
        self._of_leaves = Counter(name.leaf for name in self.numbers if name.leaf is not None)
        """The number of streams of each leaf."""

    @property
    def owned(self) -> Mapping[str, int]:
        """Number of streams that each owner named since the store was opened."""
        return self._owned

    @property
    def counts(self) -> tuple[int, int]:
        """The number of streams of this device itself, and of leaves that have any."""
        return len(self.numbers) - self._of_leaves.total(), len(self._of_leaves)

    def figures(self) -> dict[str, int]:
        """Figures for `edgectl status`."""
        leaves = {"leaves": len(self._of_leaves)} if self._of_leaves else {}
        return {"streams": len(self.numbers), **leaves}

    def store(self, admission: Admission) -> None:
        """Insert the streams that are new with this admission."""
        write_streams(self._db, [(number, name) for name, number in admission.new_streams.items()])

    def committed(self, admission: Admission) -> None:
        """Update the streams in memory after the commit."""
        if not admission.new_streams:  # nearly always
            return
        self.numbers.update(admission.new_streams)
        self.names.update({number: name for name, number in admission.new_streams.items()})
        self._named_by.update(admission.named_by)
        self._owned.update(admission.named_by.values())
        self._of_leaves.update(name.leaf for name in admission.new_streams if name.leaf is not None)
        self.next_number += len(admission.new_streams)

    def gave_back(self, earlier: Earlier, levels: dict[StreamName, dict[int, Amount]]) -> bool:
        """Update the streams and `levels` in memory after the commit that gave names back. Always True."""
        for number in earlier.numbers:
            name = self.names.pop(number)
            if self.numbers.get(name) == number:
                del self.numbers[name]
                self._left(name)
                if (owner := self._named_by.pop(name, None)) is not None:
                    self._owned[owner] -= 1
                if not any(map(any, levels.get(name, {}).values())):  # a salvage may leave one name twice
                    levels.pop(name, None)
        self.names[earlier.into], self.numbers[EARLIER] = EARLIER, earlier.into
        self.next_number = max(self.next_number, earlier.into + 1)
        return True

    def _left(self, name: StreamName) -> None:
        if name.leaf is not None:
            self._of_leaves -= Counter((name.leaf,))


def give_names_back(db: sqlite3.Connection, most: int) -> Earlier | None:
    """Give back the names of up to `most` streams, those that stored least first; None where there are none.

    Runs in the caller's transaction.
    """
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
    db.execute(
        "INSERT INTO ledger_beside SELECT ?, what, sum(messages) FROM ledger_beside "  # noqa: S608  # our own names
        f"WHERE stream IN {IN} GROUP BY what "
        "ON CONFLICT (stream, what) DO UPDATE SET messages = messages + excluded.messages",
        (into, listed),
    )
    db.execute(f"UPDATE loss_log SET stream = ? WHERE stream IN {IN}", (into, listed))  # noqa: S608  # our own names
    for table, column in (
        ("levels", "stream"),
        ("losses", "stream"),
        ("ledger_beside", "stream"),
        ("streams", "id"),
    ):
        db.execute(f"DELETE FROM {table} WHERE {column} IN {IN}", (listed,))  # noqa: S608  # our own names
    forget_leaves(db)
    return Earlier(numbers, into)


def _into(db: sqlite3.Connection) -> int:
    row = db.execute(
        "SELECT id FROM streams WHERE stream_group IS NULL AND stream = ?", (EARLIER.stream,)
    ).fetchone()
    if row:
        return int(row[0])
    ((number,),) = db.execute(
        "UPDATE store SET next_stream = max(next_stream, (SELECT coalesce(max(id), 0) FROM streams) + 1) + 1 "
        "RETURNING next_stream - 1"
    ).fetchall()
    db.execute(
        "INSERT INTO streams (id, stream_group, stream) VALUES (?, ?, ?)",
        (number, EARLIER.group, EARLIER.stream),
    )
    return int(number)
