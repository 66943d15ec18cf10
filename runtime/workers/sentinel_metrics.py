"""The sentinel's metrics file, `run/metrics.prom`: for node_exporter's textfile collector or for Telegraf.

It is replaced as a whole, and made of status files and of what supervisord answered at this look: nothing
here waits for a database, its locks or a network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from runtime.adapters.process.clock import Clock
from runtime.adapters.supervisor.rpc import Program
from runtime.core.operations.metrics import prometheus_text
from runtime.layout import Layout
from runtime.operations.metrics_report import report
from runtime.operations.overview import observe
from runtime.settings import Settings


class MetricsFile:
    """The file's writer."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout, self._clock = layout, clock
        self._path = layout.run / "metrics.prom"
        self._next_s = 0.0

    def write(self, programs: Mapping[str, Program], settings: Settings) -> None:
        """Write the figures, unless they were written lately. A full disk leaves the old ones."""
        now_s = self._clock.boot_s()
        if now_s < self._next_s or not settings.sentinel.metrics_every_s:
            return
        self._next_s = now_s + settings.sentinel.metrics_every_s
        state = observe(self._layout, self._clock, settings=settings, databases=False, programs=programs)
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_text(prometheus_text(report(state, now_s=self._clock.wall_s())))
            fresh.chmod(0o644)  # a collector is another user; who may not pass through run/ does not get here
            fresh.replace(self._path)
