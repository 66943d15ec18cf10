"""The deadline for discarding a client, whose threads may hang for ever: the process leaves instead."""

from __future__ import annotations

import contextlib
import os
import threading

from loguru import logger

from runtime.adapters.process.threads import start_thread
from runtime.core.log_events import LogEvent

EXIT_HUNG = 70
"""Exit status of a process whose client could not be discarded."""
THAW_S = 2.0
"""Further time after a deadline: a process that was frozen (a paused container) did nothing meanwhile."""


class ExitDeadline:
    """Ends the process unless it is cancelled before, or shortly after: the process may have been frozen."""

    def __init__(self, after_s: float, number: int) -> None:
        self._number = number
        self._cancelled = threading.Event()
        self._after_s = after_s
        with contextlib.suppress(BlockingIOError):  # where no thread can be had there is no deadline
            start_thread(self._run, f"deadline-{number}")

    def cancel(self) -> None:
        self._cancelled.set()

    def _run(self) -> None:
        if not self._cancelled.wait(self._after_s) and not self._cancelled.wait(THAW_S):
            _give_up(self._number)


def _give_up(number: int) -> None:
    logger.bind(event=LogEvent.CLIENT_NOT_DISCARDED).error(
        "client {} cannot be discarded; leaving, to be started afresh", number
    )
    os._exit(EXIT_HUNG)
