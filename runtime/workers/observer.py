"""observer: serves metrics, health and a page over HTTP, and ships logs. Off unless switched on by a setting.

It only reads: what it shows comes from status files, from supervisord and from the databases, as `edgectl
status` takes it. Its end costs a curve. Where a collector is named, it gets the same figures by OTLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loguru import logger

from runtime.adapters.net.http_server import HttpServer
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.history_file import HistoryFile
from runtime.adapters.process.process import Stop
from runtime.config import Config
from runtime.core.log_events import LogEvent
from runtime.errors import UsageError
from runtime.operations import overview
from runtime.operations.observer_pages import ObserverPages
from runtime.workers.heartbeat import Heartbeat

if TYPE_CHECKING:
    from runtime.workers.log_shipper import LogShipper
    from runtime.workers.metrics_push import MetricsPush

NAME = "observer"
TURN_S = 2.0
POINT_EVERY_S = 60.0
"""A day of points is 1,440: what the page's curves need."""
OPEN_EVERY_S = 5.0
"""An address that is taken is tried again so often: its holder may be on its way out."""


def run(config: Config, stop: Stop) -> None:
    """Serve until asked to stop."""
    clock = SystemClock()
    heart, watch = Heartbeat(config.layout, NAME, clock, stop), ConfigWatch(config, NAME, clock)
    observer = ObserverLoop(config, heart, clock)
    try:
        while not stop.requested():
            watch.changed()  # its own settings count from its next start on
            observer.turn()
            stop.wait(TURN_S)
    finally:
        observer.close()


class ObserverLoop:
    """The server's opening, the day's curve and the collector."""

    def __init__(self, config: Config, heart: Heartbeat, clock: Clock) -> None:
        self._config, self._heart, self._clock = config, heart, clock
        self._history = HistoryFile(config.layout.run / "history.jsonl")
        self._pages = ObserverPages(
            self._observe, self._history.points, self._clock.boot_s, self._clock.wall_s
        )
        self._serves = config.settings.observer.enabled
        self._server: HttpServer | None = None
        self._shipper = _shipper(config, clock) if config.settings.log.ship else None
        self._push = _push(config, clock, heart) if config.settings.observer.otlp_url else None
        self._trouble = ""
        self._open_s = self._point_s = 0.0

    def turn(self) -> None:
        """Do what is due now."""
        now_s = self._clock.boot_s()
        if self._server is None and self._serves and now_s >= self._open_s:
            self._open_s = now_s + OPEN_EVERY_S
            self._open()
        self._heart.publish(self._figures)
        if self._shipper is not None:
            self._shipper.turn()
        if self._serves and now_s >= self._point_s:
            self._point_s = now_s + POINT_EVERY_S
            self._history.add(self._point())
        if self._push is not None:
            self._push.turn(self._pages.state)

    def close(self) -> None:
        if self._shipper is not None:
            self._shipper.close()
        if self._server is not None:
            self._server.close()

    def _open(self) -> None:
        at = self._config.settings.observer.listen
        try:
            self._server = HttpServer(at, self._pages.answer)
        except UsageError as exc:
            if str(exc) != self._trouble:
                logger.bind(event=LogEvent.OBSERVER_CANNOT_LISTEN).error(
                    "{}; tried again every {:.0f} s", exc, OPEN_EVERY_S
                )
            self._trouble = str(exc)
        else:
            self._trouble = ""
            logger.info("metrics, health and the page are served at {}", at)

    def _figures(self) -> dict[str, Any]:
        alarm = {"alarm": self._trouble} if self._trouble else {}
        state = "serving" if self._server else "waiting" if self._serves else "shipping logs"
        return {"state": state, **alarm}

    def _observe(self) -> dict[str, Any]:
        return overview.observe(self._config.layout, self._clock, settings=self._config.settings)

    def _point(self) -> dict[str, Any]:
        state = self._pages.state()
        return {
            "at_s": round(self._clock.wall_s()),
            "messages": state["backlog"]["messages"],
            "bytes": state["backlog"]["bytes"],
            "delivered_per_s": state["hub"]["rate_per_s"],
        }


# Imported late: what these need of the network's libraries is 10 MB that few observers use.


def _shipper(config: Config, clock: Clock) -> LogShipper:
    from runtime.workers.log_shipper import LogShipper

    return LogShipper(config.layout, config.producer_endpoint(), config.settings.log, clock)


def _push(config: Config, clock: Clock, heart: Heartbeat) -> MetricsPush:
    from runtime.workers.metrics_push import MetricsPush

    return MetricsPush(config.settings.observer, clock, heart.waiting)
