"""What systemd does with deploy/edge-runtime.service: start again, and mind the watchdog.

It does not do what would hide a bug: systemd also kills whoever is left of a unit, this does not. Workers
that outlive their supervisord are then seen as doubles.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.harness import Home, Process, kill_tree

RESTART_S = 2.0
"""RestartSec of the unit."""
WATCHDOG_S = 60.0
"""WatchdogSec of the unit."""
LOOK_S = 0.1


class Manager:
    """Keeps `edgectl up` running until it is told to end it."""

    def __init__(self, home: Home, log: Path, environment: dict[str, str]) -> None:
        self._home = home
        self._log = log
        self._words = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._words.bind(str(log.with_name("notify")))
        self._words.setblocking(False)
        self._environment: dict[str, Any] = {**environment, "NOTIFY_SOCKET": str(log.with_name("notify"))}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._manage, name="service manager")
        self.up: Process | None = None
        self.starts = 0
        self.watchdog_kills = 0

    def start(self) -> None:
        self._thread.start()

    def let_go(self) -> None:
        """Start nothing any more; what runs goes on."""
        self._over.set()
        self._thread.join(10)

    def end(self) -> None:
        """And nothing is left of it, whatever happened."""
        self.let_go()
        if self.up is not None:
            kill_tree(self.up.pid)
            self.up.close()
        self._words.close()

    def _manage(self) -> None:
        while not self._over.is_set():
            self.starts += 1
            self.up = Process(
                sys.executable, "-m", "runtime", "--home", str(self._home.folder), "up",
                log=self._log, **self._environment,
            )  # fmt: skip
            self._mind(self.up)
            self._over.wait(RESTART_S)

    def _mind(self, up: Process) -> None:
        """Return when it has ended, or when this manager is to let go of it."""
        fed_s = None
        while up.running() and not self._over.wait(LOOK_S):
            if self._fed():
                fed_s = time.monotonic()
            elif fed_s is not None and time.monotonic() - fed_s > WATCHDOG_S:
                self.watchdog_kills += 1
                up.kill()

    def _fed(self) -> bool:
        fed = False
        with contextlib.suppress(BlockingIOError):
            while True:
                fed |= b"WATCHDOG=1" in self._words.recv(4096)
        return fed
