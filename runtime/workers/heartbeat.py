"""The heartbeat of a worker: it proves progress, also while the worker waits for an answer or an operator.

Only the worker's own loop calls it: a beat from a thread would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import BUSY, StatusFile
from runtime.core.log_events import LogEvent
from runtime.errors import NeedsHuman, Retryable
from runtime.layout import Layout

DISK_PAUSE_S = 30.0
"""Pause where the disk accepts no write: a token that the platform issued meanwhile could not be kept."""

BEAT_S = 2.0
"""Interval of beats; a worker also goes on so soon once an operator has removed the cause of its wait."""

WAITING_FOR_A_PERSON = "waiting for a person"
"""The state of a worker that cannot go on by itself; `trouble` says why, `reason` what helps."""


Figures: TypeAlias = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""The worker's figures, or what gives them when a beat is due."""


class Heartbeat:
    """Beats at most once a second, with the figures that were published last."""

    def __init__(self, layout: Layout, name: str, clock: Clock, stop: Stop) -> None:
        self._status = StatusFile(layout.status_file(name), name, clock)
        self._clock = clock
        self._stop = stop
        self._figures: Figures = {}
        self._reported = ""
        """The trouble that the operator was last asked to remove."""

    def publish(self, figures: Figures, *, now: bool = False) -> None:
        """Beat with these figures, from now on; `now` writes them at once."""
        if self._reported:
            logger.info("over: {trouble}", trouble=self._reported)
        self._figures, now, self._reported = figures, now or bool(self._reported), ""
        self._status.progress(figures, now=now)

    def waiting(self) -> bool:
        """Beat while a call is under way. True ends the call."""
        self._status.progress(self._figures)
        return self._stop.requested()

    def busy(self) -> None:
        """Beat while a long operation goes on: the sentinel is more patient with it."""
        self._status.progress(lambda: {**self._last_figures(), BUSY: True})

    def _last_figures(self) -> Mapping[str, Any]:
        return self._figures() if callable(self._figures) else self._figures

    def wait_out(self, exc: Retryable | NeedsHuman) -> None:
        """Log the trouble, and beat for a while."""
        if isinstance(exc, NeedsHuman):
            self._wait_for_a_person(exc)
        else:
            self._wait_for_the_disk(exc)

    def _wait_for_a_person(self, exc: NeedsHuman) -> None:
        """Write one line to the log, however long the wait takes, and beat."""
        figures = {"state": WAITING_FOR_A_PERSON, "trouble": str(exc), "reason": exc.hint}
        if str(exc) != self._reported:
            self._reported = str(exc)
            logger.bind(event=LogEvent.WAITING_FOR_A_PERSON).error(
                "{trouble}; {hint}", trouble=str(exc), hint=exc.hint or "waiting"
            )
        self._status.progress(figures, now=True)
        self._stop.wait(BEAT_S)

    def _wait_for_the_disk(self, exc: Retryable) -> None:
        logger.bind(event=LogEvent.WAITING_FOR_THE_DISK).warning(
            "{reason}; again in {pause:.0f} s", reason=str(exc), pause=DISK_PAUSE_S
        )
        until_s = self._clock.boot_s() + DISK_PAUSE_S
        while self._clock.boot_s() < until_s and not self._stop.wait(BEAT_S):
            # an alarm: the other figures may be well for days yet, and then it is too late
            self._status.progress({**self._last_figures(), "trouble": str(exc), "alarm": str(exc)})
