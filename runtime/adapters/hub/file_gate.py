"""Gate at which the threads of file uploads wait until the link may be used for their next block."""

from __future__ import annotations

import threading

from runtime.core.delivery.link_budget import FilePermit


class Barred(Exception):
    """The link may not be used for this file now."""


class FileGate:
    """Gate at which each upload waits for its next block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passage = FilePermit.EVERYBODY

    def set_permit(self, passage: FilePermit) -> None:
        """Set the permit: which files may go on from now on."""
        if passage is not self._passage:
            with self._changed:
                self._passage = passage
                self._changed.notify_all()

    def enter(self, urgent: bool) -> None:
        """Wait for permission. Raises Barred where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: urgent or self._passage is not FilePermit.SOON)
            if self._passage is FilePermit.NOBODY or (self._passage is FilePermit.URGENT and not urgent):
                raise Barred
