"""How SQLite's failures leave the store, named by what the caller does next; and the schema version it knows.

StoreError
├── StoreFull         the disk has no room: make some, refuse meanwhile
├── StoreUnavailable  the disk fails, or is read-only: close, open again later
│   ├── StoreUnknown  for a reader: a newer runtime wrote the store
│   └── StoreClosed   the store is not open now, for a reason that is being worked on
│       └── StoreHeld the store is open, and another process keeps its WAL from being reset
├── StoreDamaged      the file is not sound: set it aside and salvage
│   └── StoreUnreadable  or the disk does not give back what it holds: probe which, and whether it lasts
├── StoreReplaced     another store stands in its place: nothing known about the old one counts, restart
└── StoreNewer        a newer runtime wrote the store: a person must decide
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import EdgeError, NeedsHuman, Retryable

SCHEMA_VERSION = 2
"""The schema that this runtime writes, and migrates older ones to."""
READABLE_BY = 2
"""The lowest SCHEMA_VERSION of a runtime that can use a store of today's schema: one that knows less refuses
it as a newer one, so an update from there is one way."""


class StoreError(EdgeError):
    """The store cannot do it."""


class StoreFull(StoreError, Retryable):
    """The disk is full."""


class StoreUnavailable(StoreError, Retryable):
    """The disk cannot be used now."""


class StoreClosed(StoreUnavailable):
    """The store is being opened or salvaged; that is known already, and nothing needs to be done about it."""


class StoreHeld(StoreClosed):
    """Another process reads the store without end: its WAL grows, and nothing may be added to it."""


class StoreUnknown(StoreUnavailable):
    """A newer runtime wrote this store: it cannot be read, and a person must decide."""


class StoreDamaged(StoreError):
    """The store is damaged."""


class StoreUnreadable(StoreDamaged):
    """A page of the store is damaged, or the disk does not give it back: SQLite says the same of both."""


class StoreReplaced(StoreError):
    """Ids of the store that was there mean other messages in the store that is there now."""


class StoreNewer(StoreError, NeedsHuman):
    """A newer runtime wrote this store."""


def error_text(error: StoreError) -> str:
    """The error for a person: what is wrong, and what to do where only a person can."""
    hint = error.hint if isinstance(error, StoreNewer) else ""
    return f"{error}; {hint}" if hint else str(error)


_MEANING: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_IOERR: StoreUnavailable,
    sqlite3.SQLITE_READONLY: StoreUnavailable,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailable,
    sqlite3.SQLITE_BUSY: StoreUnavailable,
    sqlite3.SQLITE_LOCKED: StoreUnavailable,
    sqlite3.SQLITE_PERM: StoreUnavailable,
    sqlite3.SQLITE_PROTOCOL: StoreUnavailable,
    sqlite3.SQLITE_CORRUPT: StoreUnreadable,
    sqlite3.SQLITE_NOTADB: StoreDamaged,
    sqlite3.SQLITE_ERROR: StoreDamaged,  # "no such column": the schema is not the one we wrote
    sqlite3.SQLITE_CONSTRAINT: StoreDamaged,  # a value that was checked before does not keep to the schema
    sqlite3.SQLITE_MISMATCH: StoreDamaged,
    sqlite3.SQLITE_TOOBIG: StoreDamaged,
}
_CLOSER: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_IOERR_SHMSIZE: StoreFull,  # no 32 KiB for the index of the WAL: the disk is full
    sqlite3.SQLITE_IOERR_READ: StoreUnreadable,
    sqlite3.SQLITE_IOERR_CORRUPTFS: StoreUnreadable,  # EIO becomes this; later SQLite calls it CORRUPT
}
"""Extended result codes that say more than the primary code."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into ours. Others are bugs and escape.

    A flipped bit shows in many ways: also as text that cannot be decoded, even inside an error message.
    """
    try:
        yield
    except UnicodeDecodeError as exc:
        raise StoreDamaged(f"text in the store cannot be decoded: {exc}") from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", None)
        meaning = _meaning_without_code(exc) if code is None else _CLOSER.get(code, _MEANING.get(code & 0xFF))
        if meaning is None:
            raise
        raise meaning(f"{exc} ({getattr(exc, 'sqlite_errorname', 'no code')})") from exc


@contextmanager
def committing() -> Iterator[None]:
    """Surrounds a COMMIT: only a commit that certainly left nothing on disk is reported as StoreFull.

    SQLite makes the index of the WAL longer when the frames are on disk already. Where the index finds no
    room the commit is in doubt, as after a failed flush: a process that opens the store after a crash may
    find it.
    """
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHMSIZE:
            raise
        raise StoreUnavailable(f"{exc} ({exc.sqlite_errorname}): this commit is in doubt") from exc


def _meaning_without_code(error: sqlite3.Error) -> type[StoreError] | None:
    """Class for an error of Python's sqlite3 module itself: damage in the file; None where it is misused."""
    return None if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError) else StoreDamaged
