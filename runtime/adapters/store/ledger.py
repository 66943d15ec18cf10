"""The ledger in messages.db: what the identity of `core/operations/ledger.py` needs beside levels and losses.

`levels` counts by stream what was stored, what was delivered and what waits; `losses` what left the store
otherwise, with the reason `quarantined` for what is set aside now. These tables came after the first release,
whose runtimes ignore them, and go on with the two others:

- `ledger`: since when all is counted, and the account of messages whose row no longer tells the stream. Such
  a row is damaged: it was stored under a stream, and no level counts it any more. A recount finds how many
  there are, and moves as many of `stored` from the streams that lack them into this account. What is moved
  adds up to nothing, so a counter that is wrong for another reason still shows.
- `ledger_beside`: by stream, messages that came back from quarantine; and by reason those that were dropped
  while they were in flight, and that the hub has: they count as delivered, not as lost, and here.
- `loss_log`: which ids were lost, when and why: an entry a minute for each stream and reason, and at most
  MOST_ENTRIES; how much was cut is counted.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runtime.adapters.store.counters import (
    DISCARDED,
    QUARANTINED,
    REQUEUED,
    UNKNOWN,
    StoreCounters,
    count_levels,
    overdrawn,
    write_changes,
    write_losses,
)
from runtime.adapters.store.unfolded import LEVELS, UNKNOWN_ROWS
from runtime.core.ingest.quota import Levels
from runtime.core.ingest.store_view import Stamp
from runtime.core.message import StreamName
from runtime.core.operations.ledger import UNKNOWN_STREAM, Account, Ledger, LossEntry, summed

DAMAGED = "damaged"
"""Reason of messages that a salvage could not read."""
MOST_ENTRIES = 1_000
MOST_RANGES = 100
"""Entries that one salvage may add."""
ENTRY_S = 60.0
"""Losses of one stream for one reason within this time share an entry."""
_TABLES = (
    "CREATE TABLE ledger (id INTEGER PRIMARY KEY CHECK (id = 1), since_wall_s REAL, "
    "stored INTEGER NOT NULL, delivered INTEGER NOT NULL, waiting INTEGER, "
    "cut_entries INTEGER NOT NULL, cut_messages INTEGER NOT NULL)",
    "CREATE TABLE ledger_beside (stream INTEGER NOT NULL, what TEXT NOT NULL, messages INTEGER NOT NULL, "
    "PRIMARY KEY (stream, what))",
    "CREATE TABLE loss_log (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, reason TEXT NOT NULL, "
    "messages INTEGER, first_id INTEGER NOT NULL, last_id INTEGER NOT NULL, "
    "first_wall_s REAL, last_wall_s REAL, boot INTEGER, began_boot_s REAL)",
    "CREATE INDEX loss_log_by_place ON loss_log (stream, reason)",
)
_BOOKED = (
    f"SELECT 0, stream, '', messages, bytes, stored, delivered FROM {LEVELS} "  # noqa: S608  # our own names
    "UNION ALL SELECT 1, stream, reason, messages, 0, 0, 0 FROM losses "
    "UNION ALL SELECT 2, stream, what, messages, 0, 0, 0 FROM ledger_beside "
    f"UNION ALL SELECT 3, 0, '', coalesce(waiting + {UNKNOWN_ROWS}, 0), 0, "
    f"stored + {UNKNOWN_ROWS}, delivered FROM ledger "
    "UNION ALL SELECT 4, id, stream_group, stream, 0, 0, 0 FROM streams "
    "UNION ALL SELECT 5, 0, '', since_wall_s, 0, 0, 0 FROM ledger"
)
"""One statement, so that all of it is from one moment."""
_FIRST = "INSERT INTO ledger SELECT 1, NULL, 0, 0, NULL, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM ledger)"
_COUNTS = "typeof(messages) = 'integer' AND typeof(stream) = 'integer'"
"""A flipped bit may show as another type."""
_ASIDE = f"SELECT stream, messages FROM losses WHERE reason = ? AND messages <> 0 AND {_COUNTS}"  # noqa: S608
_LACKING = (
    "SELECT id, "  # noqa: S608
    "coalesce((SELECT sum(stored - delivered - messages) FROM levels WHERE stream = streams.id), 0) "
    f"- coalesce((SELECT sum(messages) FROM losses WHERE stream = streams.id AND {_COUNTS}), 0) AS lacking "
    "FROM streams WHERE lacking <> 0"
)
_LACKING_UNKNOWN = (
    "SELECT stored - delivered - coalesce(waiting, 0) - (SELECT coalesce(sum(messages), 0) "  # noqa: S608
    f"FROM losses WHERE stream NOT IN (SELECT id FROM streams) AND {_COUNTS}) FROM ledger"
)
_CLOSE_UNKNOWN = (
    "UPDATE ledger SET stored = delivered + coalesce(waiting, 0) + (SELECT coalesce(sum(messages), 0) "  # noqa: S608
    f"FROM losses WHERE stream NOT IN (SELECT id FROM streams) AND {_COUNTS})"
)
_EXTEND = (
    "UPDATE loss_log SET messages = messages + ?1, first_id = min(first_id, ?2), last_id = max(last_id, ?3), "
    "last_wall_s = ?4 WHERE id = (SELECT max(id) FROM loss_log WHERE stream = ?5 AND reason = ?6) "
    "AND messages IS NOT NULL AND boot = ?7 AND ?8 - began_boot_s < ?9"
)
_BEGIN = (
    "INSERT INTO loss_log (messages, first_id, last_id, first_wall_s, last_wall_s, stream, reason, boot, "
    "began_boot_s) VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8)"
)


def has_ledger(db: sqlite3.Connection) -> bool:
    """True if the tables exist."""
    found = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'ledger'")
    return bool(found.fetchall()[0][0])


def create_ledger(db: sqlite3.Connection) -> None:
    """Create the tables, empty, within the caller's transaction."""
    for statement in _TABLES:
        db.execute(statement)


