"""The heartbeat of a worker that waits for slow things: for an answer, for the disk, for an operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import StatusFile
from runtime.errors import NeedsHuman, Retryable
from runtime.layout import Layout

DISK_PAUSE_S = 30.0
"""Pause where the disk accepts no write: a token that the platform issued meanwhile could not be kept."""

BEAT_S = 2.0
"""Interval of beats; a worker also goes on so soon once an operator has removed the cause of its wait."""

WAITING_FOR_A_PERSON = "waiting for a person"
"""The state of a worker that cannot go on by itself; `trouble` says why, `reason` what helps."""


class Heartbeat:
    """Beats with the figures that were set last."""

    def __init__(self, layout: Layout, name: str, clock: Clock, stop: Stop) -> None:
        self._status = StatusFile(layout.status_file(name), name)
        self._clock = clock
        self._stop = stop
        self._figures: Mapping[str, Any] = {}
        self._told = ""
        """The trouble that the operator was last told to remove."""

    def publish(self, figures: Mapping[str, Any], *, now: bool) -> None:
        """Set the figures from now on; they are written at once where `now` says so."""
        if self._told:
            logger.info("mended: {trouble}", trouble=self._told)
        self._figures, now, self._told = figures, now or bool(self._told), ""
        self._status.progress(figures, now=now)

    def waiting(self) -> bool:
        """Beat while a call is under way. True ends the call."""
        self._status.progress(self._figures)
        return self._stop.requested()

    def sit_out(self, exc: Retryable | NeedsHuman) -> None:
        """Log the trouble, and beat for a while."""
        if isinstance(exc, NeedsHuman):
            self._wait_for_a_person(exc)
        else:
            self._wait_for_the_disk(exc)

    def _wait_for_a_person(self, exc: NeedsHuman) -> None:
        """Write one line to the log, however long the wait takes, and beat."""
        figures = {"state": WAITING_FOR_A_PERSON, "trouble": str(exc), "reason": exc.hint}
        if str(exc) != self._told:
            self._told = str(exc)
            logger.error("{trouble}; {hint}", trouble=str(exc), hint=exc.hint or "waiting")
        self._status.progress(figures, now=True)
        self._stop.wait(BEAT_S)

    def _wait_for_the_disk(self, exc: Retryable) -> None:
        logger.warning("{reason}; again in {pause:.0f} s", reason=str(exc), pause=DISK_PAUSE_S)
        until_s = self._clock.boot_s() + DISK_PAUSE_S
        while self._clock.boot_s() < until_s and not self._stop.wait(BEAT_S):
            # an alarm: the other figures may be well for days yet, and then it is too late
            self._status.progress({**self._figures, "trouble": str(exc), "alarm": str(exc)})
