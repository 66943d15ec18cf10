"""systemd's journal, by its native protocol: one datagram a line, with priority and fields.

Beside the file that supervisord writes, which `edgectl logs` and the sentinel read. Nothing waits for the
journal: a line that it does not take at once is in the file all the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path

PATH = "/run/systemd/journal/socket"
MOST_BYTES = 60_000
"""Of a longer line the rest stands in the file only: a datagram has a bound."""
PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "SUCCESS": 5, "INFO": 6, "DEBUG": 7, "TRACE": 7}
"""Loguru's levels as syslog's (RFC 5424)."""


class SystemdJournal:
    """A socket to the journal."""

    def __init__(self, path: str = PATH) -> None:
        """Connect. Raises OSError where no journal listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Send a line. `fields` get the prefix EDGE_."""
        entry = {
            "MESSAGE": message,
            "PRIORITY": str(PRIORITIES.get(level, 6)),
            "SYSLOG_IDENTIFIER": "edge-runtime",
            **{f"EDGE_{_name(name)}": str(value) for name, value in fields.items()},
        }
        datagram = b"".join(_field(name, value) for name, value in entry.items())
        with contextlib.suppress(OSError):
            self._socket.send(datagram)

    def close(self) -> None:
        self._socket.close()


def service_journal() -> SystemdJournal | None:
    """The journal, where systemd runs this process as part of a service; else None."""
    if not os.environ.get("INVOCATION_ID") or not Path(PATH).exists():
        return None
    with contextlib.suppress(OSError):
        return SystemdJournal()
    return None


def _name(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.upper())[:50]


def _field(name: str, value: str) -> bytes:
    """A field: `NAME=value`, or with its length where the value has several lines."""
    text = value.encode(errors="replace")[:MOST_BYTES]
    if b"\n" not in text:
        return name.encode() + b"=" + text + b"\n"
    return name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"
