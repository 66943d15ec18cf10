"""Delivery times: how long messages take from being stored to the hub's acknowledgement."""

from __future__ import annotations

from typing import Any

from runtime.core.delivery.engine import Delivery
from runtime.core.operations.metrics import DELIVERY_BOUNDS_S, Histogram
from runtime.core.settlement import Settled


class DeliveryTimes:
    """The histogram since this process began. Times are seconds on the boot clock."""

    def __init__(self, delivery: Delivery) -> None:
        self._settled = delivery.settled
        self._times = Histogram(DELIVERY_BOUNDS_S)

    def settled(self, settled: Settled, now: float) -> None:
        """Observe the messages that were delivered; one of unknown age is left out."""
        for id in settled.delivered:
            message = self._settled.get(id)
            if message is not None and message.stored_s is not None:
                self._times.observe(now - message.stored_s)

    def record(self) -> dict[str, Any]:
        """The figures of the status file."""
        return {"latency": {"delivery": self._times.as_record()}}
