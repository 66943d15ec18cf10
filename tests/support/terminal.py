"""A terminal of a given width, and what a command of `edgectl` writes to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.support.harness import clean_environment

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def in_terminal(home: Path, *arguments: str, columns: int = 80, **environment: str) -> str:
    """Everything that it writes there, to both outputs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    mine = {k: v for k, v in clean_environment().items() if k not in ("COLUMNS", "NO_COLOR")}
    running = subprocess.Popen(
        [sys.executable, "-m", "runtime", "--home", str(home), *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**mine, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    try:
        return _read(ours).decode(errors="replace").replace("\r\n", "\n")
    finally:
        os.close(ours)
        running.wait(30)


def plain(text: str) -> str:
    """The same without colour."""
    return _COLOUR.sub("", text)


def _read(descriptor: int) -> bytes:
    written = b""
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # the last who could write is gone
            return written
        if not part:
            return written
        written += part
