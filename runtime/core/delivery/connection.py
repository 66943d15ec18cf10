"""The connection to the hub: the life of one client after the other, and when the next one may be opened.

Theory of operation
===================

A *client* is one connection's life, numbered from 1. It lives until its first error and is never repaired;
what a discarded client still reports is ignored, for it may be wrong. There is at most one at a time: the
next is opened only when the one before is gone. `ConnectionMachine.become` is the only way from state to
state, and `TRANSITIONS` says which there are.

- `DOWN`: there is no client. The next is opened where there are credentials, the pause (`reconnect`) is over
  and the link may be used.
- `CONNECTING`: the hub has not accepted it. No answer in time counts as a loss.
- `UP`: messages are sent (`sender`).
- `DRAINING`: another one is to replace it. It sends nothing more, and what is in flight may be acknowledged.
- `CLOSING`: it is discarded, and not gone yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runtime.core.delivery.actions import Discard, Open
from runtime.core.delivery.batches import PATIENCE_S
from runtime.core.delivery.events import Cause
from runtime.core.delivery.path_mtu import Path
from runtime.core.delivery.reconnect import Reconnect
from runtime.core.delivery.transitions import IllegalTransition, Table

DRAIN_S = 2.0
"""Time for which a client that is to be replaced may still acknowledge what is in flight."""


class ConnectionState(Enum):
    """The state of a client."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    DRAINING = "draining"
    CLOSING = "closing"


TRANSITIONS: Table[ConnectionState] = {
    ConnectionState.DOWN: {
        ConnectionState.CONNECTING: "there are credentials, the pause is over, the link is open",
    },
    ConnectionState.CONNECTING: {
        ConnectionState.UP: "the hub accepted",
        ConnectionState.CLOSING: "refused, unreachable, or no answer in time",
    },
    ConnectionState.UP: {
        ConnectionState.DRAINING: "other credentials, a closed link, or a trial is due",
        ConnectionState.CLOSING: "lost, or our watchdog ended it",
    },
    ConnectionState.DRAINING: {
        ConnectionState.CLOSING: "nothing is in flight any more, its time is over, or it was lost",
    },
    ConnectionState.CLOSING: {
        ConnectionState.DOWN: "the old client is gone",
    },
}


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
    """Time for which a batch may have nothing to send before the next one of its stream begins."""
    prompt_s: float = 10.0
    """A hub that ends a connection because of a message does so this soon; silence it tolerates longer."""


class ConnectionMachine:
    """Times are seconds on one clock that never jumps; `draw` is random in [0, 1)."""

    def __init__(self, limits: DeliveryLimits) -> None:
        self.state = ConnectionState.DOWN
        self.client = 0
        """The number of the client that is open, or was last."""
        self.deadline_s = 0.0
        """The end of the wait in CONNECTING and DRAINING."""
        self.losses, self.failed_attempts, self.last_loss = 0, 0, ""
        self.path = Path()
        self.reconnect = Reconnect(limits.retry_max_s)
        self._connect_s = limits.connect_s
        self._generation: int | None = None  # of the credentials in force
        self._opened_generation: int | None = None

    def become(self, state: ConnectionState) -> None:
        """Change the state. Raises IllegalTransition, and changes nothing, where the table has none such."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition("the connection", self.state, state)
        self.state = state

    @property
    def has_credentials(self) -> bool:
        return self._generation is not None

    @property
    def has_old_credentials(self) -> bool:
        """True if others are in force than those that the client was opened with."""
        return self._generation != self._opened_generation

    def set_credentials(self, generation: int | None, now: float) -> None:
        """Set the credentials in force; None while there are none. New ones are tried at once."""
        if generation != self._generation:
            self._generation = generation
            self.reconnect.credentials_changed(now)

    def may_open(self, now: float) -> bool:
        """True if there are credentials and the pause after the last loss is over."""
        return self.has_credentials and now >= self.reconnect.at_s

    def open(self, now: float) -> Open:
        """Open the next client."""
        self.become(ConnectionState.CONNECTING)
        self.client += 1
        self._opened_generation = self._generation
        self.deadline_s = now + self._connect_s
        return Open(self.path.segment_bytes(now), self.path.stretch)

    def up(self, now: float) -> None:
        """The hub accepted the client."""
        self.become(ConnectionState.UP)
        self.reconnect.up(now)

    def drain(self, now: float) -> None:
        """Let the client receive what is in flight: another one replaces it."""
        self.become(ConnectionState.DRAINING)
        self.deadline_s = now + DRAIN_S

    def discard(self, reason: str) -> Discard:
        """Discard the client."""
        self.become(ConnectionState.CLOSING)
        self.reconnect.closed()
        return Discard(reason)

    def acked(self, piece_bytes: int, now: float) -> None:
        """The hub acknowledged a send of this size."""
        self.reconnect.acked(now)
        self.path.carried(piece_bytes)

    def lost(self, cause: Cause, reason: str, now: float, draw: float, *, explained: bool) -> None:
        """Count a loss; `explained` where a message is suspected of having ended the connection."""
        if self.state is ConnectionState.CONNECTING:
            self.failed_attempts += 1
        else:
            self.losses += 1
        self.reconnect.lost(cause, now, draw, explained=explained)
        trouble = self.trouble(now)
        self.last_loss = f"{cause.value}: {reason}" + (f"; {trouble}" if trouble else "")

    def trouble(self, now: float) -> str:
        """The trouble of a connection, which may stand nevertheless, in words."""
        if short := self.reconnect.short_lives(now):
            return f"{short} connections in a row ended within seconds: does another device use this id?"
        return self.path.trouble
