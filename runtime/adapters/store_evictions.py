"""What gives way in messages.db: found by indexes that exist only where a policy needs them.

Making one reads every message. SQLite sorts it on the disk: in memory 5 million take 260 MB, and MemoryMax
ends the worker at every start.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from loguru import logger

from runtime.adapters.store_statements import SIZE
from runtime.core.admission import EVICTED_AT_ONCE
from runtime.core.quota import NOTHING, Amount, Eviction, Policy

Policies = tuple[Policy, frozenset[Policy]]
"""Of the whole store, and of its streams."""

NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_GETTEMPPATH)
"""On the disk; or nowhere for the files to sort in, as in a container whose root is read-only."""


def create_indexes(db: sqlite3.Connection, policies: Policies) -> None:
    """Only a policy that drops pays for finding what to drop."""
    total, streams = policies
    wanted = {
        "by_priority": ("priority", total is Policy.DROP_LOWEST),
        "by_stream": ("stream", Policy.DROP_OLDEST in streams),
        "by_stream_priority": ("stream, priority", Policy.DROP_LOWEST in streams),
    }
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    for name, (columns, needed) in wanted.items():
        if not needed:
            db.execute(f"DROP INDEX IF EXISTS {name}")
        elif name not in there:
            _create(db, f"CREATE INDEX {name} ON messages ({columns})")


def _create(db: sqlite3.Connection, statement: str) -> None:
    """Where there is no room for it things are slow, and may change; a store that is shut never drains."""
    try:
        with _sorting_on_disk(db):
            db.execute(statement)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode not in NO_ROOM:
            raise
        logger.warning("no room for an index ({}): what gives way is found slowly until the next start", exc)


@contextlib.contextmanager
def _sorting_on_disk(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        db.execute("PRAGMA temp_store = MEMORY")


Ranges = Sequence[tuple[int, int]]
"""Half-open, of ids."""


def victims(
    db: sqlite3.Connection, eviction: Eviction, streams: Sequence[int] | None, ranges: Ranges | None = None
) -> list[int]:
    """Ids of the messages that give way; of the stream with these numbers, where the eviction names one.

    Only those in `ranges`, where there are any: the messages of one owner.
    """
    if ranges is None:
        return _victims(db, eviction, streams)
    found: list[int] = []
    left = eviction.amount
    lowest = eviction.policy is Policy.DROP_LOWEST
    for priority in range(eviction.max_priority + 1) if lowest else (None,):
        for within in ranges:
            some, left = _victims_within(db, left, eviction.max_priority, priority, within)
            found += some
            if left == NOTHING:
                return found
    return found


def _victims_within(
    db: sqlite3.Connection, amount: Amount, max_priority: int, priority: int | None, within: tuple[int, int]
) -> tuple[list[int], Amount]:
    """The oldest in there, and what is still to be found then."""
    condition, value = ("priority = ?", priority) if priority is not None else ("priority <= ?", max_priority)
    query = f"SELECT id, bytes FROM messages WHERE {condition} AND id >= ? AND id < ? ORDER BY id"  # noqa: S608
    found: list[int] = []
    with contextlib.closing(db.execute(query, (value, *within))) as rows:
        for number, size in rows:
            found.append(number)
            amount = amount.over(Amount(1, size if isinstance(size, int) else 0))
            if amount == NOTHING:
                break
    return found, amount


def _victims(db: sqlite3.Connection, eviction: Eviction, streams: Sequence[int] | None) -> list[int]:
    where, values = ["priority <= ?"], [eviction.max_priority]
    if streams is not None:
        where.append(f"stream IN ({', '.join('?' * len(streams))})")
        values += streams
    order = "priority, id" if eviction.policy is Policy.DROP_LOWEST else "id"
    query = f"SELECT id, {SIZE} FROM messages WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"  # noqa: S608
    most = max(eviction.amount.messages, EVICTED_AT_ONCE)
    while True:  # where an index found no room SQLite sorts in memory, but never more than it is asked for
        with contextlib.closing(db.execute(query, (*values, most))) as rows:
            found, enough = _enough(rows, eviction.amount)
        if enough or len(found) < most:
            return found
        most *= 2


def _enough(rows: Iterable[tuple[int, int]], amount: Amount) -> tuple[list[int], bool]:
    """Ids of the first that make up `amount`, and whether they do. No more is read."""
    found: list[int] = []
    freed_bytes = 0
    for number, size in rows:
        found.append(number)
        freed_bytes += max(0, size)  # damaged: it was counted for nothing
        if len(found) >= amount.messages and freed_bytes >= amount.bytes:
            return found, True
    return found, False
