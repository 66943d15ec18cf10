"""Reading side of management.db, for people: short reads, without writing, with the worker up or down."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.adapters.management.rows import COMMAND_COLUMNS, SELECT_TWIN, command_from_row, twin_from_rows
from runtime.adapters.store.errors import StoreDamaged, StoreUnavailable, translated
from runtime.core.management.command_record import CommandRow
from runtime.core.management.twin_record import TwinRecord


class ManagementReader:
    """One read at a time, each of what is committed then. The methods raise StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def twin(self) -> TwinRecord:
        """The twin as the worker committed it last."""
        with self._reading() as db:
            rows = db.execute(SELECT_TWIN).fetchall()
            return twin_from_rows(dict(rows))

    def commands(self, most: int) -> list[CommandRow]:
        """The newest commands, the newest first."""
        return self._commands("1 ORDER BY seq DESC LIMIT ?", most)

    def command(self, name: str) -> CommandRow | None:
        """The command of this number, else the newest with this id of the hub."""
        found = self._commands("seq = ?", int(name)) if name.isdecimal() and len(name) < 19 else []
        found = found or self._commands("id = ? ORDER BY seq DESC LIMIT 1", name)
        return found[0] if found else None

    def unfinished(self) -> int:
        """Commands that are open, or whose results `ingest` has not acknowledged."""
        with self._reading() as db:
            query = "SELECT count(*) FROM commands WHERE ended_no IS NULL OR result_stored = 0"
            ((count,),) = db.execute(query).fetchall()
            return int(count)

    def _commands(self, where: str, value: Any) -> list[CommandRow]:
        with self._reading() as db:
            select = f"SELECT {COMMAND_COLUMNS} FROM commands WHERE {where}"  # noqa: S608 constants
            return [command_from_row(row) for row in db.execute(select, (value,)).fetchall()]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            raise StoreUnavailable(f"{self._path} does not exist: the management worker has never run")
        try:
            with translated():
                db = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=1.0)
                with contextlib.closing(db):
                    yield db
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
            raise StoreDamaged(f"{self._path}: a row cannot be decoded: {exc!r}") from exc
