"""The meter of upload: counts by stream what the hub bills for. It is not a worker of its own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from runtime.core.delivery.actions import PROBE, Send
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.metering import units
from runtime.core.delivery.outgoing import Outgoing
from runtime.core.delivery.read_planner import lane_of
from runtime.core.delivery.unit_counts import (
    MANAGEMENT,
    MOST_STREAMS,
    OTHER_STREAMS,
    PROBES,
    UnitCounts,
    counted_as,
    of_file_calls,
    of_send,
)
from runtime.core.message import StreamName


class UnitMeter:
    """Counts for the link's usage of today and this month, and since this process began."""

    def __init__(self, link: LinkBudget, delivery: Delivery) -> None:
        self._link = link
        self._delivery = delivery
        self._since_start: dict[str, UnitCounts] = {}

    def sent(self, send: Send, telemetry: Telemetry, device_id: str) -> None:
        """A send goes out: what it was charged for is corrected by what it is."""
        self._link.correct_charge(telemetry.packet_bytes(device_id) - send.counted_bytes)
        message = self._delivery.record(send.tag[0])
        stream = PROBES if send.tag[0] == PROBE else _stream_of(message)
        messages = 1 if message is None else len(message.together)
        size_bytes, saved_bytes = telemetry.metered_bytes(device_id), telemetry.saved_bytes
        counts = of_send(size_bytes, messages, repeat=send.repeat, saved_bytes=saved_bytes)
        self._count(stream, counts, units(send.counted_bytes))

    def inquired(self) -> None:
        """The hub took a message over HTTPS that asked whether its quota is used up."""
        self._count(PROBES, of_send(0))

    def called_for_file(self, id: int, calls: int) -> None:
        """The hub took calls that begin or end the file upload of a message."""
        self._count(_stream_of(self._delivery.record(id)), of_file_calls(calls))

    def managed(self, body_bytes: int) -> None:
        """A twin request, a method call, its answer or a command with this body was billed."""
        self._count(MANAGEMENT, of_send(body_bytes))

    def since_start(self, stream: str) -> UnitCounts:
        """The counts of a stream since this process began."""
        return self._since_start.get(stream) or UnitCounts()

    def record(self) -> dict[str, Any]:
        """The figures of the status file."""
        usage, left = self._link.usage, self._link.units_left()
        return {
            "unit_every_s": round(1 / left.per_s, 1) if left is not None and left.per_s else None,
            "units_today": usage.day_units,
            "units_month": usage.month_units,
            "units_by_stream": {
                stream: [counts.units, counts.repeat_units, counts.bytes]
                for stream, counts in self._since_start.items()
            },
        }

    def _count(self, stream: str, counts: UnitCounts, charged_units: int = 0) -> None:
        self._link.count(stream, counts, charged_units)
        name = counted_as(stream, self._since_start)
        self._since_start.setdefault(name, UnitCounts()).add(counts)


def _stream_of(message: Outgoing | None) -> str:
    return OTHER_STREAMS if message is None else _counted_name(lane_of(message.candidate)[0])


@lru_cache(maxsize=MOST_STREAMS)
def _counted_name(name: StreamName) -> str:
    """The name under which a stream is counted: that of all leaves together."""
    return str(name.without_leaf)
