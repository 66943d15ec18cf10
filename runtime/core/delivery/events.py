"""What the line to the hub reports: plain values between the adapter that holds it and who decides about it.

A *client* is one connection's life, numbered from 1. It lives until its first error and is never repaired;
what a discarded client still says is nobody's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """Why a client was lost."""

    UNREACHABLE = "unreachable"
    """It never got so far as to be answered."""
    PROXY = "no way through the proxy"
    """It refused us, or could not be reached, or could not reach the hub."""
    UNTRUSTED = "certificate not trusted"
    """The hub showed one that we do not believe; it learnt nothing from us."""
    LOCAL = "a local file is unusable"
    """Of this machine: the hub was not asked."""
    REFUSED = "refused"
    """The hub refused the credentials."""
    BUSY = "busy"
    """The hub answered that it does not take connections now."""
    DROPPED = "dropped"
    """It was connected, and the other side ended it."""
    OVERDUE = "overdue"
    """We ended it: our watchdog, our keep-alive, or our TCP had no answer for too long."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The hub accepted the connection."""

    client: int


@dataclass(frozen=True, slots=True)
class Acked:
    """The hub acknowledged a PUBLISH of this client: its PUBACK was read."""

    client: int
    tag: object
    """What the sender named the PUBLISH."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How far the bytes of a client have come. By way of a proxy it is the proxy that acknowledges them."""

    client: int
    heard_bytes: int
    """Acknowledged by the other side's TCP since the connection began."""
    unheard_bytes: int
    """Handed over and not acknowledged: in the kernel, or on the way there."""
    segment_bytes: int
    """Most bytes of one TCP segment."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The client is in doubt: whatever is not acknowledged may or may not have arrived."""

    client: int
    cause: Cause
    reason: str
    carried: Carried | None = None
    """At its end."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A discarded client is gone; the next one may be opened."""

    client: int


ConnectionEvent = Connected | Acked | Lost | Closed
