"""The sentinel's metrics file: for node_exporter's textfile collector, or for Telegraf.

It is `run/metrics.prom`, for the runtime's user and root, or the file that a setting names, for all to read.

It is replaced as a whole, and made of status files and of what supervisord answered at this look: nothing
here waits for a database, its locks or a network.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from runtime.adapters.process.alarm_command import AlarmCommand
from runtime.adapters.process.clock import Clock
from runtime.adapters.supervisor.rpc import Program
from runtime.core.operations.alarm_events import AlarmEvents
from runtime.core.operations.metrics import prometheus_text
from runtime.layout import Layout
from runtime.operations.metrics_report import report
from runtime.operations.overview import observe
from runtime.settings import Settings

LOOK_EVERY_S = 15.0
"""How often alarms are looked for where no metrics are written."""


class MetricsFile:
    """The file's writer; it hands the overview that it is made of on to the alarm command."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout, self._clock = layout, clock
        self._path = layout.run / "metrics.prom"
        self._next_s = 0.0
        self._events = AlarmEvents(0.0)
        self._command = AlarmCommand()

    def write(self, programs: Mapping[str, Program], settings: Settings) -> None:
        """Write the figures, unless they were written lately. A full disk leaves the old ones."""
        now_s = self._clock.boot_s()
        self._command.turn(now_s)
        every_s = settings.sentinel.metrics_every_s or (LOOK_EVERY_S if settings.alarm.command else 0.0)
        if now_s < self._next_s or not every_s:
            return
        self._next_s = now_s + every_s
        state = observe(self._layout, self._clock, settings=settings, databases=False, programs=programs)
        self._raise(state, settings, now_s)
        if not settings.sentinel.metrics_every_s:
            return
        named = settings.sentinel.metrics_file
        path, mode = (named, 0o644) if named else (self._path, 0o600)
        fresh = path.with_name(f".{path.name}.new")  # a collector reads every name that ends in .prom
        with contextlib.suppress(OSError):
            fresh.write_text(prometheus_text(report(state, now_s=self._clock.wall_s())))
            fresh.chmod(mode)
            fresh.replace(path)

    def _raise(self, state: Mapping[str, Any], settings: Settings, now_s: float) -> None:
        """Have the operator's command get what has begun and what has ended."""
        self._command.command, self._events.every_s = settings.alarm.command, settings.alarm.command_every_s
        reasons = {_kind(reason): reason for reason in state["reasons"]}
        for event in self._events.look(sorted(reasons), now_s):
            self._command.add(
                {
                    "event": "begins" if event.began else "ends",
                    "alarm": event.alarm,
                    "text": reasons.get(event.alarm, event.alarm),
                    "verdict": state["verdict"],
                    "device": state["identity"]["device_id"],
                    "home": state["home"],
                    "time_s": round(self._clock.wall_s()),
                }
            )
        self._command.turn(now_s)


def _kind(reason: str) -> str:
    """A reason without its figures: the same alarm, though its numbers change from look to look."""
    return re.sub(r"\d+(\.\d+)?", "N", reason)
