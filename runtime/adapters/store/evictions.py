"""Finds the messages in messages.db that are evicted, by indexes that exist only where a policy needs them.

Creating an index reads every message. SQLite sorts it on the disk: in memory 5 million messages take 260 MB,
and MemoryMax ends the worker at every start.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from loguru import logger

from runtime.adapters.store.holders import Holders
from runtime.adapters.store.statements import SIZE
from runtime.core.ingest.admission import EVICTED_AT_ONCE
from runtime.core.ingest.quota import NOTHING, Amount, Eviction, OverflowPolicy
from runtime.core.log_events import LogEvent

Policies = tuple[OverflowPolicy, frozenset[OverflowPolicy]]
"""Overflow policy of the whole store, and those of its streams."""

LOOK_AT_ONCE = 16
"""Messages read by the first query for those of one owner; each further query reads twice as many."""
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_GETTEMPPATH)
"""The disk is full; or there is no folder for the sort files, as in a container with a read-only root."""


def create_indexes(db: sqlite3.Connection, policies: Policies) -> None:
    """Create the indexes that the policies need, drop the others: only a policy that drops pays for them."""
    total, streams = policies
    wanted = {
        "by_priority": ("priority", total is OverflowPolicy.DROP_LOWEST),
        "by_stream": ("stream", OverflowPolicy.DROP_OLDEST in streams),
        "by_stream_priority": ("stream, priority", OverflowPolicy.DROP_LOWEST in streams),
    }
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    for name, (columns, needed) in wanted.items():
        if not needed:
            db.execute(f"DROP INDEX IF EXISTS {name}")
        elif name not in there:
            _create(db, f"CREATE INDEX {name} ON messages ({columns})")


def _create(db: sqlite3.Connection, statement: str) -> None:
    """Create one index, or log that there is no room for it.

    Without the index evictions are slow, which may change; a store that stays closed never drains.
    """
    try:
        with _sorting_on_disk(db):
            db.execute(statement)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode not in NO_ROOM:
            raise
        logger.bind(event=LogEvent.INDEX_MISSING).warning(
            "no room for an index ({}): what gives way is found slowly until the next start", exc
        )


@contextlib.contextmanager
def _sorting_on_disk(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        db.execute("PRAGMA temp_store = MEMORY")


def victims(
    db: sqlite3.Connection, eviction: Eviction, streams: Sequence[int] | None, holders: Holders
) -> list[int]:
    """Ids of the messages to evict; of the streams with these numbers, where the eviction names one."""
    owner = eviction.owner
    if owner is None:
        return _victims(db, eviction, streams)
    lowest = eviction.policy is OverflowPolicy.DROP_LOWEST
    ids: list[int] = []
    left = eviction.amount
    for priority in holders.priorities(owner) if lowest else (None,):
        if left == NOTHING or (priority or 0) > eviction.max_priority:
            break
        some, left = _oldest_of(db, left, (eviction.max_priority, priority), owner, holders)
        ids += some
    return ids


def _oldest_of(
    db: sqlite3.Connection, amount: Amount, level: tuple[int, int | None], owner: str, holders: Holders
) -> tuple[list[int], Amount]:
    """The oldest messages of this owner, and the amount that is still to be found after them.

    Owners may alternate at every message: a query for each run of ids would take a second.
    """
    max_priority, priority = level
    condition, value = ("priority = ?", priority) if priority is not None else ("priority <= ?", max_priority)
    query = f"SELECT id, {SIZE} FROM messages WHERE {condition} AND id >= ? ORDER BY id LIMIT ?"  # noqa: S608
    ids: list[int] = []
    most, number = 2 * amount.messages + LOOK_AT_ONCE, holders.first_of(owner, 0)
    while number is not None and amount != NOTHING:
        rows = db.execute(query, (value, number, min(most, EVICTED_AT_ONCE))).fetchall()
        for candidate, size in rows:
            if amount != NOTHING and holders.owner_of(candidate) == owner:
                ids.append(candidate)
                amount = amount.over(Amount(1, max(0, size)))
        number = holders.first_of(owner, rows[-1][0] + 1) if rows else None
        most *= 2
    return ids, amount


def _victims(db: sqlite3.Connection, eviction: Eviction, streams: Sequence[int] | None) -> list[int]:
    where, values = ["priority <= ?"], [eviction.max_priority]
    if streams is not None:
        where.append(f"stream IN ({', '.join('?' * len(streams))})")
        values += streams
    order = "priority, id" if eviction.policy is OverflowPolicy.DROP_LOWEST else "id"
    query = f"SELECT id, {SIZE} FROM messages WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"  # noqa: S608
    most = max(eviction.amount.messages, EVICTED_AT_ONCE)
    while True:  # where an index found no room SQLite sorts in memory, but never more rows than the limit
        with contextlib.closing(db.execute(query, (*values, most))) as rows:
            ids, enough = _enough(rows, eviction.amount)
        if enough or len(ids) < most:
            return ids
        most *= 2


def _enough(rows: Iterable[tuple[int, int]], amount: Amount) -> tuple[list[int], bool]:
    """Ids of the first rows that make up `amount`, and True if they do. No further row is read."""
    ids: list[int] = []
    freed_bytes = 0
    for number, size in rows:
        ids.append(number)
        freed_bytes += max(0, size)  # damaged rows were counted as zero bytes
        if len(ids) >= amount.messages and freed_bytes >= amount.bytes:
            return ids, True
    return ids, False
