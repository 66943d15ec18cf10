"""What gives way in messages.db: found by indexes that exist only where a policy needs them."""

from __future__ import annotations

import sqlite3

from runtime.core.quota import Eviction, Policy

Policies = tuple[Policy, frozenset[Policy]]
"""Of the whole store, and of its streams."""


def create_indexes(db: sqlite3.Connection, policies: Policies) -> None:
    """Only a policy that drops pays for finding what to drop."""
    total, streams = policies
    wanted = {
        "by_priority": ("priority", total is Policy.DROP_LOWEST),
        "by_stream": ("stream", Policy.DROP_OLDEST in streams),
        "by_stream_priority": ("stream, priority", Policy.DROP_LOWEST in streams),
    }
    for name, (columns, needed) in wanted.items():
        if needed:
            db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON messages ({columns})")
        else:
            db.execute(f"DROP INDEX IF EXISTS {name}")


def victims(db: sqlite3.Connection, eviction: Eviction, stream: int | None) -> list[int]:
    """Ids of the messages that give way; of the stream with this number, where the eviction names one."""
    where, values = ["priority <= ?"], [eviction.max_priority]
    if stream is not None:
        where.append("stream = ?")
        values.append(stream)
    order = "priority, id" if eviction.policy is Policy.DROP_LOWEST else "id"
    cursor = db.execute(
        f"SELECT id, bytes FROM messages WHERE {' AND '.join(where)} ORDER BY {order}",  # noqa: S608
        values,
    )
    found: list[int] = []
    freed_bytes = 0
    for number, size in cursor:
        if len(found) >= eviction.amount.messages and freed_bytes >= eviction.amount.bytes:
            break
        found.append(number)
        freed_bytes += size if isinstance(size, int) else 0  # damaged
    cursor.close()
    return found
