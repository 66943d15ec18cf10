"""Log of the twin requests of devices: what each asked for, and how it was answered.

A test reads from it what a device did to reach a twin: how many patches, how close to one another, and
whether one removed what was not there, which had the real hub remove its siblings.
"""

from __future__ import annotations

from typing import Any

from runtime.devcloud.state.database import Database


class TwinLog:
    """Every GET and PATCH, in order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, device_id: str, request: str, status: int, at_s: float, payload: bytes = b"", flaw: str = ""
    ) -> None:
        """Record a request, `GET` or `PATCH`, and the status of its answer, which a fault may have lost."""
        self._database.execute(
            "INSERT INTO twin_requests (device_id, request, status, at, payload, flaw)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *(device_id, request, status, at_s, payload, flaw),
        )

    def requests(self, device_id: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Requests after number `after`, oldest first."""
        return self._database.rows(
            "SELECT * FROM twin_requests WHERE seq > ?1 AND (?3 IS NULL OR device_id = ?3)"
            " ORDER BY seq LIMIT ?2",
            *(after, limit, device_id),
        )
