"""Reads a damaged store, around all parts that cannot be read.

Damage shows as any of `DAMAGE`. An I/O error may pass, and escapes, so that the salvage begins again later:
data that a disk does not give back for now is not lost. Only where parts of the files are known to be gone
for ever (`core/ingest/read_errors.py`) an I/O error counts as damage, too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from runtime.adapters.store.errors import SCHEMA_VERSION, StoreNewer
from runtime.adapters.store.holders import owner_at
from runtime.adapters.store.opening import is_newer, migrated_to
from runtime.adapters.store.reader import text_or_bytes
from runtime.adapters.store.unfolded import is_fold_point, most_given
from runtime.adapters.store.wal import ends_early, keep_cut
from runtime.core.ingest.row_repair import LARGEST, is_id, is_number

ID_GAP = 2**32
"""Ids left free behind the highest id found where the counter of ids is lost."""
NUMBERED = ("messages", "quarantine")
"""Tables whose ids the store gives; the row numbers of other tables are SQLite's."""
ROWS_AT_ONCE = 500
BYTES_AT_ONCE = 4_194_304
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError)
"""Exceptions raised by reading damaged pages: also where SQLite's error text holds some of the damage, and
behind the largest possible number."""
TRANSIENT = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BLOCK_BYTES = 4_096

Row = tuple[Any, ...]


class _Broken(Exception):
    """Reading ends in damage."""


class Counters(NamedTuple):
    """Figures of the store as a whole."""

    uuid: str
    next_id: int
    """The next id that the counters know of."""
    next_stream: int
    folded: int
    """The id up to which they count."""
    given: int
    """The highest id that may have been given: of those behind the counters only the rows tell."""


