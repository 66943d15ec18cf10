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

from runtime.adapters.damaged_store import Counters, DamagedStore
from runtime.adapters.examine import look, named
from runtime.adapters.store_errors import StoreUnavailable, StoreUnreadable, translated

FOLDER = "damaged"
REPORT = "report.json"
ID_GAP = 2**32
"""Left free behind the highest id found where the counter of ids is lost."""


@dataclass
class Report:
    """What became of a damaged store."""

    reason: str
    salvaged: int = 0
    expected: int | None = None
    """Messages by the store's own counters, where they can be read."""
    lost_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Closed ranges of ids that may have held messages and cannot be read."""
    unreadable: Sequence[str] = ()
    """Parts of the files that the disk does not give back any more."""


def files(path: Path) -> list[Path]:
    """Of the store, where they are in use, and where they lie while it is salvaged."""
    return [
        folder / f"{path.name}{suffix}"
        for folder in (path.parent, path.parent / FOLDER)
        for suffix in ("", "-wal")
    ]


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


def salvage(path: Path, reason: str, unreadable: Sequence[str] = ()) -> Iterator[Report]:
    """All steps, a slice for each `next`; yields the growing report. On StoreError begin again, later."""
    try:
        yield from _salvage(path, Report(reason, unreadable=unreadable))
    except OSError as exc:
        raise StoreUnavailable(f"the damaged store cannot be salvaged now: {exc.strerror}") from exc


def _salvage(path: Path, report: Report) -> Iterator[Report]:
    set_aside(path)
    fresh_path = path.with_name(f"{path.name}.salvage")
    for leftover in path.parent.glob(f"{fresh_path.name}*"):
        leftover.unlink()
    with translated():
        fresh = sqlite3.connect(fresh_path, isolation_level=None)
        try:
            old = DamagedStore(path.parent / FOLDER / path.name, gone_for_good=bool(report.unreadable))
            try:
                yield from _copy(old, fresh, report)
                yield from _was_no_weather(path, report)
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


def _was_no_weather(path: Path, report: Report) -> Iterator[Report]:
    """What was lost must be damaged: were it only the disk that does not give it back, that might pass."""
    if report.lost_ranges and not report.unreadable:
        for found in look(files(path)):
            if found is not None and found.unreadable:
                raise StoreUnreadable(
                    f"a part of the damaged store cannot be read: {named(found.unreadable)}"
                )
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


def _copy(old: DamagedStore, fresh: sqlite3.Connection, report: Report) -> Iterator[Report]:
    from runtime.adapters.store_schema import migrate  # late: sqlite-utils only where it is needed

    fresh.execute("PRAGMA auto_vacuum = INCREMENTAL")
    fresh.execute("PRAGMA synchronous = OFF")  # the whole file is synced before it gets its name
    migrate(fresh, old.version())
    report.expected, report.lost_ranges = old.expected(), old.lost_ranges
    for table in ("streams", "boots", "losses", "producers"):
        for row in old.small(table):
            _insert(fresh, table, [row])
    highest = 0
    for table in ("quarantine", "messages"):
        for rows in old.rows(table):
            report.salvaged += _insert(fresh, table, rows)
            highest = max(highest, rows[-1][0])
            yield report
    migrate(fresh)
    _name_unknown(fresh)
    _recount(fresh)
    _carry_counters(old, fresh, highest)


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


def _carry_counters(old: DamagedStore, fresh: sqlite3.Connection, highest: int) -> None:
    """Ids and stream numbers go on above everything ever given."""
    ((producers,),) = fresh.execute("SELECT count(*) FROM producers").fetchall()
    ((streams,),) = fresh.execute("SELECT coalesce(max(id), 0) FROM streams").fetchall()
    ((own_uuid,),) = fresh.execute("SELECT uuid FROM store").fetchall()
    counters = old.counters() or Counters(own_uuid, highest + ID_GAP, streams + 1)
    next_id = max(counters.next_id, highest + 1)
    if old.wal_is_cut:
        old.lost_ranges.append((next_id, next_id + ID_GAP - 1))
        next_id += ID_GAP
    fresh.execute(
        "UPDATE store SET uuid = ?, next_id = ?, next_stream = ?, producers = ?",
        (counters.uuid, next_id, max(counters.next_stream, streams + 1), producers),
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
