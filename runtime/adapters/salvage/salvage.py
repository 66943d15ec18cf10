"""Salvage: a damaged messages.db is set aside whole, and its readable part is copied into a fresh one.

The order of steps makes every crash harmless, without a journal of our own:

1. `messages.db` moves into the folder `damaged/`, then its WAL follows. From here on "no messages.db, but one
   in damaged/" means: unfinished, start again.
2. All that can be read is copied into `messages.db.salvage`, in id order. Where reading fails, the next
   readable id is searched, and the range between is lost, by name.
3. The copy is closed (on disk, no WAL) and renamed to `messages.db`: only now does a store exist again.
4. The damaged files get another name (`finish`), so that they are history should messages.db ever be missing.

No new message is taken meanwhile (there is no store), so ids stay in order. The damaged files stay in
`damaged/` with a report, for a person.

A store of an older schema is copied into that same schema, and then migrated as every older store is. One of
a newer schema is left in `damaged/` for the runtime that wrote it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.adapters.salvage.damaged_reader import ID_GAP, Counters, DamagedStore
from runtime.adapters.salvage.disk_probe import block_ranges, read_files
from runtime.adapters.store.counters import UNKNOWN, WRITE_LEVEL
from runtime.adapters.store.errors import StoreFull, StoreUnavailable, StoreUnreadable, translated
from runtime.adapters.store.fold import fold_salvaged
from runtime.adapters.store.keyless_names import create_lives, read_names
from runtime.adapters.store.leaf_names import create_leaves
from runtime.adapters.store.ledger import close_after_salvage, create_ledger, ensure_entry, log_ranges
from runtime.adapters.store.wal import cut_mark
from runtime.core.ingest.row_repair import REPAIRS, RowRepair, is_id

FOLDER = "damaged"
REPORT = "report.json"
SYNC_BYTES = 67_108_864
MOST_GAPS = 1_000
GAPS_AT_ONCE = 100_000


@dataclass
class SalvageReport:
    """Result of the salvage of a damaged store."""

    reason: str
    salvaged: int = 0
    expected: int | None = None
    """Messages by the store's own counters, where they can be read."""
    lost_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Closed ranges of ids that may have held messages and cannot be read."""
    unreadable: Sequence[str] = ()
    """Parts of the files that the disk does not give back any more."""
    began_wall_s: float | None = None
    """Unix time at which it began; None where the clock was never set."""

    @property
    def explained(self) -> bool:
        """True if just as many messages are missing as are named.

        Else a range covers messages that were delivered, or an old page brought them back: others may be
        hidden.
        """
        named = sum(last - first + 1 for first, last in self.lost_ranges)
        return self.expected is not None and self.expected - self.salvaged == named


def files(path: Path) -> list[Path]:
    """Files of the store, where they are in use, and where they are while it is salvaged."""
    return [
        folder / f"{path.name}{suffix}"
        for folder in (path.parent, path.parent / FOLDER)
        for suffix in ("", "-wal")
    ]


def pending(path: Path) -> bool:
    """True if a salvage was begun and not finished."""
    return not path.exists() and (path.parent / FOLDER / path.name).is_file()


def last_report(path: Path) -> dict[str, Any] | None:
    """The report of the last salvage, until `damaged/` is cleared away."""
    try:
        report = json.loads((path.parent / FOLDER / REPORT).read_text())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def set_aside(path: Path) -> None:
    """Step 1. An older damaged store is removed: one is enough to learn from."""
    folder = path.parent / FOLDER
    if path.exists():
        _make_room(folder, path.name)
        path.rename(folder / path.name)
    wal = path.with_name(f"{path.name}-wal")
    for file in (wal, cut_mark(wal)):
        if file.exists():
            file.rename(folder / file.name)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _make_room(folder: Path, name: str) -> None:
    """Remove our files from the folder; files of others stay, or if in the way the folder is renamed."""
    if os.path.lexists(folder) and not _is_cleared(folder, name):
        number = next(n for n in itertools.count(1) if not os.path.lexists(f"{folder}.{n}"))
        folder.rename(f"{folder}.{number}")
    folder.mkdir(mode=0o700, exist_ok=True)


def _is_cleared(folder: Path, name: str) -> bool:
    if folder.is_symlink() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    ours = [*folder.glob(f"{name}*"), folder / REPORT]
    for file in ours:
        with contextlib.suppress(OSError):
            file.unlink()
    return not any(map(os.path.lexists, ours))


def salvage(
    path: Path, reason: str, unreadable: Sequence[str] = (), wall_s: float | None = None
) -> Iterator[SalvageReport]:
    """All steps, a slice for each `next`; yields the growing report. On StoreError begin again, later."""
    try:
        yield from _salvage(path, SalvageReport(reason, unreadable=unreadable, began_wall_s=wall_s))
    except OSError as exc:
        kind = StoreFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnavailable
        raise kind(f"the damaged store cannot be salvaged now: {exc.strerror}") from exc


def _salvage(path: Path, report: SalvageReport) -> Iterator[SalvageReport]:
    set_aside(path)
    fresh_path = path.with_name(f"{path.name}.salvage")
    _remove(fresh_path)
    try:
        yield from _into(fresh_path, path, report)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(fresh_path)  # half a copy is of no use, and others need the room
        raise
    _sync(fresh_path)
    (path.parent / FOLDER / REPORT).write_text(json.dumps(asdict(report)))
    fresh_path.rename(path)
    _sync(path.parent)
    finish(path)
    yield report


def _remove(fresh_path: Path) -> None:
    for leftover in fresh_path.parent.glob(f"{fresh_path.name}*"):
        leftover.unlink()


def _into(fresh_path: Path, path: Path, report: SalvageReport) -> Iterator[SalvageReport]:
    """Steps 2 and 3, except for the rename."""
    with translated():
        fresh = sqlite3.connect(fresh_path, isolation_level=None)
        try:
            damaged = DamagedStore(path.parent / FOLDER / path.name, blocks_lost=bool(report.unreadable))
            try:
                yield from _synced_by_slices(fresh_path, _copy(damaged, fresh, report))
                yield from _confirm_damage(path, report)
            finally:
                damaged.close()
        finally:
            fresh.close()


def _synced_by_slices(fresh_path: Path, copying: Iterator[SalvageReport]) -> Iterator[SalvageReport]:
    """Sync the growing copy: one sync at the end might take a slow disk longer than workers may be silent."""
    synced_bytes = 0
    for report in copying:
        size = fresh_path.stat().st_size
        if size - synced_bytes > SYNC_BYTES:
            _sync(fresh_path)
            synced_bytes = size
        yield report


def _confirm_damage(path: Path, report: SalvageReport) -> Iterator[SalvageReport]:
    """Lost rows must be damaged: raise StoreUnreadable if only the disk cannot read them: that might pass."""
    if report.lost_ranges and not report.unreadable:
        for look in read_files(files(path)):
            if look is not None and look.unreadable:
                raise StoreUnreadable(
                    f"a part of the damaged store cannot be read: {block_ranges(look.unreadable)}"
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


def _copy(damaged: DamagedStore, fresh: sqlite3.Connection, report: SalvageReport) -> Iterator[SalvageReport]:
    from runtime.adapters.store.schema import migrate  # imported late: sqlite-utils only where it is needed

    fresh.execute("PRAGMA auto_vacuum = INCREMENTAL")
    fresh.execute("PRAGMA synchronous = OFF")  # the whole file is synced before it gets its name
    migrate(fresh, damaged.version())
    create_lives(fresh)
    create_leaves(fresh)
    create_ledger(fresh)
    report.expected = damaged.expected()
    for table, repair in REPAIRS.items():
        for rows in damaged.rows(table, lost=[]):
            _insert(fresh, table, [row for row in map(repair, rows) if row is not None])
            yield report
    messages, aside = _messages(fresh, "messages"), _messages(fresh, "quarantine")
    highest, counters, names = 0, damaged.counters(), read_names(fresh, damaged.name() or "")
    given_up_to = counters.given if counters else None
    for table, kept in (("quarantine", aside), ("messages", messages)):
        for rows in damaged.rows(table, report.lost_ranges):
            sound: list[Sequence[Any]] = [row for row in rows if is_id(row[0])]
            highest = max([highest, *(row[0] for row in sound)])
            beyond = [row for row in rows if not is_id(row[0])]
            if beyond:  # numbered behind every id that was given, or may have been
                highest = max(highest, given_up_to if given_up_to is not None else highest + ID_GAP)
                given_up_to = highest
                sound += [
                    kept.renumbered(highest + at, row, names.of(row[0])) for at, row in enumerate(beyond, 1)
                ]
                highest += len(beyond)
            inserted = _insert(fresh, table, list(map(kept.repaired, sound)))
            report.salvaged += len(inserted)
            for row in inserted:
                kept.count(row)
            yield report
    _write_lookup_tables(fresh, messages)
    migrate(fresh)
    _fold(damaged, fresh, messages)
    _close_ledger(fresh, messages, aside)
    explained = report.explained and not damaged.in_disorder
    next_id = _carry_counters(damaged, fresh, report, highest)
    if not explained:
        yield from _name_gaps(fresh, report, next_id)
    log_ranges(fresh, report.lost_ranges, report.began_wall_s)


def _fold(damaged: DamagedStore, fresh: sqlite3.Connection, messages: RowRepair) -> None:
    """Carry over what the rows beyond the counters tell; the counters of the copy count all of its rows."""
    if counters := damaged.counters():
        ensure_entry(fresh)
        folded = fold_salvaged(fresh, counters.folded, damaged.owner_of())
        messages.uncounted -= folded.delivered_unknown


def _messages(fresh: sqlite3.Connection, table: str) -> RowRepair:
    columns = fresh.execute(f"PRAGMA table_info({table})").fetchall()
    return RowRepair([name for _, name, *_ in columns], {name for _, name, _, never, *_ in columns if never})


def _name_gaps(fresh: sqlite3.Connection, report: SalvageReport, next_id: int) -> Iterator[SalvageReport]:
    """Name the missing ids: a damaged page may hide rows and look sound, and any missing id may be theirs."""
    gaps: list[tuple[int, int]] = []
    awaited = 1
    for at, (number,) in enumerate(
        fresh.execute("SELECT id FROM messages UNION ALL SELECT id FROM quarantine ORDER BY id")
    ):
        if number > awaited and len(gaps) < MOST_GAPS:
            gaps.append((awaited, number - 1))
        if len(gaps) < MOST_GAPS:
            awaited = max(awaited, number + 1)
        if at % GAPS_AT_ONCE == 0:
            yield report
    if awaited < next_id:
        gaps.append((awaited, next_id - 1))
    report.lost_ranges = sorted({*gaps, *(lost for lost in report.lost_ranges if lost[0] >= next_id)})


def _insert(fresh: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Insert rows that keep to the schema; returns those that did."""
    kept = []
    fresh.execute("BEGIN")
    for row in rows:
        marks = ", ".join("?" * len(row))
        try:
            fresh.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608  # our own names
            kept.append(row)
        except sqlite3.IntegrityError:
            continue
    fresh.execute("COMMIT")
    return kept


