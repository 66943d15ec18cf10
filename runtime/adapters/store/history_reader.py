"""What the store knows of a message besides its row: who stored it, and which losses its id may be among."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from runtime.adapters.store.errors import translated
from runtime.adapters.store.reader import StoreReader
from runtime.core.message import StreamName

MOST_LOSSES = 5
"""Losses that are named, the one with the fewest ids first."""


class PossibleLoss(NamedTuple):
    """Messages of one stream, lost for one reason, among whose ids is the one that is asked for."""

    stream: str
    reason: str
    messages: int | None
    first_id: int
    last_id: int

    @property
    def is_certain(self) -> bool:
        """True if every id of the range is of a lost message."""
        return self.messages is not None and self.messages >= self.last_id - self.first_id + 1


class HistoryReader(StoreReader):
    """A reader for `edgectl trace`."""

    def owner(self, id: int) -> str | None:
        """The user or CURVE key that stored message `id`; None where it is not known."""
        db = self._connection()
        with translated():
            if not _has(db, "holders"):
                return None
            rows = db.execute(
                "SELECT owner FROM holders WHERE first_id <= ? ORDER BY first_id DESC LIMIT 1", (id,)
            ).fetchall()
        return rows[0][0] if rows and isinstance(rows[0][0], str) and rows[0][0] else None

    def possible_losses(self, id: int) -> list[PossibleLoss]:
        """Losses with `id` among their ids: of the log where the store keeps one, else the sums."""
        db = self._connection()
        with translated():
            table = "loss_log" if _has(db, "loss_log") else "losses"
            rows = db.execute(
                f"SELECT stream, reason, messages, first_id, last_id FROM {table}"  # noqa: S608 - our names
                " WHERE first_id <= ?1 AND last_id >= ?1 ORDER BY last_id - first_id LIMIT ?2",
                (id, MOST_LOSSES),
            ).fetchall()
        return [
            PossibleLoss(self._name(stream), str(reason), messages, first_id, last_id)
            for stream, reason, messages, first_id, last_id in rows
            if isinstance(stream, int) and isinstance(messages, int | None)
        ]

    def _name(self, number: int) -> str:
        try:
            return str(StreamName(*self._stream(number)))
        except KeyError:  # damaged, or removed since
            return f"#{number}"


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(
        db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchall()
    )
