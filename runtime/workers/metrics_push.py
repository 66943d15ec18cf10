"""The observer's push of the metrics to a collector, by OTLP over HTTP, as JSON.

The counters are totals and each push has all figures: one that the collector does not take is not kept, and
the next one makes up for it. So there is one request at a time, and nothing grows while a collector is away.
Imported late, as the log shipper: TLS and `requests` are 10 MB that few observers need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from runtime import __version__
from runtime.adapters.net import https
from runtime.adapters.net.tls_options import TrustedAuthorities, Waiting
from runtime.adapters.process.clock import Clock
from runtime.core.identity.lifetime import http_date_s, retry_after_s
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.operations.metrics import otlp
from runtime.operations.metrics_report import report
from runtime.settings_operations import ObserverSettings

PUSH_TIMEOUT_S = 10.0
SAY_EVERY_S = 3600.0
LONGEST_PAUSE_S = 3600.0
"""A collector that asks for a longer pause is asked again after this: it may have meant another clock."""
_ANSWER_CHARACTERS = 200
"""So much of a collector's reason is logged."""


class MetricsPush:
    """Pushes the figures every now and then; `waiting` beats while a collector does not answer."""

    def __init__(self, settings: ObserverSettings, clock: Clock, waiting: Waiting) -> None:
        self._url, self._every_s = settings.otlp_url or "", settings.otlp_every_s
        self._trust = TrustedAuthorities(ca_file=settings.otlp_ca_file)
        self._clock, self._waiting = clock, waiting
        self._next_s = 0.0
        self._began_ns = int(clock.wall_s() * 1e9)
        self._log = LogThrottle(SAY_EVERY_S)

    def turn(self, observe: Callable[[], Mapping[str, Any]]) -> None:
        """Push what is observed where a push is due; a collector may ask for a longer pause."""
        if self._clock.boot_s() < self._next_s:
            return
        asked_s = self._push(observe())
        pause_s = max(self._every_s, min(asked_s, LONGEST_PAUSE_S))
        self._next_s = self._clock.boot_s() + pause_s

    def _push(self, state: Mapping[str, Any]) -> float:
        """Send the figures; returns the pause that the collector asks for, else 0."""
        wall_s = self._clock.wall_s()
        figures = report(state, now_s=wall_s)
        request = otlp(figures, _resource(state), __version__, self._began_ns, int(wall_s * 1e9))
        body = json.dumps(request, allow_nan=False).encode()
        reply = https.request("POST", self._url, body, None, self._trust, PUSH_TIMEOUT_S, self._waiting)
        if isinstance(reply, https.Failure):
            self._say(reply.reason)
            return 0.0
        if reply.status // 100 == 2:
            self._say_what_was_rejected(reply.body)
            return 0.0
        self._say(f"HTTP {reply.status}")
        return retry_after_s(reply.headers.get("Retry-After"), _date_s(reply)) or 0.0

    def _say_what_was_rejected(self, body: bytes) -> None:
        """Log a partial success: the collector took the request, and not all of the points in it."""
        try:
            partial = json.loads(body or b"{}")["partialSuccess"]
            rejected, reason = int(partial.get("rejectedDataPoints", 0)), str(partial.get("errorMessage", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # no word about it: all were taken
        if rejected or reason:
            self._say(f"{rejected} points were rejected: {reason[:_ANSWER_CHARACTERS]!a}")

    def _say(self, reason: str) -> None:
        if times := self._log.times("push", self._clock.boot_s()):
            logger.bind(event=LogEvent.COLLECTOR_REFUSES, times=times).warning(
                "the collector did not take the metrics: {}", reason
            )


def _resource(state: Mapping[str, Any]) -> dict[str, str]:
    device = state["identity"]["device_id"]
    return {"service.name": "edge-runtime", **({"service.instance.id": str(device)} if device else {})}


def _date_s(reply: https.Reply) -> float | None:
    """The collector's time, by which it means a date in `Retry-After`."""
    try:
        return http_date_s(reply.headers["Date"])
    except (KeyError, ValueError):
        return None
