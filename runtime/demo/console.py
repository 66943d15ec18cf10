"""The demo's output: lines with the seconds since its start; in a terminal, a live line below them."""

from __future__ import annotations

import sys
import threading
import time

from runtime.core.printable import printable

_ERASE_LINE = "\r\x1b[2K"


class ConsoleOutput:
    """Printer that threads may use at the same time; lines do not mix."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._start_s = time.monotonic()
        self._lock = threading.Lock()
        self._below = ""

    def write(self, sentence: str) -> None:
        """Print a line that stays."""
        self.write_plain(f"{time.monotonic() - self._start_s:5.1f} s  {sentence}")

    def write_plain(self, line: str) -> None:
        """Print a line without the time."""
        with self._lock:
            sys.stdout.write(f"{_ERASE_LINE if self._below else ''}{printable(line)}\n{self._below}")
            sys.stdout.flush()

    def progress(self, sentence: str) -> None:
        """Replace the live line; nothing in a pipe."""
        if not self._live:
            return
        with self._lock:
            self._below = f"         {printable(sentence)}" if sentence else ""
            sys.stdout.write(_ERASE_LINE + self._below)
            sys.stdout.flush()
