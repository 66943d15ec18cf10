"""Events of the connection to the hub: plain values between the adapter that holds it and the engine.

A *client* is one connection's life, numbered from 1. It lives until its first error and is never repaired;
events that a discarded client still reports are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Cause(Enum):
    """The reason why a client was lost."""

    UNREACHABLE = "unreachable"
    """The client was never answered."""
    PROXY = "no way through the proxy"
    """The proxy refused us, or could not be reached, or could not reach the hub."""
    UNTRUSTED = "certificate not trusted"
    """The hub showed a certificate that the runtime does not trust; it learnt nothing from us."""
    LOCAL = "a local file is unusable"
    """The file is on this machine: the hub was not asked."""
    REFUSED = "refused"
    """The hub refused the credentials."""
    BUSY = "busy"
    """The hub answered that it accepts no connections now."""
    DROPPED = "dropped"
    """The client was connected, and the other side ended the connection."""
    OVERDUE = "overdue"
    """We ended the connection: our watchdog, our keep-alive, or our TCP had no answer for too long."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The hub accepted the connection."""

    client: int


class Acked(NamedTuple):
    """The hub acknowledged a PUBLISH of this client: its PUBACK was read."""

    client: int
    tag: object
    """The sender's name for the PUBLISH."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message came from the hub. Nothing has told the hub that it arrived."""

    client: int
    topic: str
    payload: bytes
    packet_id: int | None = None
    """To be acknowledged with; None where it needs no acknowledgement (QoS 0)."""
    dup: bool = False
    too_many: bool = False
    """Too much waits to be read: the payload was left out, and the message must not be acknowledged."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The hub answered a SUBSCRIBE."""

    client: int
    topic_filter: str
    granted: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """The progress of a client's bytes. Through a proxy, it is the proxy that acknowledges them."""

    client: int
    arrived_bytes: int
    """Bytes acknowledged by the other side's TCP since the connection began."""
    under_way_bytes: int
    """Bytes handed over and not acknowledged: in the kernel, or on the way there."""
    segment_bytes: int
    """The largest TCP segment."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The client was lost: any send that is not acknowledged may or may not have arrived."""

    client: int
    cause: Cause
    reason: str
    carried: Carried | None = None
    """The progress of its bytes at its end."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A discarded client is gone; the next one may be opened."""

    client: int


ConnectionEvent = Connected | Acked | Inbound | Subscribed | Lost | Closed