def ensure_entry(db: sqlite3.Connection) -> None:
    """Create the one row of `ledger` where it is missing."""
    db.execute(_FIRST)


def open_ledger(db: sqlite3.Connection, aside: Mapping[int, int] | None, wall_s: float | None) -> None:
    """Bring the ledger up to date at the opening of a store, within the caller's transaction.

    `aside` is what `count_quarantine` has counted. A store of a version that kept no ledger begins with what
    is there: where its counters do not close, what it ever stored is taken to be what can be accounted for.
    """
    begins = not has_ledger(db)
    if begins:
        create_ledger(db)
    ensure_entry(db)
    if aside is not None:
        _take_quarantine(db, aside)
    if begins:
        for stream, lacking in _differences(db).items():
            _move_stored(db, stream, -lacking)
        db.execute(_CLOSE_UNKNOWN)
    db.execute("UPDATE ledger SET since_wall_s = ? WHERE since_wall_s IS NULL", (wall_s,))


def count_quarantine(db: sqlite3.Connection) -> Mapping[int, int] | None:
    """Count what is set aside, by stream, before the transaction of the opening: an I/O error would end it.

    None where it cannot be read, or where nothing was set aside: the counters stand.
    """
    try:
        if not db.execute(_ASIDE, (QUARANTINED,)).fetchall():
            return None
        known = {number for (number,) in db.execute("SELECT id FROM streams").fetchall()}
        rows = db.execute("SELECT stream FROM quarantine")
        return Counter(stream if stream in known else UNKNOWN for (stream,) in rows)
    except sqlite3.DatabaseError:  # a later call that needs it meets the error
        return None


def _take_quarantine(db: sqlite3.Connection, aside: Mapping[int, int]) -> None:
    """Where less is set aside than was counted, an older version discarded the rest without counting it."""
    present = dict(aside)
    for stream, messages in db.execute(_ASIDE, (QUARANTINED,)).fetchall():
        if gone := messages - present.pop(stream, 0):
            add_losses(db, stream, DISCARDED, gone)
            add_losses(db, stream, QUARANTINED, -gone)
    for stream, messages in present.items():
        add_losses(db, stream, DISCARDED, -messages)
        add_losses(db, stream, QUARANTINED, messages)


def add_losses(db: sqlite3.Connection, stream: int, reason: str, messages: int) -> None:
    """Change the counter of one stream and reason; ids and bytes are unknown."""
    db.execute(
        "INSERT INTO losses (stream, reason, messages, bytes, first_id, last_id) VALUES (?, ?, ?, 0, 0, 0) "
        "ON CONFLICT (stream, reason) DO UPDATE SET messages = messages + excluded.messages",
        (stream, reason, messages),
    )


