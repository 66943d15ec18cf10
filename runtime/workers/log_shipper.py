"""The observer's log shipper: the workers' warnings and errors as messages of the stream `_logs`.

They go through the product itself: stored by ingest under a key, delivered by upload, of the lowest priority
and with a ttl. Where ingest takes none, the lines wait here, up to a bound.
"""

from __future__ import annotations

from collections import deque

from loguru import logger

from runtime.adapters.process.clock import Clock, LocalZone
from runtime.adapters.process.log_files import LogFollower
from runtime.core.ingest.exchange import KeyedRequest, NotStored
from runtime.core.operations.log_lines import events
from runtime.core.operations.log_shipping import STREAM, LogShipping, ShippingLimits, batches
from runtime.errors import Rejected
from runtime.layout import PROGRAMS, Layout
from runtime.producer import Producer
from runtime.settings_operations import LogSettings

SHIP_EVERY_S = 10.0
"""Lines of so long go together: a message each would be a unit each."""
MOST_WAITING = 64
"""Messages that wait for ingest; of more the oldest is given up: the files have it still."""
PATIENCE_S = 2.0


class LogShipper:
    """Follows the logs and stores what may go."""

    def __init__(self, layout: Layout, endpoint: str, settings: LogSettings, clock: Clock) -> None:
        self._layout, self._clock, self._ttl_s = layout, clock, settings.ship_ttl_s
        limits = ShippingLimits(
            settings.ship_level, settings.ship_lines_per_minute, settings.ship_bytes_per_day
        )
        self._shipping = LogShipping(limits)
        self._follower = LogFollower(layout.log, [*PROGRAMS, "supervisord"])
        self._producer = Producer(endpoint, name="edge-logs", retry_for_s=PATIENCE_S)
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._unsure: KeyedRequest | None = None
        """The first of those, where it may be stored already."""
        self._next_s = 0.0

    def turn(self) -> None:
        """Ship what was logged since the last turn, every now and then."""
        now_s = self._clock.boot_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + SHIP_EVERY_S
        read_s = self._clock.wall_s()
        new = self._follower.new_lines()
        found = [event for name, lines in new.items() for event in events(name, lines, read_s, LocalZone())]
        chosen = self._shipping.select(sorted(found, key=lambda event: event.time_s), now_s)
        self._waiting += batches(chosen)
        while self._waiting and self._store(self._waiting[0]):
            self._waiting.popleft()

    def close(self) -> None:
        self._producer.close()
        self._follower.close()

    def _store(self, lines: bytes) -> bool:
        """Store one message; false where it has to wait. A repeat of what was stored already is harmless."""
        form = "application/x-ndjson"
        try:
            if self._unsure is not None:
                self._producer.resend(self._unsure)
            else:
                self._producer.put(lines, stream=STREAM, priority=0, ttl_s=self._ttl_s, content_type=form)
        except NotStored as exc:
            logger.debug("log lines are not stored: {}", exc)
            self._unsure = exc.request
            return isinstance(exc, Rejected)  # it will never be taken
        self._unsure = None
        return True
