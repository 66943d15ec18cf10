"""Whether the files that SQLite holds open are still those that whoever opens the store next will find.

Somebody may remove messages.db, or bring back an older one, while it is in use. SQLite goes on writing to
what has no name any more, and every commit succeeds; with the process all of it is gone. Where only the WAL
or its index went, whoever opens next finds an index of frames that are nowhere, or one that others do not
see: a reader of the old one would never hear of a message again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from runtime.adapters.store.errors import StoreUnavailable


class FileIdentity:
    """The database, its WAL and the index of that, as they are now."""

    def __init__(self, path: Path) -> None:
        self._database = str(path)
        self._found = {f"{path}{suffix}": _identity(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")}

    def stands(self) -> bool:
        """Whether all are the same. Three calls of the system, 4 us."""
        return self._other() is None

    def check(self) -> None:
        """Raises StoreUnavailable where one of them is another."""
        if other := self._other():
            raise StoreUnavailable(f"{other} was removed or replaced while in use: what it held goes with it")

    def leave(self, db: sqlite3.Connection) -> None:
        """Let whoever opens next find what can be kept, and nothing that belongs to what is gone."""
        wal, there = f"{self._database}-wal", _identity(self._database)
        with contextlib.suppress(sqlite3.Error, OSError):
            if self._same(self._database):  # SQLite still has the WAL. FULL: not only up to where a reader is
                db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            elif there is not None and self._same(wal):
                os.unlink(wal)  # noqa: PTH108  # of another database than the one that is there
        with contextlib.suppress(OSError):
            # also one that a reader made meanwhile: it knows nothing of what came after
            os.unlink(f"{self._database}-shm")  # noqa: PTH108

    def _same(self, file: str) -> bool:
        return _identity(file) == self._found[file]

    def _other(self) -> str | None:
        return next((file for file in self._found if not self._same(file)), None)


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  # on the hot path
    except OSError:
        return None
    return found.st_dev, found.st_ino
