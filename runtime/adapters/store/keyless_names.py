"""Under which name the cloud knows a message whose producer gave it no key: NAME/ID, in every repeat.

NAME is drawn in each life of the store, from its opening to its closing, and written down with the first id
that it gave to such a message. A folder that was copied to a second device (a cloned card) goes on under
another name there, and so do both copies after a restart: else their ids would name two different messages
each, and a receiver that removes repeats by `$.mid` would throw half of them away.

The table came after the first release, whose runtimes do not look at it: it is made with the first such
message, and what was stored before goes by the store's uuid.
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
"""Those of whom no message is left."""


class LifeNames(NamedTuple):
    """Which name goes with which id."""

    otherwise: str
    first_ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, number: int) -> str:
        at = bisect_right(self.first_ids, number) - 1
        return self.names[at] if at >= 0 else self.otherwise


def read_names(db: sqlite3.Connection, otherwise: str) -> LifeNames:
    """As they are written down; `otherwise` is the uuid of the store. Damaged ones count for nothing."""
    if not has_lives(db):
        return LifeNames(otherwise)
    rows = db.execute("SELECT first_id, name FROM lives ORDER BY first_id").fetchall()
    sound = [row for row in rows if isinstance(row[0], int) and isinstance(row[1], str)]
    return LifeNames(otherwise, tuple(first for first, _ in sound), tuple(name for _, name in sound))


def has_lives(db: sqlite3.Connection) -> bool:
    """Whether there is the table."""
    found = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'lives'")
    return bool(found.fetchall()[0][0])


def create_lives(db: sqlite3.Connection) -> None:
    """Within a transaction of the caller."""
    db.execute(_CREATE)


class StoreLife:
    """This one, within the transactions of others."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._name = uuid.uuid4().hex
        self._stands = self._written = False

    def begin(self) -> None:
        """A transaction begins; the one before may have failed."""
        self._written = False

    def stands(self) -> None:
        """It is on disk."""
        self._stands |= self._written

    def gives(self, first_id: int, store: str) -> None:
        """From this id on keyless messages come; those before have the names of their lives."""
        if not self._stands:
            self.keep_names(store)
            self._db.execute(_PRUNE, (first_id,))
            self._db.execute("INSERT OR REPLACE INTO lives VALUES (?, ?)", (first_id, self._name))
            self._written = True

    def keep_names(self, store: str) -> None:
        """What was stored before there were lives keeps the uuid that the store has now."""
        create_lives(self._db)
        self._db.execute(_BEFORE, (store,))