class DamagedStore:
    """A damaged store, opened for the last time."""

    def __init__(self, path: Path, *, blocks_lost: bool) -> None:
        self._forgiving = blocks_lost
        if blocks_lost:
            _cut(path.with_name(f"{path.name}-wal"))
        self.in_disorder = False
        """True if numbers do not grow from row to row: a page is not the one that belongs there."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.text_factory = text_or_bytes  # undecodable text damages one value only
        self.wal_is_cut = self._wal_is_cut(path)
        """True if the WAL is cut: commits behind the cut are lost, and their number is unknown."""

    def _wal_is_cut(self, path: Path) -> bool:
        try:
            self._try("PRAGMA user_version")  # makes SQLite read the WAL
            return ends_early(self._db, path)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def version(self) -> int:
        """The store's schema version; today's where it cannot be read. Raises StoreNewer."""
        rows = self._try("PRAGMA user_version")
        version = int(rows[0][0]) if rows else SCHEMA_VERSION
        if is_newer(self._db, version):
            raise StoreNewer(
                f"the damaged store has schema {version}, this runtime knows {SCHEMA_VERSION}",
                hint="install the newer runtime again: it salvages what is in damaged/",
            )
        return migrated_to(self._db) or (version if 0 < version <= SCHEMA_VERSION else SCHEMA_VERSION)

    def expected(self) -> int | None:
        """Number of messages according to the store's own counters, where they can be read."""
        stored = self._try("SELECT coalesce(sum(messages), 0) FROM levels")
        aside = self._try("SELECT count(*) FROM quarantine")
        counters = self.counters()
        folded, given = counters[-2:] if counters else (0, 0)
        beyond = self._try("SELECT count(*) FROM messages WHERE id > ? AND id <= ?", folded, given)
        if stored is None or aside is None or beyond is None:
            return None
        return int(stored[0][0] + aside[0][0] + beyond[0][0])

    def counters(self) -> Counters | None:
        """Its uuid, and the next id and stream number; None where the counters are lost."""
        folds = self._folds()
        more = "folded, closed" if folds else "next_id - 1, 1"
        rows = self._try(f"SELECT uuid, next_id, next_stream, {more} FROM store")  # noqa: S608  # our own names
        if not rows or len(rows) != 1:
            return None
        uuid, next_id, next_stream, folded, closed = rows[0]
        if not (isinstance(uuid, str) and is_id(next_id) and is_number(next_stream)):
            return None
        if not is_fold_point(next_id, folded):  # one of them is damaged: ids go on behind both
            folded = max(next_id - 1, folded) if is_id(folded) else next_id - 1
            next_id = folded + 1
        return Counters(uuid, next_id, next_stream, folded, most_given(folded, closed))

    def _folds(self) -> bool:
        """True if its schema has counters that may be behind its rows."""
        columns = self._try("SELECT name FROM pragma_table_info('store')")
        return columns is not None and ("folded",) in columns

    def owner_of(self) -> Callable[[int], str]:
        """Who stored each message, by the changes of owner that can be read."""
        rows = self._try("SELECT first_id, owner FROM holders ORDER BY first_id") or []
        return partial(owner_at, [row for row in rows if isinstance(row[0], int) and isinstance(row[1], str)])

    def name(self) -> str | None:
        """Its uuid, also where the counters beside it are lost: keyless messages are known by it."""
        rows = self._try("SELECT uuid FROM store")
        return rows[0][0] if rows and len(rows) == 1 and isinstance(rows[0][0], str) else None

    def rows(self, table: str, lost: list[tuple[int, int]]) -> Iterator[list[Row]]:
        """Every row that can be read, in storage order, across all damage between: those ranges go to `lost`.

        Reads on without seeking for as long as that works: one flipped number must not decide where to go on.
        """
        at, most = -1, self._most(table)
        while True:
            began_at = at
            try:
                for rows in self._stretch(table, at):
                    at = next((row[0] for row in reversed(rows) if at < row[0] <= most), at)
                    yield [row[1:] for row in rows]
                return
            except _Broken:
                if at > began_at:
                    continue
            readable = self._next_readable(table, at, most)
            lost.append((at + 1, readable if readable is not None else self._last_id(at + 1)))
            if readable is None:
                return
            at = readable

    def _most(self, table: str) -> int:
        """The largest row number in that table, as far as it is known."""
        counters = self.counters() if table in NUMBERED else None
        return LARGEST if counters is None or counters.given < 1 else counters.given

    def _stretch(self, table: str, number: int) -> Iterator[list[Row]]:
        """Rows behind `number`, row number first, as many at once as memory should take. Raises _Broken."""
        batch: list[Row] = []
        room = BYTES_AT_ONCE
        query = f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid"  # noqa: S608  # our own names
        try:
            with contextlib.closing(self._db.execute(query, (number,))) as rows:
                for row in rows:
                    self.in_disorder |= row[0] <= number
                    number = row[0]
                    batch.append(row)
                    room -= sum(len(value) for value in row if isinstance(value, str | bytes))
                    if room <= 0 or len(batch) >= ROWS_AT_ONCE:
                        yield batch
                        batch, room = [], BYTES_AT_ONCE
        except DAMAGE as exc:
            self._count_as_lost(exc)
            if batch:
                yield batch
            raise _Broken from exc
        if batch:
            yield batch

    def _readable(self, table: str, behind: int, most: int) -> bool:
        """True if the next row can be read, and its number is at most `most`."""
        query = f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 1"  # noqa: S608  # our own names
        rows = self._try(query, behind)
        return rows is not None and any(row[0] <= most for row in rows)

    def _next_readable(self, table: str, at: int, most: int) -> int | None:
        """The lowest number behind which reading works again: leaps that double, then halving between."""
        leap = 1
        while not self._readable(table, at + leap, most):
            leap *= 2
            if at + leap > most:
                return None
        fails, works = at + leap // 2, at + leap
        while works - fails > 1:
            middle = (fails + works) // 2
            if self._readable(table, middle, most):
                works = middle
            else:
                fails = middle
        return works

    def _last_id(self, at_least: int) -> int:
        """The last id ever given, by the counter; where that is lost, the highest id that it can be."""
        counters = self.counters()
        return at_least + ID_GAP - 1 if counters is None else max(at_least, counters.given)

    def _try(self, query: str, *values: object) -> list[Row] | None:
        """Rows that the query finds; None where reading fails."""
        try:
            return self._db.execute(query, values).fetchall()
        except DAMAGE as exc:
            self._count_as_lost(exc)
            return None

    def _count_as_lost(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in TRANSIENT and not self._forgiving:
            raise error


def _cut(wal: Path) -> None:
    """End the WAL before the first block that cannot be read: SQLite would read nothing of it at all."""
    if not wal.exists():
        return
    at = _readable_bytes(wal)
    if at < wal.stat().st_size:
        keep_cut(wal)
        os.truncate(wal, at)


def _readable_bytes(file: Path) -> int:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = 0
        while chunk := os.pread(descriptor, _BLOCK_BYTES, at):
            at += len(chunk)
    except OSError:
        return at
    finally:
        os.close(descriptor)
    return at
