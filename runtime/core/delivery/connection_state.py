"""The life of a client as `delivery` sees it, and the limits of each phase.

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
    """The life of a client."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    DRAINING = "draining"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Deadlines, and how many at a time."""

    connect_s: float = 20.0
    ack_s: float = 30.0
    """Most time without progress: an acknowledgement, or bytes that come through to a hub that lacks some."""
    retry_max_s: float = 60.0
    uploads: int = 2
    """Most file uploads at a time; the hub allows ten."""
    batch_s: float = PATIENCE_S
    """How long a batch may have nothing to send before the next one of its stream begins."""
    prompt_s: float = 10.0
    """What the hub ends because of a message, it ends so soon; its patience with our silence is longer."""
