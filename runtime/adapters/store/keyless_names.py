"""Names by which the cloud knows messages whose producer gave no key: NAME/ID, the same in every repeat.

NAME is drawn at each opening of the store, and written down with the first id that it gave to such a message.
A folder that was copied to a second device (a cloned card) goes on under another name there, and so do both
copies after a restart: else their ids would name two different messages each, and a receiver that removes
repeats by `$.mid` would throw half of them away.

The table came after the first release, whose runtimes ignore it: it is created with the first such message,
and messages stored before are named by the store's uuid.
"""

from __future__ import annotations

import sqlite3
import uuid
from bisect import bisect_right
from typing import NamedTuple

_CREATE = "CREATE TABLE IF NOT EXISTS lives (first_id INTEGER PRIMARY KEY, name TEXT NOT NULL)"
_BEFORE = "INSERT INTO lives (first_id, name) SELECT 0, ? WHERE NOT EXISTS (SELECT 1 FROM lives)"
_PRUNE = (
    "DELETE FROM lives WHERE first_id < (SELECT max(first_id) FROM lives WHERE first_id <= min("
    "coalesce((SELECT min(id) FROM messages), ?1), coalesce((SELECT min(id) FROM quarantine), ?1)))"
)
"""Deletes names of which no message is left."""


class LifeNames(NamedTuple):
    """The name for each id."""

    otherwise: str
    first_ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, number: int) -> str:
        at = bisect_right(self.first_ids, number) - 1
        return self.names[at] if at >= 0 else self.otherwise


def read_names(db: sqlite3.Connection, otherwise: str) -> LifeNames:
    """Read the names; `otherwise` is the uuid of the store. Damaged rows are ignored."""
    if not has_lives(db):
        return LifeNames(otherwise)
    rows = db.execute("SELECT first_id, name FROM lives ORDER BY first_id").fetchall()
    sound = [row for row in rows if isinstance(row[0], int) and isinstance(row[1], str)]
    return LifeNames(otherwise, tuple(first for first, _ in sound), tuple(name for _, name in sound))


def has_lives(db: sqlite3.Connection) -> bool:
    """True if the table exists."""
    tables = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'lives'")
    return bool(tables.fetchall()[0][0])


def create_lives(db: sqlite3.Connection) -> None:
    """Create the table within the caller's transaction."""
    db.execute(_CREATE)


class StoreLife:
    """This opening of the store, whose name is written within the callers' transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._name = uuid.uuid4().hex
        self._stands = self._written = False

    def begin(self) -> None:
        """Called when a transaction begins; the one before may have failed."""
        self._written = False

    def committed(self) -> None:
        """Called when the transaction is on disk."""
        self._stands |= self._written

    def assign_ids(self, first_id: int, store: str) -> None:
        """Keyless messages come from `first_id` on; those before keep the names of earlier openings."""
        if not self._stands:
            self.keep_names(store)
            self._db.execute(_PRUNE, (first_id,))
            self._db.execute("INSERT OR REPLACE INTO lives VALUES (?, ?)", (first_id, self._name))
            self._written = True

    def keep_names(self, store: str) -> None:
        """Messages stored before the table existed keep the uuid that the store has now."""
        create_lives(self._db)
        self._db.execute(_BEFORE, (store,))
