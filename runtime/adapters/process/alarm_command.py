"""The operator's alarm command: gets one event as JSON on standard input, and has a bounded time for it.

One runs at a time, and a few wait; nothing here waits for it. A command that is missing, fails or hangs is
logged and costs its event.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger

from runtime.core.log_events import LogEvent

TIME_S = 30.0
END_S = 1.0
"""Longest wait for a process that was killed: the sentinel has others to look after."""
MOST_WAITING = 64


class AlarmCommand:
    """Runs the command for one event after the other."""

    def __init__(self) -> None:
        self.command: Sequence[str] = ()
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._running: subprocess.Popen[bytes] | None = None
        self._until_s = 0.0

    def add(self, event: Mapping[str, Any]) -> None:
        """Have the command get this event; of too many the oldest is given up."""
        if self.command:
            self._waiting.append(json.dumps(event).encode() + b"\n")

    def turn(self, now_s: float) -> None:
        """Look after the command that runs, or start the next."""
        if self._running is not None:
            self._look_after(self._running, now_s)
        if self._running is None and self._waiting:
            self._start(self._waiting.popleft(), now_s)

    def _look_after(self, running: subprocess.Popen[bytes], now_s: float) -> None:
        status = running.poll()
        if status is None and now_s < self._until_s:
            return
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a disk holds it: it is reaped later
                running.wait(END_S)
            logger.bind(event=LogEvent.ALARM_COMMAND_FAILED).warning(
                "the alarm command took longer than {:.0f} s and was ended", TIME_S
            )
        elif status:
            logger.bind(event=LogEvent.ALARM_COMMAND_FAILED).warning(
                "the alarm command failed, exit status {}", status
            )
        self._running = None

    def _start(self, event: bytes, now_s: float) -> None:
        try:
            with (
                tempfile.TemporaryFile() as text
            ):  # not a pipe: a command that does not read holds up nothing
                text.write(event)
                text.seek(0)
                self._running = subprocess.Popen(
                    self.command,
                    stdin=text,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._until_s = now_s + TIME_S
        except OSError as exc:
            logger.bind(event=LogEvent.ALARM_COMMAND_FAILED).warning(
                "the alarm command cannot be started: {}", exc
            )
