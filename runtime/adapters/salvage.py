"""A damaged messages.db is set aside whole, and what can be read of it becomes a fresh one.

The order of steps makes every crash harmless, without a journal of our own:

1. `messages.db` moves into the folder `damaged/`, then its WAL follows. From here on "no messages.db, but one
   in damaged/" means: unfinished, start again.
2. What can be read is copied into `messages.db.salvage`, in id order. Where reading fails, the next readable
   id is searched, and the range between is lost, by name.
3. The copy is closed (on disk, no WAL) and renamed to `messages.db`: only now does a store exist again.
4. The damaged files get another name (`finish`), so that they are history should messages.db ever be missing.

No new message is taken meanwhile (there is no store), so ids stay in order. The damaged files stay in
`damaged/` with a report, for a person.

A store of an older schema is copied into that same schema, which then grows as every older one does. One of a
newer schema is left in `damaged/` for the runtime that wrote it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.adapters.store_errors import SCHEMA_VERSION, StoreNewer, StoreUnavailable, translated

FOLDER = "damaged"
REPORT = "report.json"
ROWS_AT_ONCE = 500
ID_GAP = 2**32
"""Left free behind the highest id found where the counter of ids is lost."""
HIGHEST_ID = 2**62
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading damaged pages raises; the latter where even SQLite's message holds some of the damage."""


@dataclass
class Report:
    """What became of a damaged store."""

    reason: str
    salvaged: int = 0
    expected: int | None = None
    """Messages by the store's own counters, where they can be read."""
    lost_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Closed ranges of ids that may have held messages and cannot be read."""


def pending(path: Path) -> bool:
    """Whether a salvage was begun and not finished."""
    return not path.exists() and (path.parent / FOLDER / path.name).exists()


def last_report(path: Path) -> dict[str, Any] | None:
    """The report of the last salvage, as long as nobody cleared `damaged/` away."""
    try:
        found = json.loads((path.parent / FOLDER / REPORT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def set_aside(path: Path) -> None:
    """Step 1. An older damaged store makes room: one is enough to learn from."""
    folder = path.parent / FOLDER
    if path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        path.rename(folder / path.name)
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        wal.rename(folder / wal.name)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def salvage(path: Path, reason: str) -> Iterator[Report]:
    """All steps, a slice for each `next`; yields the growing report. On StoreError begin again, later."""
    try:
        yield from _salvage(path, reason)
    except OSError as exc:
        raise StoreUnavailable(f"the damaged store cannot be salvaged now: {exc.strerror}") from exc


def _salvage(path: Path, reason: str) -> Iterator[Report]:
    set_aside(path)
    fresh_path = path.with_name(f"{path.name}.salvage")
    for leftover in path.parent.glob(f"{fresh_path.name}*"):
        leftover.unlink()
    report = Report(reason)
    with translated():
        fresh = sqlite3.connect(fresh_path, isolation_level=None)
        try:
            old = sqlite3.connect(path.parent / FOLDER / path.name, isolation_level=None)
            try:
                yield from _copy(old, fresh, report)
            finally:
                old.close()
        finally:
            fresh.close()
    _sync(fresh_path)
    (path.parent / FOLDER / REPORT).write_text(json.dumps(asdict(report)))
    fresh_path.rename(path)
    _sync(path.parent)
    finish(path)
    yield report


def finish(path: Path) -> None:
    """Step 4, also where the last run died before it. The WAL goes first, and stays beside its database."""
    folder = path.parent / FOLDER
    if not path.exists():
        return
    with contextlib.suppress(OSError):  # the next start tries again
        for suffix in ("-wal", ""):
            aside = folder / f"{path.name}{suffix}"
            if aside.exists():
                aside.rename(folder / f"{path.name}.salvaged{suffix}")


def _copy(old: sqlite3.Connection, fresh: sqlite3.Connection, report: Report) -> Iterator[Report]:
    from runtime.adapters.store_schema import migrate  # late: sqlite-utils only where it is needed

    fresh.execute("PRAGMA auto_vacuum = INCREMENTAL")
    fresh.execute("PRAGMA synchronous = OFF")  # the whole file is synced before it gets its name
    migrate(fresh, _version(old))
    report.expected = _expected(old)
    for table in ("streams", "boots", "losses", "producers"):
        _copy_small(old, fresh, table)
    highest = 0
    for table in ("quarantine", "messages"):
        for rows in _readable(old, table, report):
            report.salvaged += _insert(fresh, table, rows)
            highest = max(highest, rows[-1][0])
            yield report
    migrate(fresh)
    _name_unknown(fresh)
    _recount(fresh)
    _carry_counters(old, fresh, highest)


def _version(old: sqlite3.Connection) -> int:
    """The schema of the damaged store; today's where it does not say."""
    try:
        ((version,),) = old.execute("PRAGMA user_version").fetchall()
    except UNREADABLE:
        return SCHEMA_VERSION
    if version > SCHEMA_VERSION:
        raise StoreNewer(
            f"the damaged store has schema {version}, this runtime knows {SCHEMA_VERSION}",
            hint="install the newer runtime again: it salvages what is in damaged/",
        )
    return version or SCHEMA_VERSION


