"""Message log of the hub: every message and every CONNECT, in order of arrival, committed before it is
answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.devcloud.state.database import Database
from runtime.devcloud.state.values import Received

_INSERT = (
    "INSERT INTO messages (received_at, device_id, message_id, dup, qos, properties, system, payload,"
    " connection) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class MessageLog:
    """The hub's log of messages and connections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, received: Sequence[Received]) -> None:
        """Commit messages in one go; when this returns, they survive a SIGKILL."""
        if received:
            self._database.append(_INSERT, [_row(message) for message in received])

    def opened(self, client_id: str, device_id: str | None, code: int, reason: str, at_s: float) -> int:
        """Record a CONNECT and its answer. Returns the connection's number."""
        return self._database.execute(
            "INSERT INTO connections (opened_at, client_id, device_id, code, reason) VALUES (?, ?, ?, ?, ?)",
            *(at_s, client_id, device_id, code, reason),
        )

    def closed(self, connection: int, reason: str, at_s: float) -> None:
        """Record how a connection ended; the first reason counts."""
        self._database.execute(
            "UPDATE connections SET closed_at = ?, end_reason = ? WHERE seq = ? AND closed_at IS NULL",
            *(at_s, reason, connection),
        )

    def close_all(self, reason: str, at_s: float) -> None:
        """Close, at the start, all connections that were open when the stand-in was killed."""
        self._database.execute(
            "UPDATE connections SET closed_at = ?, end_reason = ? WHERE closed_at IS NULL AND code = 0",
            *(at_s, reason),
        )

    def connected(self) -> set[str]:
        """Hub device ids that are connected now."""
        rows = self._database.rows(
            "SELECT DISTINCT device_id FROM connections WHERE closed_at IS NULL AND code = 0"
        )
        return {row["device_id"] for row in rows}

    def messages(self, after: int, limit: int, device_id: str | None = None) -> list[dict[str, Any]]:
        """Messages with a number above `after`, oldest first."""
        return self._database.rows(
            "SELECT * FROM messages WHERE seq > ?1 AND (?3 IS NULL OR device_id = ?3) ORDER BY seq LIMIT ?2",
            *(after, limit, device_id),
        )

    def all_messages(self) -> Iterator[dict[str, Any]]:
        """Every message, oldest first, some at a time."""
        after = 0
        while page := self.messages(after, 1_000):
            yield from page
            after = page[-1]["seq"]

    def newest(self) -> int:
        """Number of the newest message, 0 without any. It is also the number of messages."""
        row = self._database.row("SELECT max(seq) AS newest FROM messages")
        return (row and row["newest"]) or 0


def _row(message: Received) -> tuple[object, ...]:
    return (
        message.received_at_s,
        message.device_id,
        message.message_id,
        int(message.dup),
        message.qos,
        json.dumps(dict(message.properties), ensure_ascii=False),
        json.dumps(dict(message.system), ensure_ascii=False),
        message.payload,
        message.connection,
    )
