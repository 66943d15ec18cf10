"""Leaves of the store: which streams belong to a leaf, in the table `leaves` of messages.db.

The table came after the first release, whose runtimes ignore it: they send the messages of leaves on with all
their properties, in one order with this device's own of the same stream. It is created with the first message
of a leaf. A row that is lost does no more harm than that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from runtime.core.message import StreamName

_CREATE = "CREATE TABLE IF NOT EXISTS leaves (stream INTEGER PRIMARY KEY, leaf TEXT)"


def create_leaves(db: sqlite3.Connection) -> None:
    """Create the table within the caller's transaction."""
    db.execute(_CREATE)


def read_streams(db: sqlite3.Connection) -> dict[int, StreamName]:
    """Every stream by its number. A damaged row may have a name that is no text."""
    rows = db.execute("SELECT id, stream_group, stream FROM streams").fetchall()
    leaves = _read_leaves(db)
    return {number: StreamName(group, stream, leaves.get(number)) for number, group, stream in rows}


def _read_leaves(db: sqlite3.Connection) -> dict[int, str]:
    if not has_leaves(db):
        return {}
    rows = db.execute("SELECT stream, leaf FROM leaves").fetchall()
    return {number: leaf for number, leaf in rows if isinstance(leaf, str)}


def has_leaves(db: sqlite3.Connection) -> bool:
    """True if the table exists."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'leaves'").fetchall())


def write_streams(db: sqlite3.Connection, new: Iterable[tuple[int, StreamName]]) -> None:
    """Write streams that are new, within the caller's transaction."""
    streams = list(new)
    db.executemany(
        "INSERT INTO streams (id, stream_group, stream) VALUES (?, ?, ?)",
        [(number, name.group, name.stream) for number, name in streams],
    )
    leaves = [(number, name.leaf) for number, name in streams if name.leaf is not None]
    if leaves:
        create_leaves(db)
        db.executemany("INSERT OR REPLACE INTO leaves (stream, leaf) VALUES (?, ?)", leaves)


def forget_leaves(db: sqlite3.Connection) -> None:
    """Delete the rows of streams that are gone, within the caller's transaction."""
    if has_leaves(db):
        db.execute("DELETE FROM leaves WHERE stream NOT IN (SELECT id FROM streams)")
