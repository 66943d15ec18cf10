"""The heartbeat of a worker that waits for slow things: it goes on during calls and through bad weather."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger

from runtime.adapters.clock import Clock
from runtime.adapters.process import Stop
from runtime.adapters.status import StatusFile
from runtime.config import Config
from runtime.errors import Retryable

DISK_PAUSE_S = 30.0
"""Pause where the disk takes nothing: what the platform hands out meanwhile could not be kept."""

BEAT_S = 2.0


class Heart:
    """Beats with the figures that were told last."""

    def __init__(self, config: Config, name: str, clock: Clock, stop: Stop) -> None:
        self._status = StatusFile(config.layout.status_file(name), name)
        self._clock = clock
        self._stop = stop
        self._figures: Mapping[str, Any] = {}

    def tell(self, figures: Mapping[str, Any], *, now: bool) -> None:
        """From now on these figures, written at once where `now` says so."""
        self._figures = figures
        self._status.progress(figures, now=now)

    def waiting(self) -> bool:
        """Beat while a call is under way; true ends the call."""
        self._status.progress(self._figures)
        return self._stop.requested()

    def sit_out(self, exc: Retryable) -> None:
        """The disk is full or does not answer: say so, and beat for a while."""
        logger.warning("{reason}; again in {pause:.0f} s", reason=str(exc), pause=DISK_PAUSE_S)
        until_s = self._clock.boot_s() + DISK_PAUSE_S
        while self._clock.boot_s() < until_s and not self._stop.wait(BEAT_S):
            self._status.progress({**self._figures, "trouble": str(exc)})
