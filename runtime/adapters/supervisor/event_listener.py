"""supervisord's event listener protocol: events come on stdin, and stdout belongs to the protocol alone.

One stray word on stdout and supervisord drops the listener permanently (state UNKNOWN). So the descriptor is
taken away from all other code first: every print goes to stderr.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Protocol


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class SupervisorGone(Exception):
    """stdin ended: there is no supervisord to listen to."""


class EventListener:
    """Reads events one by one, and confirms each as soon as it was read: losing one costs nothing."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._buffer = b""
        self._write(b"READY\n")

    def wait(self, timeout_s: float, also: Sequence[_HasFileno] = ()) -> str | None:
        """The name of the next event, or None when the time is over or one of `also` is readable."""
        event = self._next()
        if event is not None:
            return event
        sources: list[int | _HasFileno] = [self._in, *also]
        readable, _, _ = select.select(sources, [], [], max(0.0, timeout_s))
        if self._in not in readable:
            return None
        received = os.read(self._in, 65536)
        if not received:
            raise SupervisorGone
        self._buffer += received
        return self._next()

    def _next(self) -> str | None:
        """Take one whole event out of the buffer and confirm it."""
        event, self._buffer = split_event(self._buffer)
        if event is not None:
            self._write(b"RESULT 2\nOKREADY\n")
        return event

    def _write(self, reply: bytes) -> None:
        os.write(self._out, reply)


def split_event(buffer: bytes) -> tuple[str | None, bytes]:
    """The name of the first whole event of `buffer`, and the bytes after it; None while it is not whole."""
    line, newline, rest = buffer.partition(b"\n")
    if not newline:
        return None, buffer
    header = dict(part.split(b":", 1) for part in line.split() if b":" in part)
    length = int(header.get(b"len", b"0"))
    if len(rest) < length:
        return None, buffer
    return header.get(b"eventname", b"?").decode(), rest[length:]