def attribute_uncounted(db: sqlite3.Connection, uncounted: int) -> None:
    """After a recount of all levels: so many rows are stored of which no level knows.

    What the streams' accounts lack on account of them is moved to that of the unknown stream.
    """
    ((was,),) = db.execute("SELECT waiting FROM ledger").fetchall()
    moved = 0
    for stream, lacking in _differences(db).items():
        _move_stored(db, stream, -lacking)
        moved += lacking
    db.execute("UPDATE ledger SET waiting = ?, stored = stored + ?", (uncounted, moved))
    if was is None:  # the first count since the ledger began: these were there before it
        db.execute(_CLOSE_UNKNOWN)


def close_after_salvage(db: sqlite3.Connection, aside: Mapping[int, int], uncounted: int) -> None:
    """Count as lost what a salvage could not read: what the accounts lack that were carried over.

    A damaged counter may lack in one account what another has too much of: only what all of them lack
    together is lost. `aside` is what is in quarantine by stream, `uncounted` the rows that no level knows.
    """
    ensure_entry(db)
    db.execute("UPDATE losses SET messages = 0 WHERE reason = ?", (QUARANTINED,))
    for stream, messages in aside.items():
        add_losses(db, stream, QUARANTINED, messages)
    db.execute("UPDATE ledger SET waiting = ?", (uncounted,))
    lacking = _differences(db)
    ((lacking[UNKNOWN],),) = db.execute(_LACKING_UNKNOWN).fetchall()
    excess = -sum(messages for messages in lacking.values() if messages < 0)
    for stream, messages in lacking.items():
        moved = min(messages, excess) if messages > 0 else messages
        excess -= max(0, moved)
        _move_stored(db, stream, -moved)
        if messages > moved:
            add_losses(db, stream, DAMAGED, messages - moved)


def log_ranges(db: sqlite3.Connection, ranges: Sequence[tuple[int, int]], wall_s: float | None) -> None:
    """Write the ids that a salvage could not read, some of which may have held no message any more."""
    db.executemany(
        "INSERT INTO loss_log (stream, reason, first_id, last_id, first_wall_s, last_wall_s) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [(UNKNOWN, DAMAGED, first, last, wall_s, wall_s) for first, last in ranges[:MOST_RANGES]],
    )


def _differences(db: sqlite3.Connection) -> dict[int, int]:
    """By the number of a known stream, what its account lacks; streams that close are left out."""
    rows = db.execute(_LACKING).fetchall()
    return dict(rows)


def _move_stored(db: sqlite3.Connection, stream: int, messages: int) -> None:
    """Change what a stream is said to have stored, at any of its priorities."""
    if stream == UNKNOWN:
        db.execute("UPDATE ledger SET stored = stored + ?", (messages,))
        return
    db.execute(
        "INSERT INTO levels (stream, priority, messages, bytes, stored, delivered) "
        "SELECT ?1, coalesce(min(priority), 0), 0, 0, ?2, 0 FROM levels WHERE stream = ?1 "
        "ON CONFLICT (stream, priority) DO UPDATE SET stored = stored + excluded.stored",
        (stream, messages),
    )


def write_counters(db: sqlite3.Connection, changes: StoreCounters, levels: Levels) -> None:
    """Write all that one commit changes; where a damaged row came or left, every message is counted."""
    write_changes(db, changes.levels)
    if changes.lost or changes.regained:
        write_losses(db, changes)
    if changes.delivered_unknown:
        db.execute("UPDATE ledger SET delivered = delivered + ?", (changes.delivered_unknown,))
    for place, messages in changes.beside.items():
        db.execute(
            "INSERT INTO ledger_beside VALUES (?, ?, ?) ON CONFLICT (stream, what) DO UPDATE SET "
            "messages = messages + excluded.messages",
            (*place, messages),
        )
    if changes.doubtful or overdrawn(changes, levels):  # rare
        changes.recounted, uncounted = count_levels(db)
        attribute_uncounted(db, uncounted)