def _expected(old: sqlite3.Connection) -> int | None:
    try:
        ((messages,),) = old.execute("SELECT sum(messages) FROM levels").fetchall()
        ((aside,),) = old.execute("SELECT count(*) FROM quarantine").fetchall()
    except UNREADABLE:
        return None
    return int((messages or 0) + aside)


def _copy_small(old: sqlite3.Connection, fresh: sqlite3.Connection, table: str) -> None:
    """Row by row, until it breaks."""
    try:
        for row in old.execute(f"SELECT * FROM {table}"):  # noqa: S608  # our own names
            _insert(fresh, table, [row])
    except UNREADABLE:
        return


def _insert(fresh: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> int:
    """Insert what keeps to the schema; how many did."""
    kept = 0
    fresh.execute("BEGIN")
    for row in rows:
        marks = ", ".join("?" * len(row))
        try:
            fresh.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608  # our own names
            kept += 1
        except sqlite3.IntegrityError:
            continue
    fresh.execute("COMMIT")
    return kept


def _readable(old: sqlite3.Connection, table: str, report: Report) -> Iterator[list[tuple[Any, ...]]]:
    """Every row that can be read, in id order, over all damage between."""
    at, limit = -1, ROWS_AT_ONCE
    while True:
        rows = _try_read(old, table, at, limit)
        if rows:
            yield rows
            at, limit = rows[-1][0], min(ROWS_AT_ONCE, limit * 2)
        elif rows is not None:
            return
        elif limit > 1:
            limit = 1  # the damage is among the next rows: go on one by one
        else:
            found = _next_readable(old, table, at)
            report.lost_ranges.append((at + 1, (found if found is not None else _last_id(old, at))))
            if found is None:
                return
            at = found


def _try_read(old: sqlite3.Connection, table: str, after: int, limit: int) -> list[tuple[Any, ...]] | None:
    """The rows behind `after`, or None where reading fails."""
    try:
        return old.execute(
            f"SELECT * FROM {table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  # our own names
            (after, limit),
        ).fetchall()
    except UNREADABLE:
        return None


def _next_readable(old: sqlite3.Connection, table: str, at: int) -> int | None:
    """The lowest id behind which reading works again: leaps that double, then halving between."""
    leap = 1
    while not _try_read(old, table, at + leap, 1):
        leap *= 2
        if at + leap > HIGHEST_ID:
            return None
    fails, works = at + leap // 2, at + leap
    while works - fails > 1:
        middle = (fails + works) // 2
        if _try_read(old, table, middle, 1):
            works = middle
        else:
            fails = middle
    return works


def _last_id(old: sqlite3.Connection, at_least: int) -> int:
    try:
        ((next_id,),) = old.execute("SELECT next_id FROM store").fetchall()
    except (sqlite3.DatabaseError, ValueError):
        return at_least + 1
    return max(at_least + 1, int(next_id) - 1)


def _name_unknown(fresh: sqlite3.Connection) -> None:
    """Messages whose stream or boot row is lost keep their number, without a name."""
    fresh.execute(
        "INSERT INTO streams (id) SELECT DISTINCT stream FROM messages "
        "WHERE stream NOT IN (SELECT id FROM streams)"
    )
    fresh.execute(
        "INSERT INTO boots (id, boot_id) SELECT DISTINCT boot, 'lost-' || boot FROM messages "
        "WHERE boot NOT IN (SELECT id FROM boots)"
    )


def _recount(fresh: sqlite3.Connection) -> None:
    fresh.execute(
        "INSERT INTO levels (stream, priority, messages, bytes, stored, delivered) "
        "SELECT stream, priority, count(*), sum(bytes), count(*), 0 FROM messages GROUP BY stream, priority"
    )


def _carry_counters(old: sqlite3.Connection, fresh: sqlite3.Connection, highest: int) -> None:
    """Ids and stream numbers go on above everything ever given."""
    ((producers,),) = fresh.execute("SELECT count(*) FROM producers").fetchall()
    ((streams,),) = fresh.execute("SELECT coalesce(max(id), 0) FROM streams").fetchall()
    try:
        ((uuid, next_id, next_stream),) = old.execute(
            "SELECT uuid, next_id, next_stream FROM store"
        ).fetchall()
    except (sqlite3.DatabaseError, ValueError):
        ((uuid,),) = fresh.execute("SELECT uuid FROM store").fetchall()
        next_id, next_stream = highest + ID_GAP, streams + 1
    fresh.execute(
        "UPDATE store SET uuid = ?, next_id = ?, next_stream = ?, producers = ?",
        (uuid, max(next_id, highest + 1), max(next_stream, streams + 1), producers),
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
