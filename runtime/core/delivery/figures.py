"""The figures of upload's status record: what flows, what holds messages up, and what single messages do."""

from __future__ import annotations

from typing import Any, cast

from runtime.core.delivery import trace
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import ConnectionEvent
from runtime.core.delivery.lane_health import MOST_LANES, FailingLanes, OldestWait
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.read_planner import Lane, lane_of
from runtime.core.delivery.throughput import Throughput
from runtime.core.delivery.unit_counts import MOST_STREAMS
from runtime.core.settlement import Settled

_FILES = "files"
"""The lane of all file uploads together."""


class UploadFigures:
    """Times are seconds on one clock that never jumps. `acked_s` may come from the process before us."""

    def __init__(self, delivery: Delivery, link: LinkBudget, now: float, acked_s: float | None) -> None:
        self._delivery = delivery
        self._link = link
        self._throughput = Throughput(now, acked_s)
        self._deliveries = trace.RecentDeliveries()
        self._failing = FailingLanes()
        self._oldest = OldestWait()
        self._counts = {"delivered": 0, "quarantined": 0, "dropped": 0}

    def on_event(self, event: ConnectionEvent, now: float) -> None:
        """Take in an event of the connection."""
        self._throughput.on_event(event, now)

    def settled(self, settled: Settled, now: float) -> None:
        """Count settled messages."""
        for name in self._counts:
            self._counts[name] += len(getattr(settled, name))
        self._throughput.delivered(len(settled.delivered), now)
        self._deliveries.add(settled.delivered, now)

    def file_uploaded(self, id: int) -> None:
        """The file of this message is uploaded: its lanes work."""
        self._failing.worked(_FILES, None)
        self._failing.worked("file", self._stream_of(id))

    def file_refused(self, id: int) -> None:
        """The file of this message goes to quarantine: what comes next in its stream is another file."""
        self._failing.worked("file", self._stream_of(id))

    def file_failed(self, id: int, reason: str, now: float) -> None:
        """The upload of this message's file failed, and will be tried again."""
        self._failing.failed(_FILES, None, reason, now)
        self._failing.failed("file", self._stream_of(id), reason, now)

    def record(self, now: float, store: str | None) -> dict[str, Any]:
        """The figures as they are now; `store` is the uuid of the store that the ids belong to."""
        delivery, connection = self._delivery, self._delivery.connection
        stands = connection.state in (ConnectionState.UP, ConnectionState.DRAINING)
        shut = self._link.shut(now)
        parked = shut and connection.state is ConnectionState.DOWN
        return {
            "state": "parked" if parked else connection.state.value,
            "connected_boot_s": self._throughput.connected_s if stands else None,
            "puback_boot_s": self._throughput.acked_s,
            "rate_per_s": round(self._throughput.rate_per_s(now), 2),
            "barred": shut or self._link.barred(),
            "in_flight": delivery.in_flight,
            "window": delivery.window,
            "ack_patience_s": delivery.sender.patience.current_s,
            "in_hand": len(delivery.queue.messages),
            "uploading": delivery.uploading,
            "unconfirmed": len(delivery.settled),
            "suspects": len(delivery.suspects),
            **self._hold_ups(now, up=stands),
            "packing": self._packing(),
            "losses": connection.losses,
            "failed_attempts": connection.failed_attempts,
            "last_loss": connection.last_loss,
            "trouble": connection.trouble(now),
            "sent_today": self._link.usage.day_messages,
            "bytes_today": self._link.usage.day_bytes,
            **self._counts,
            "trace": {
                "store": store,
                "delivered": self._deliveries.figures(),
                **trace.figures(delivery),
            },
        }

    def _packing(self) -> dict[str, dict[str, Any]]:
        """The packs of each stream, those of all its leaves together."""
        streams: dict[str, dict[str, Any]] = {}
        for lane, figures in self._delivery.packer.figures.items():
            name = str(cast(Lane, lane)[0].without_leaf)
            if figures.packs and (name in streams or len(streams) < MOST_STREAMS):
                of_stream = streams.setdefault(name, {"packs": 0, "members": 0})
                of_stream["packs"] += figures.packs
                of_stream["members"] += figures.members
                of_stream["ratio"] = round(figures.ratio, 3)
        return streams

    def _hold_ups(self, now: float, *, up: bool) -> dict[str, Any]:
        """The figures about what keeps messages from leaving: see `lane_health`."""
        delivery = self._delivery
        suspects = [
            {
                "lane": "telemetry",
                "stream": str(lane_of(message.candidate)[0]),
                "failures": message.suspicion.failures if message.suspicion is not None else 0,
                "words": delivery.connection.last_loss,
            }
            for message in delivery.suspects
        ]
        self._failing.only({self._stream_of(id) for id in delivery.queue.files})
        oldest = min(delivery.queue.messages, default=None)
        flowing = up and not (self._link.shut(now) or self._link.barred())
        return {
            "failing": [*suspects[:MOST_LANES], *self._failing.figures()],
            "oldest_waited_s": round(self._oldest.look(oldest, now, flowing=flowing), 1),
            "oldest_stream": None if oldest is None else self._stream_of(oldest),
        }

    def _stream_of(self, id: int) -> str | None:
        message = self._delivery.queue.messages.get(id)
        return None if message is None else str(lane_of(message.candidate)[0])