def log_losses(db: sqlite3.Connection, changes: StoreCounters, stamp: Stamp, wall_s: float | None) -> None:
    """Write the ids that one commit loses."""
    for (stream, reason), lost in changes.lost.items():
        if reason != QUARANTINED:
            place = (len(lost), min(lost)[0], max(lost)[0], wall_s, stream, reason, stamp.boot, stamp.boot_s)
            if not db.execute(_EXTEND, (*place, ENTRY_S)).rowcount:
                db.execute(_BEGIN, place)
                _cut(db)


def _cut(db: sqlite3.Connection) -> None:
    """Delete the oldest entries beyond the bound, and count them."""
    gone = db.execute(
        "DELETE FROM loss_log WHERE id <= (SELECT max(id) FROM loss_log) - ? RETURNING messages",
        (MOST_ENTRIES,),
    ).fetchall()
    if gone:
        cut = (len(gone), sum(messages or 0 for (messages,) in gone))
        db.execute(
            "UPDATE ledger SET cut_entries = cut_entries + ?, cut_messages = cut_messages + ?",
            cut,
        )


def read_ledger(db: sqlite3.Connection) -> Ledger | None:
    """The ledger; None in a store of a version that kept none. Values that are no numbers count as 0."""
    if not has_ledger(db):
        return None
    rows = db.execute(_BOOKED).fetchall()
    names = {row[1]: str(StreamName(_text(row[2]), _text(row[3]))) for row in rows if row[0] == 4}
    by_name: dict[str, list[Account]] = {}
    for kind, stream, reason, *values in rows:
        if kind < 4:
            name = names.get(stream, UNKNOWN_STREAM)
            by_name.setdefault(name, []).append(_account(name, kind, str(reason), [*map(_whole, values)]))
    accounts = [summed(name, parts) for name, parts in by_name.items()]
    accounts = [each for each in accounts if each.stream != UNKNOWN_STREAM or any(_figures(each))]
    since = next((row[3] for row in rows if row[0] == 5), None)
    return Ledger(accounts, float(since) if isinstance(since, int | float) else None)


def _account(name: str, kind: int, reason: str, values: list[int]) -> Account:
    """What one row adds to an account."""
    messages, size, stored, delivered = values
    if kind == 1:
        if reason == QUARANTINED:
            return Account(name, set_aside=messages)
        return Account(name, lost={reason: messages} if messages else {})
    if kind == 2:
        return (
            Account(name, requeued=messages) if reason == REQUEUED else Account(name, late={reason: messages})
        )
    return Account(name, stored, delivered, messages, size)


def _figures(account: Account) -> tuple[int, ...]:
    lost = sum(map(abs, account.lost.values()))
    return account.stored, account.delivered, account.waiting, account.set_aside, account.requeued, lost


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class LossLogPage(NamedTuple):
    """The newest entries of the loss log, the newest first, and what was cut from its end."""

    entries: list[LossEntry]
    cut_entries: int
    cut_messages: int


def read_loss_log(db: sqlite3.Connection) -> LossLogPage:
    """Read the loss log. Damaged entries are left out."""
    if not has_ledger(db):
        return LossLogPage([], 0, 0)
    names = {
        number: str(StreamName(_text(group), _text(stream)))
        for number, group, stream in db.execute("SELECT id, stream_group, stream FROM streams").fetchall()
    }
    rows = db.execute(
        "SELECT stream, reason, messages, first_id, last_id, first_wall_s, last_wall_s FROM loss_log "
        "ORDER BY id DESC"
    ).fetchall()
    ((entries, messages),) = db.execute("SELECT cut_entries, cut_messages FROM ledger").fetchall()
    return LossLogPage(list(_entries(rows, names)), _whole(entries), _whole(messages))


def _entries(rows: Iterable[tuple[object, ...]], names: Mapping[object, str]) -> Iterable[LossEntry]:
    for stream, reason, messages, first_id, last_id, first_wall_s, last_wall_s in rows:
        if isinstance(first_id, int) and isinstance(last_id, int):
            count = messages if isinstance(messages, int) else None
            times = [at if isinstance(at, float) else None for at in (first_wall_s, last_wall_s)]
            name = names.get(stream, UNKNOWN_STREAM)
            yield LossEntry(name, str(reason), count, first_id, last_id, times[0], times[1])
