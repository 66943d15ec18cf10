"""The process itself: stopping by signal, one of a kind by flock, never outliving its supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
from pathlib import Path

from runtime.errors import UsageError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stop:
    """Tells a loop that SIGTERM or SIGINT asked it to end; `fileno()` becomes readable, to wake a poll."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._asked = False

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask())

    def ask(self) -> None:
        """Ask the loop to end; safe in a signal handler and from any thread."""
        self._asked = True
        with contextlib.suppress(BlockingIOError):  # a wake-up is already waiting there
            self._writer.send(b"x")

    def requested(self) -> bool:
        return self._asked

    def wait(self, timeout_s: float) -> bool:
        """Sleep until asked to stop, or for `timeout_s`. Returns whether it was asked."""
        if not self._asked:
            select.select([self._reader], [], [], max(0.0, timeout_s))
        return self._asked

    def fileno(self) -> int:
        return self._reader.fileno()


class Lock:
    """One worker of a kind per home: an flock the kernel releases whatever kills us."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise UsageError(
                f"{path.stem} already runs here (process {holder or 'unknown'} holds {path}); stop it first"
            ) from exc
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._fd)


def die_with_parent() -> None:
    """Have the kernel kill us when our supervisor dies, so that two of us never run side by side."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew our wish
        os._exit(1)
