"""Reports an update that came back: once, in the log of the worker that looks after the others."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from runtime.adapters.update.journal_file import NAME, read_journal
from runtime.core.log_events import LogEvent
from runtime.core.update.progress import LastUpdate, trouble_of

FRESH_S = 600.0
"""An end that is no older at our start was not reported yet: the end of a trial restarts us."""


class UpdateNews:
    """The journal of updates, looked at when its file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen_ns = 0
        self._reported: LastUpdate | None = None
        self._first = True

    def look(self, wall_s: float) -> None:
        """Log the last update if it came back, and that is new."""
        try:
            changed_ns = (self._folder / NAME).stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        if changed_ns == self._seen_ns and not self._first:
            return
        self._seen_ns, first, self._first = changed_ns, self._first, False
        record = read_journal(self._folder)
        if first and record.last is not None and wall_s - record.last.wall_s > FRESH_S:
            self._reported = record.last
        if record.last != self._reported and (trouble := trouble_of(record)):
            self._reported = record.last
            logger.bind(event=LogEvent.UPDATE_CAME_BACK).error("{}", trouble)
