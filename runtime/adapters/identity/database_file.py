"""identity.db as a file: its schema, how it is opened, who may
read it, and how a damaged one is set aside.
"""

from __future__ import annotations

import fcntl
import os
import select
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from runtime.adapters.process.process import database_users
from runtime.core.identity.enrolment import BY_HAND, host_of
from runtime.core.log_events import LogEvent
from runtime.errors import NeedsHuman, Retryable

BUSY_TIMEOUT_S = 5.0
LOCK_POLL_S = 0.02
JUST_NOW_NS = 1_000_000_000
"""So long after a change another one may bear the same time."""
SCHEMA_VERSION = 5


def check_private(path: Path) -> None:
    """Raise NeedsHuman where another user could read or replace the tokens."""
    for one, mode in ((path.parent, 0o700), (path, 0o600)):
        status = one.stat()
        if status.st_uid not in (os.geteuid(), os.getuid()) and os.geteuid() != 0:
            raise NeedsHuman(f"{one} belongs to user {status.st_uid}", hint="chown it to the runtime's user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise NeedsHuman(f"{one} is open to others", hint=f"chmod {mode:o} {one}")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate errors into ours. A full, failing or missing disk, and a transaction that is left open, may
    pass: Retryable. Wrong permissions and damage do not: NeedsHuman.
    """
    try:
        yield
    except PermissionError as exc:
        raise NeedsHuman(f"identity.db: {exc}", hint="chown it and its folder to the runtime's user") from exc
    except (sqlite3.OperationalError, OSError) as exc:
        raise Retryable(f"identity.db: {exc}{_held(path, exc)}") from exc
    except sqlite3.DatabaseError as exc:
        # Python's own objections to a call have no code: they are no damage
        if getattr(exc, "sqlite_errorcode", None) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise
        hint = "refresh and provisioning set the file aside by themselves, and the device provisions again"
        raise NeedsHuman(f"identity.db is damaged: {exc}", hint=hint) from exc


def _held(path: Path, exc: Exception) -> str:
    """The processes with an open transaction: a reader's is enough, as no change is written beside it."""
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
        return ""
    users = " and ".join(database_users(path))
    return f": {users} has a transaction open in it, end that" if users else ""


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which one of the two writers at a time creates, or sets aside. Raises
    Retryable where the other hangs.
    """
    fd = _opened(folder / "identity.lock")
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    """Open the file, creating it where there is none; never the target of a link in its place."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(fd: int) -> None:
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise Retryable(f"another process has held identity.lock for {BUSY_TIMEOUT_S:g} s") from None
            select.select(
                [], [], [], LOCK_POLL_S
            )  # as `Stop.wait` does; a sleep ends late under a fake clock


class FileMark(NamedTuple):
    """Tells one content of the file from another."""

    inode: int
    written_ns: int
    changed_ns: int
    size_bytes: int


def file_mark(path: Path) -> FileMark | None:
    """The mark of the file. None where it may not tell: it was written just now, or a change is under way."""
    if path.with_name(f"{path.name}-journal").exists():
        return None
    status = path.stat()
    if abs(time.time_ns() - status.st_ctime_ns) < JUST_NOW_NS:
        return None
    return FileMark(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def create(path: Path) -> None:
    """Create the database, or migrate it to our schema. A damaged one stays as it is. Raises NeedsHuman."""
    if not path.exists():
        os.close(_opened(path))
    check_private(path)
    try:
        with closing(connect(path)) as db:
            _migrate(db)
    except sqlite3.OperationalError:  # busy, or a full disk: no damage
        raise
    except sqlite3.DatabaseError:
        return


def damaged(path: Path) -> bool:
    """True if SQLite cannot make sense of the file. A busy one is not damaged."""
    try:
        with closing(connect(path)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return True


def set_aside(path: Path) -> None:
    """Keep the damaged file for the operator to look at: the device provisions again."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    logger.bind(event=LogEvent.IDENTITY_DAMAGED).error(
        "identity.db was damaged and is set aside as {name}: provisioning again", name=aside.name
    )


def connect(path: Path, busy_s: float | None = None) -> sqlite3.Connection:
    """Open it for reading and writing, as all its users do. `busy_s`: how long to wait for a lock."""
    wait_s = BUSY_TIMEOUT_S if busy_s is None else busy_s
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    db.text_factory = _text  # text that is not UTF-8 must not keep the rest from being read
    db.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA secure_delete = ON")  # a token that was deleted is gone from the file too
    return db


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")


def is_newer(version: int) -> NeedsHuman:
    """The error for a newer schema, which this runtime cannot write without harm."""
    return NeedsHuman(
        f"identity.db has schema {version}, this runtime knows {SCHEMA_VERSION}: a newer runtime wrote it",
        hint="install that one again, or move the file away: the device provisions again",
    )


def _migrate(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise is_newer(version)
    from sqlite_utils import Database  # late: 20 MB that only the first start needs

    db.execute("BEGIN IMMEDIATE")
    made = Database(db)
    # the columns that are there, whatever the version number says
    tables = {table.name: table.columns_dict for table in made.tables}
    if not tables:  # the other writer may have created it first
        moment = {"wall_s": float, "boot_s": float, "boot_id": str}
        token = {"kind": str, "text": str, "serial": int, "lifetime_s": float, "age_s": float, "draw": float}
        made.create_table("tokens", {**token, **moment}, pk="kind", not_null={"text", "serial", "boot_id"})
        enrolment = {"id": int, "phase": str, "basis": str, "operation_id": str, "verification_code": str}
        trouble = {"trouble": str, "reason": str, "failures": int, "pause_s": float}
        made.create_table("enrolment", {**enrolment, **trouble, **moment}, pk="id")
        pace = {"task": str, "failures": int, "pause_s": float, "outcome": str, "reason": str}
        made.create_table("paces", {**pace, **moment}, pk="task")
        hub = {"id": int, "host": str, "device_id": str, "generation": int, "certificate": str, "key": str}
        made.create_table("hub", hub, pk="id")
        made.create_table("facts", {"name": str, "value": float}, pk="name")
    if "adopted" not in tables.get("enrolment", {}):
        db.execute("ALTER TABLE enrolment ADD COLUMN adopted TEXT")
    if "accepted_id" not in tables.get("hub", {}):
        db.execute("ALTER TABLE hub ADD COLUMN accepted_id TEXT")
        db.execute(
            "UPDATE hub SET accepted_id = device_id"
            " WHERE NOT EXISTS (SELECT 1 FROM facts WHERE name = 'on_hold' AND value)"
        )
    if "asked_s" not in tables.get("paces", {}):
        db.execute("ALTER TABLE paces ADD COLUMN asked_s REAL NOT NULL DEFAULT 0")
    for table, column, kind in _COLUMNS_5:
        if column not in tables.get(table, {}):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    if tables and "basis" not in tables["tokens"]:
        _add_granting_host(db)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


_COLUMNS_5 = (
    ("tokens", "host", "TEXT"),
    ("tokens", "basis", "TEXT"),
    ("enrolment", "begun", "INTEGER NOT NULL DEFAULT 0"),
    ("enrolment", "refusals", "INTEGER NOT NULL DEFAULT 0"),
    ("paces", "refusals", "INTEGER NOT NULL DEFAULT 0"),
)


def _add_granting_host(db: sqlite3.Connection) -> None:
    """Fill `basis` and `host` of tokens that are older than these columns: a completed enrolment
    tells which wish they came by.
    """
    row = db.execute("SELECT basis FROM enrolment WHERE phase = 'PROVISIONED'").fetchone()
    basis = row[0] if row and isinstance(row[0], str) else ""
    other_ways = basis == BY_HAND or basis.partition(" ")[0] in ("mtls", "connection-string")
    of_platform = basis.count(" ") == 2 and not other_ways
    host = host_of(basis.partition(" ")[0]) if of_platform else None
    db.execute("UPDATE tokens SET basis = ?, host = ? WHERE kind <> 'sas'", (basis or None, host))
