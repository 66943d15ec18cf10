"""Facts about a database for a support bundle: schema and counters, and never the content of a row.

Of the tables that count (levels, losses) the numbers are shown; of any other only the number of its rows. The
file may be damaged, held by another process, or written by a newer runtime: what can be read is read.
"""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runtime.adapters.store.leaf_names import read_streams
from runtime.adapters.store.reader import text_or_bytes
from runtime.core.printable import printable

MOST_ROWS = 1_000
"""Rows of a counting table that are read."""
MOST_COUNTED = 1_000_000
"""Rows of a table that are counted: beyond it the count says "more"."""
_PRAGMAS = ("user_version", "page_size", "page_count", "freelist_count", "journal_mode", "auto_vacuum")
_COUNTERS = ("levels", "losses", "ledger", "ledger_beside", "loss_log")
"""Tables of messages.db that hold numbers, and names of reasons, alone."""
_FOLD = (
    "SELECT next_id, folded, closed, "
    "(SELECT count(*) FROM (SELECT 1 FROM messages WHERE id > folded LIMIT 2000)) FROM store"
)
"""How far the counters of messages.db count, and the number of rows beyond (`fold.py`)."""
_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_REASON = re.compile(r"[a-z][a-z _-]{0,39}")


def database_facts(path: Path, deadline_s: float) -> dict[str, Any]:
    """Schema, size and counters of the database at `path`, within about `deadline_s` seconds."""
    facts: dict[str, Any] = {"bytes": _sizes(path)}
    if not path.exists():
        return {**facts, "trouble": "it does not exist"}
    read = _facts(path, deadline_s, "mode=ro")
    if "tables" not in read:  # on a read-only disk the WAL has no index beside it
        without_wal = _facts(path, deadline_s, "immutable=1")
        read = {**without_wal, "trouble": read["trouble"]} if "tables" in without_wal else read
    return {**facts, **read}


def _facts(path: Path, deadline_s: float, mode: str) -> dict[str, Any]:
    """The facts as far as they can be read, opened in this mode; `trouble` says what ended it early."""
    facts: dict[str, Any] = {"opened": mode}
    until_s = time.monotonic() + deadline_s
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, isolation_level=None, timeout=0.5)
        ) as db:
            db.text_factory = text_or_bytes
            db.set_progress_handler(lambda: time.monotonic() > until_s, 10_000)
            for name in _PRAGMAS:
                facts[name] = db.execute(f"PRAGMA {name}").fetchall()[0][0]
            facts["tables"] = {table: _table(db, table) for table in _tables(db)}
            if "folded" in facts["tables"].get("store", {}).get("columns", ()):
                names = ("next_id", "folded", "closed", "unfolded")
                numbers = db.execute(_FOLD).fetchall()
                facts["fold"] = [
                    {name: value for name, value in zip(names, row, strict=True) if _is_counter(value)}
                    for row in numbers
                ]
    except (sqlite3.Error, UnicodeDecodeError, IndexError) as exc:
        facts["trouble"] = _words(exc)
    return facts


def stream_names(path: Path) -> list[str]:
    """The names of all streams, stream groups and leaves that are stored; none where they cannot be read."""
    with suppress(sqlite3.Error, UnicodeDecodeError):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)) as db:
            rows = {part for name in read_streams(db).values() for part in name}
            return [name for name in rows if isinstance(name, str)]
    return []


def _sizes(path: Path) -> dict[str, int]:
    """Sizes of the file and of those beside it."""
    sizes = {}
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):
            sizes[path.name + suffix] = path.with_name(path.name + suffix).stat().st_size
    return sizes


def _tables(db: sqlite3.Connection) -> list[str]:
    """Tables with a name as ours: a damaged schema may hold anything."""
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return [name for (name,) in rows if isinstance(name, str) and _IDENTIFIER.fullmatch(name)]


def _table(db: sqlite3.Connection, table: str) -> dict[str, Any]:
    try:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()]
        named = [name for name in columns if isinstance(name, str) and _IDENTIFIER.fullmatch(name)]
        facts: dict[str, Any] = {"columns": named, "rows": _row_count(db, table)}
        if table in _COUNTERS:
            facts["counters"] = _counters(db, table, named)
        elif table == "streams":
            facts["names"] = _names(db)
    except (sqlite3.Error, UnicodeDecodeError, IndexError) as exc:
        return {"trouble": _words(exc)}
    return facts


def _row_count(db: sqlite3.Connection, table: str) -> int | str:
    query = f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {MOST_COUNTED + 1})"  # noqa: S608 - a checked name
    ((count,),) = db.execute(query).fetchall()
    return int(count) if count <= MOST_COUNTED else f"more than {MOST_COUNTED}"


def _counters(db: sqlite3.Connection, table: str, columns: list[str]) -> list[dict[str, Any]]:
    query = f"SELECT {', '.join(columns)} FROM {table} LIMIT {MOST_ROWS}"  # noqa: S608 - checked names
    return [
        {name: value for name, value in zip(columns, row, strict=True) if _is_counter(value)}
        for row in db.execute(query).fetchall()
    ]


def _is_counter(value: object) -> bool:
    """True for a number, and for the name of a reason: a flipped bit may make anything of a cell."""
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and bool(_REASON.fullmatch(value)))
    )


def _names(db: sqlite3.Connection) -> list[list[Any]]:
    """Number, group and name of the streams, by which counters refer to them."""
    rows = db.execute(f"SELECT id, stream_group, stream FROM streams LIMIT {MOST_ROWS}").fetchall()  # noqa: S608
    return [
        [number, *(name if isinstance(name, str | None) else "?" for name in names)]
        for number, *names in rows
    ]


def _words(exc: Exception) -> str:
    return printable(f"{type(exc).__name__}: {exc}", 200)
