"""What the hub saw: every message and every CONNECT, in order of arrival, committed before it is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence

from runtime.devcloud.database import Database
from runtime.devcloud.values import Received

_INSERT = (
    "INSERT INTO messages (received_at, device_id, message_id, dup, qos, properties, system, payload, connection)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Records:
    """The hub's log book."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, received: Sequence[Received]) -> None:
        """Commit messages; when this returns, they survive a SIGKILL. One commit per call: call it in batches."""
        if received:
            self._database.append(_INSERT, [_row(message) for message in received])

    def opened(self, client_id: str, device_id: str | None, code: int, reason: str, at_s: float) -> int:
        """Note a CONNECT and how it was answered. Returns the connection's number."""
        return self._database.execute(
            "INSERT INTO connections (opened_at, client_id, device_id, code, reason) VALUES (?, ?, ?, ?, ?)",
            *(at_s, client_id, device_id, code, reason),
        )

    def closed(self, connection: int, reason: str, at_s: float) -> None:
        """Note how a connection ended; the first word counts."""
        self._database.execute(
            "UPDATE connections SET closed_at = ?, end_reason = ? WHERE seq = ? AND closed_at IS NULL",
            *(at_s, reason, connection),
        )


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