def _write_lookup_tables(fresh: sqlite3.Connection, messages: RowRepair) -> None:
    """Write the tables about the messages. One whose stream or boot row is lost keeps its number, unnamed."""
    _insert(fresh, "streams", [(number, None, None) for number in messages.streams])
    _insert(fresh, "boots", [(number, f"lost-{number}") for number in messages.boots])
    for table in ("losses", "levels"):
        named = f"SELECT stream FROM {table} WHERE stream <> {UNKNOWN}"  # noqa: S608  # our own names
        fresh.execute(f"INSERT OR IGNORE INTO streams (id) {named}")
    fresh.executemany(WRITE_LEVEL, [(*level, *amount) for level, amount in messages.levels.items()])


def _close_ledger(fresh: sqlite3.Connection, messages: RowRepair, aside: RowRepair) -> None:
    known = {number for (number,) in fresh.execute("SELECT id FROM streams").fetchall()}
    by_stream: Counter[int] = Counter()
    for stream, count in aside.of_streams.items():
        by_stream[stream if isinstance(stream, int) and stream in known else UNKNOWN] += count
    close_after_salvage(fresh, by_stream, messages.uncounted)


def _carry_counters(
    damaged: DamagedStore, fresh: sqlite3.Connection, report: SalvageReport, highest: int
) -> int:
    """Ids and stream numbers continue above all that were ever given. Returns the next id."""
    ((producers,),) = fresh.execute("SELECT count(*) FROM producers").fetchall()
    ((streams,),) = fresh.execute("SELECT coalesce(max(id), 0) FROM streams").fetchall()
    ((own_uuid,),) = fresh.execute("SELECT uuid FROM store").fetchall()
    lost = Counters(damaged.name() or own_uuid, highest + ID_GAP, streams + 1, *(2 * [highest + ID_GAP - 1]))
    counters = damaged.counters() or lost
    end = max(counters.next_id, highest + 1)
    if damaged.wal_is_cut:
        report.lost_ranges.append((end, end + ID_GAP - 1))
        next_id = end + ID_GAP
    else:
        if report.lost_ranges or damaged.in_disorder:  # the last rows may be among what is lost
            end = max(end, counters.given + 1)
        next_id = max(end, counters.given + 1)
    fresh.execute(
        "UPDATE store SET uuid = ?1, next_id = ?2, folded = ?2 - 1, closed = 1, next_stream = ?3, "
        "producers = ?4",
        (counters.uuid, next_id, max(counters.next_stream, streams + 1), producers),
    )
    return end


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
