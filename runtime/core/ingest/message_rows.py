"""The row of a message, without the columns that hardly any message has (its `Details`)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Payload: TypeAlias = bytes  # under another name: `MessageRow` has a column called bytes


class MessageRow(NamedTuple):
    """The columns of a message, but for its `Details`: every column that is left out saves time."""

    id: int
    stream: int
    kind: int
    priority: int
    stored_wall_s: float | None
    stored_boot_s: float
    boot: int
    key: str | None
    bytes: int
    payload: Payload


Values: TypeAlias = tuple[int, int, int, int, float | None, float, int, str | None, int, Payload]
"""A `MessageRow` without its names: Python's sqlite3 takes twice the time to bind any other tuple."""
