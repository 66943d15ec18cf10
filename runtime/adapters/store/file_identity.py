"""File identity: tells whether the files that SQLite holds open are those that the next open will find.

An operator may remove messages.db, or bring back an older one, while it is in use. SQLite goes on writing to
files that have no name any more, and every commit succeeds; with the process all of it is gone. Where only
the WAL or its index was removed, the next open finds an index of frames that are in no file, or one that
other processes do not see: a reader of the old index would never see a further message.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from runtime.adapters.store.errors import StoreUnavailable


class FileIdentity:
    """Identity (device, inode) of the database, its WAL and the WAL's index, as they are now."""

    def __init__(self, path: Path) -> None:
        self._database = str(path)
        self._found = {f"{path}{suffix}": _identity(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")}

    def is_current(self) -> bool:
        """True if all are the same files. Three system calls, 4 us."""
        return self._other() is None

    def check(self) -> None:
        """Raises StoreUnavailable where one of them is another file."""
        if other := self._other():
            raise StoreUnavailable(f"{other} was removed or replaced while in use: what it held goes with it")

    def leave(self, db: sqlite3.Connection) -> None:
        """Checkpoint if the database is still ours, else delete its stale WAL; always delete the index.

        So the next open finds what can be kept, and nothing that belongs to removed files.
        """
        wal, there = f"{self._database}-wal", _identity(self._database)
        with contextlib.suppress(sqlite3.Error, OSError):
            if self._same(self._database):  # SQLite still has the WAL. FULL: not only up to where a reader is
                db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            elif there is not None and self._same(wal):
                os.unlink(wal)  # noqa: PTH108  # of another database than the one that is there
        with contextlib.suppress(OSError):
            # also an index that a reader created meanwhile: it knows nothing of later frames
            os.unlink(f"{self._database}-shm")  # noqa: PTH108

    def _same(self, file: str) -> bool:
        return _identity(file) == self._found[file]

    def _other(self) -> str | None:
        return next((file for file in self._found if not self._same(file)), None)


def _identity(file: str) -> tuple[int, int] | None:
    try:
        stats = os.stat(file)  # noqa: PTH116  # on the hot path
    except OSError:
        return None
    return stats.st_dev, stats.st_ino
