"""The states of a client as the delivery engine sees them, and the limits of each state.

DOWN --the pause is over--> CONNECTING --Connected--> UP --replaced--> DRAINING --empty, or late--+
  ^                             |                      |                                          |
  +-------- Closed -------- CLOSING <--- Lost, or our own watchdog <---------------------------- +
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runtime.core.delivery.batches import PATIENCE_S

DRAIN_S = 2.0
"""How long a client that is to be replaced may still acknowledge what is in flight."""


class ConnectionState(Enum):
    """The state of a client."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    DRAINING = "draining"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Deadlines, and the numbers that are allowed at a time."""

    connect_s: float = 20.0
    ack_s: float = 30.0
    """Most time without progress, which is an acknowledgement, or bytes that reach a hub that lacks some."""
    retry_max_s: float = 60.0
    uploads: int = 2
    """Most file uploads at a time; the hub allows ten."""
    batch_s: float = PATIENCE_S
    """How long a batch may have nothing to send before the next one of its stream begins."""
    prompt_s: float = 10.0
    """A hub that ends a connection because of a message does so this soon; silence it tolerates longer."""
