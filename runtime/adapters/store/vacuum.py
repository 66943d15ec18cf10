"""Free space inside messages.db that deletes have left, and its return to the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

JOURNAL_LIMIT_BYTES = 4_194_304


def spare_bytes(db: sqlite3.Connection) -> int:
    """Size of the free pages inside the file."""
    return _ask(db, "freelist_count") * _ask(db, "page_size")


def wal_bytes(db: sqlite3.Connection, path: Path) -> tuple[int, int]:
    """Size of the WAL, and the growth of the database when the WAL is copied into it."""
    try:
        there, wal = path.stat().st_size, path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:  # the file or the disk is gone: other calls report it
        return 0, 0
    return wal, max(0, _ask(db, "page_count") * _ask(db, "page_size") - there)


def begin_wal(db: sqlite3.Connection) -> bool:
    """Copy the whole WAL and truncate it; False, without a wait, where another process reads from it."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # copies what can be copied, also beside a reader
    with _without_waiting(db):
        ((busy, _, _),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return not busy


def take_write_lock(db: sqlite3.Connection) -> None:
    """Begin a transaction that keeps others from writing; without a wait where another process does so."""
    with _without_waiting(db):
        db.execute("BEGIN IMMEDIATE")


@contextmanager
def _without_waiting(db: sqlite3.Connection) -> Iterator[None]:
    timeout_ms = _ask(db, "busy_timeout")
    db.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        db.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def give_back(db: sqlite3.Connection, path: Path, pages: int, keep_free_pages: int) -> bool:
    """Give up to `pages` free pages back to the disk; True if there are more to give."""
    free = _ask(db, "freelist_count")
    give = max(0, min(pages, free - keep_free_pages))
    if give:
        db.executescript(f"PRAGMA incremental_vacuum({give})")  # execute() stops after one page
    more = free - give > keep_free_pages
    if not more:
        _shorten(db, path)
    return more


def _shorten(db: sqlite3.Connection, path: Path) -> None:
    """Checkpoint if much was freed: the file shrinks at a checkpoint only, which a quiet night would not
    bring.
    """
    try:
        surplus_bytes = path.stat().st_size - _ask(db, "page_count") * _ask(db, "page_size")
    except OSError:  # the file or the disk is gone: other calls report it
        return
    if surplus_bytes > JOURNAL_LIMIT_BYTES:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _ask(db: sqlite3.Connection, pragma: str) -> int:
    ((value,),) = db.execute(f"PRAGMA {pragma}").fetchall()
    return int(value)
