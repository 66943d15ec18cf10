"""devcloud.db: the whole state of the stand-in, in one SQLite file that other processes may read while it
runs.

WAL with `synchronous=OFF`: a commit survives a SIGKILL of this process, not a power cut. That is enough for a
stand-in; it must never be what a benchmark measures.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import UsageError

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (id TEXT PRIMARY KEY, created_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS provisioning_tokens (
    id TEXT PRIMARY KEY, mode TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL,
    registration_lifetime_s REAL, revoked_at REAL
);
CREATE TABLE IF NOT EXISTS operations (
    id TEXT PRIMARY KEY, verification_code TEXT NOT NULL UNIQUE, provisioning_token TEXT NOT NULL,
    mode TEXT NOT NULL, wished_id TEXT, device_id TEXT, state TEXT NOT NULL, created_at REAL NOT NULL,
    expires_at REAL NOT NULL, registration_lifetime_s REAL
);
CREATE TABLE IF NOT EXISTS devices (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, enabled INTEGER NOT NULL DEFAULT 1, created_at REAL NOT NULL,
    registered_at REAL
);
CREATE TABLE IF NOT EXISTS registration_tokens (
    id TEXT PRIMARY KEY, device_id TEXT NOT NULL, parent TEXT, operation TEXT, created_at REAL NOT NULL,
    expires_at REAL, lifetime_s REAL, grace_until REAL, revoked_at REAL
);
CREATE INDEX IF NOT EXISTS registration_tokens_by_device ON registration_tokens (device_id);
CREATE TABLE IF NOT EXISTS certificates (
    thumbprint TEXT PRIMARY KEY, device_id TEXT NOT NULL, created_at REAL NOT NULL, revoked_at REAL
);
CREATE TABLE IF NOT EXISTS dps_enrolments (
    name TEXT PRIMARY KEY, grouped INTEGER NOT NULL, attestation TEXT NOT NULL, key TEXT,
    enabled INTEGER NOT NULL DEFAULT 1, created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS dps_registrations (
    registration_id TEXT PRIMARY KEY, enrolment TEXT NOT NULL, device_id TEXT NOT NULL,
    assigned_at REAL NOT NULL, times INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS twins (
    device_id TEXT PRIMARY KEY, desired TEXT NOT NULL, desired_version INTEGER NOT NULL,
    reported TEXT NOT NULL, reported_version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS commands (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL, message_id TEXT NOT NULL,
    payload BLOB NOT NULL, properties TEXT NOT NULL, queued_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS feedback (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL, generation TEXT NOT NULL,
    message_id TEXT NOT NULL, status TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS twin_requests (
    seq INTEGER PRIMARY KEY, device_id TEXT NOT NULL, request TEXT NOT NULL, status INTEGER NOT NULL,
    at REAL NOT NULL, payload BLOB NOT NULL, flaw TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY, received_at REAL NOT NULL, device_id TEXT NOT NULL, message_id TEXT,
    dup INTEGER NOT NULL, qos INTEGER NOT NULL, properties TEXT NOT NULL, system TEXT NOT NULL,
    payload BLOB NOT NULL, connection INTEGER
);
CREATE TABLE IF NOT EXISTS connections (
    seq INTEGER PRIMARY KEY, opened_at REAL NOT NULL, client_id TEXT NOT NULL, device_id TEXT,
    code INTEGER NOT NULL, reason TEXT NOT NULL, closed_at REAL, end_reason TEXT
);
CREATE TABLE IF NOT EXISTS uploads (
    correlation_id TEXT PRIMARY KEY, device_id TEXT NOT NULL, blob_name TEXT NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, state TEXT NOT NULL, notified_at REAL,
    status_code INTEGER, status_description TEXT
);
CREATE TABLE IF NOT EXISTS blobs (
    name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, md5 TEXT NOT NULL, written_at REAL NOT NULL
);
"""

ADDED = {
    "twins": {
        "desired_metadata": "TEXT NOT NULL DEFAULT '{}'",
        "reported_metadata": "TEXT NOT NULL DEFAULT '{}'",
        "tags": "TEXT NOT NULL DEFAULT '{}'",
        "version": "INTEGER NOT NULL DEFAULT 1",
    },
    "commands": {
        "system": "TEXT NOT NULL DEFAULT '{}'",
        "ack": "TEXT",
        "expires_at": "REAL NOT NULL DEFAULT 0",
        "state": "TEXT NOT NULL DEFAULT 'expired'",
        "deliveries": "INTEGER NOT NULL DEFAULT 0",
        "settled_at": "REAL",
    },
}
"""Columns that a file of an earlier version lacks; it gets them when it is opened."""

INDEXES = "CREATE INDEX IF NOT EXISTS commands_enqueued ON commands (device_id) WHERE state = 'enqueued';"


class Database:
    """One connection, used from the stand-in's loop only."""

    def __init__(self, path: Path) -> None:
        """Open it, or create it. Raises UsageError where something else stands there."""
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("PRAGMA journal_size_limit = 4194304")
            self._connection.executescript(SCHEMA)
            self._add_columns()
            self._connection.executescript(INDEXES)
        except sqlite3.DatabaseError as exc:
            raise UsageError(f"{path}: {exc}; begin anew in another folder") from exc

    def _add_columns(self) -> None:
        for table, columns in ADDED.items():
            present = {row["name"] for row in self.rows(f"PRAGMA table_info({table})")}
            for name, kind in columns.items():
                if name not in present:
                    self.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: all of it or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def execute(self, statement: str, *values: Any) -> int:
        """Execute a change; returns the rowid of an insert."""
        return self._connection.execute(statement, values).lastrowid or 0

    def change(self, statement: str, *values: Any) -> int:
        """Execute a change; returns the number of changed rows."""
        return self._connection.execute(statement, values).rowcount

    def append(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows in one commit."""
        with self.transaction():
            self._connection.executemany(statement, rows)

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(statement, values).fetchall()]

    def row(self, statement: str, *values: Any) -> dict[str, Any] | None:
        return next(iter(self.rows(statement, *values)), None)

    def remember(self, name: str, value: str) -> None:
        """Save a value of the stand-in's own."""
        self.execute(
            "INSERT INTO settings (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            *(name, value),
        )

    def recall(self, name: str) -> str | None:
        row = self.row("SELECT value FROM settings WHERE name = ?", name)
        return row["value"] if row else None

    def close(self) -> None:
        self._connection.close()
