"""observer: serves metrics, health and a page over HTTP, and ships logs. Off unless switched on by a setting.

It only reads: what it shows comes from status files, from supervisord and from the databases, as `edgectl
status` takes it. Its end costs a curve. Where a collector is named, it gets the same figures by OTLP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loguru import logger

from runtime import __version__
from runtime.adapters.net.http_server import HttpServer
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.history_file import HistoryFile
from runtime.adapters.process.process import Stop
from runtime.config import Config
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.operations.metrics import otlp
from runtime.errors import UsageError
from runtime.operations import overview
from runtime.operations.metrics_report import report
from runtime.operations.observer_pages import ObserverPages
from runtime.workers.heartbeat import Heartbeat

if TYPE_CHECKING:
    from runtime.workers.log_shipper import LogShipper

NAME = "observer"
TURN_S = 2.0
POINT_EVERY_S = 60.0
"""A day of points is 1,440: what the page's curves need."""
OPEN_EVERY_S = 5.0
"""An address that is taken is tried again so often: its holder may be on its way out."""
PUSH_TIMEOUT_S = 10.0
SAY_EVERY_S = 3600.0


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
        log = config.settings.log
        self._shipper = (
            LogShipper(config.layout, config.producer_endpoint(), log, clock) if log.ship else None
        )
        self._trouble = ""
        self._open_s = self._point_s = self._push_s = 0.0
        self._began_ns = int(self._clock.wall_s() * 1e9)
        self._push_log = LogThrottle(SAY_EVERY_S)

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
        settings = self._config.settings.observer
        if settings.otlp_url and now_s >= self._push_s:
            self._push_s = now_s + settings.otlp_every_s
            self._push(settings.otlp_url)

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

    def _push(self, url: str) -> None:
        """Send the figures to the collector; what it does not take is not kept: the next ones are newer."""
        from runtime.adapters.net import https  # late, as the shipper: 10 MB that few observers need
        from runtime.adapters.net.tls_options import TrustedAuthorities

        state, wall_s = self._pages.state(), self._clock.wall_s()
        request = otlp(
            report(state, now_s=wall_s), _resource(state), __version__, self._began_ns, int(wall_s * 1e9)
        )
        body = json.dumps(request).encode()
        trust = TrustedAuthorities(ca_file=self._config.settings.observer.otlp_ca_file)
        reply = https.request("POST", url, body, None, trust, PUSH_TIMEOUT_S, self._heart.waiting)
        if isinstance(reply, https.Failure):
            self._say(reply.reason)
        elif reply.status // 100 != 2:
            self._say(f"HTTP {reply.status}")

    def _say(self, reason: str) -> None:
        if times := self._push_log.times("push", self._clock.boot_s()):
            logger.bind(event=LogEvent.COLLECTOR_REFUSES, times=times).warning(
                "the collector did not take the metrics: {}", reason
            )


def _resource(state: Mapping[str, Any]) -> dict[str, str]:
    device = state["identity"]["device_id"]
    return {"service.name": "edge-runtime", **({"service.instance.id": str(device)} if device else {})}


def _shipper(config: Config, clock: Clock) -> LogShipper:
    from runtime.workers.log_shipper import LogShipper

    return LogShipper(config.layout, config.producer_endpoint(), config.settings.log, clock)
