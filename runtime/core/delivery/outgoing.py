"""One message on its way out: the record of it, its states, and what leads from one to the next.

Theory of operation
===================

A record begins (`QUEUED`) when a message is read from the store, and ends when ingest has confirmed that the
message was removed. In between it is in exactly one state, whatever collection it also stands in: those are
indices, made for finding records quickly. `Outgoing.become` is the only way from state to state, and
`TRANSITIONS` says which there are.

- `QUEUED`: in its stream's queue, and none of its pieces is in flight. One that goes as a file waits here
  for its upload, and after it for the turn of the link; one in pieces comes back here between two of them.
- `DEFERRED`: behind another batch of its stream (`batches`).
- `UPLOADING`: its payload is on its way to the blob storage; its stream waits.
- `IN_FLIGHT`: at least one piece is sent and not acknowledged. The end of the connection puts it back.
- `SUSPECT`: connections ended when it was alone in flight. Its stream waits for a trial (`poison`).
- `ON_TRIAL`: it goes first and alone on the client that is open, or will as soon as the link allows it.
- `ACKED`: the hub has all of it. `SET_ASIDE`: the hub, or the storage, will never take it. `EXPIRED`: its
  ttl was over before anything of it was sent. `SHED`: the budget of units cannot hold it, and its stream
  says that it goes then (`over_budget`). These four are *settled*: nothing leads out of them, so no
  message is settled twice, and none that was settled is sent again. Ingest's confirmation ends the record.

Considered and left: a class for each state, as values. A hundred thousand records change their state three
times each; one slot that is overwritten costs a tenth of three objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.transitions import IllegalTransition, Table

if TYPE_CHECKING:
    from runtime.core.delivery.envelope import FileParcel, Parcel, Telemetry
    from runtime.core.delivery.packing import PackPart
    from runtime.core.delivery.packs import Pack
    from runtime.core.delivery.send_queue import StreamQueue


class MessageState(Enum):
    """The state of a message on its way out."""

    __hash__ = object.__hash__  # members are single; hashing their names costs ten times as much

    QUEUED = "queued"
    DEFERRED = "deferred"
    UPLOADING = "uploading"
    IN_FLIGHT = "in flight"
    SUSPECT = "suspect"
    ON_TRIAL = "on trial"
    ACKED = "acked"
    SET_ASIDE = "set aside"
    EXPIRED = "expired"
    SHED = "shed"


TRANSITIONS: Table[MessageState] = {
    MessageState.QUEUED: {
        MessageState.DEFERRED: "another batch of its stream is under way",
        MessageState.UPLOADING: "its file upload begins",
        MessageState.IN_FLIGHT: "a piece of it is sent",
        MessageState.SET_ASIDE: "no hub would take it, or only those sent after it",
        MessageState.EXPIRED: "its ttl is over and nothing of it was sent",
        MessageState.SHED: "the budget of units cannot hold it and nothing of it was sent",
    },
    MessageState.DEFERRED: {
        MessageState.QUEUED: "the batch before is complete, or gave way",
    },
    MessageState.UPLOADING: {
        MessageState.QUEUED: "the payload is in the cloud, or the upload failed and is tried again",
        MessageState.SET_ASIDE: "the storage will never take it",
    },
    MessageState.IN_FLIGHT: {
        MessageState.QUEUED: "the connection ended, or more pieces wait for their turn",
        MessageState.SUSPECT: "connections ended when it was alone in flight",
        MessageState.ACKED: "the hub acknowledged its last piece",
    },
    MessageState.SUSPECT: {
        MessageState.ON_TRIAL: "a client is up for its trial",
        MessageState.QUEUED: "it or another suspect is acquitted, or its pack is dissolved",
        MessageState.SET_ASIDE: "a control passed after its last failure, which convicts it",
    },
    MessageState.ON_TRIAL: {
        MessageState.SUSPECT: "the connection ended",
        MessageState.QUEUED: "the hub acknowledged a piece of it, and more follow",
        MessageState.ACKED: "the hub acknowledged its last piece",
    },
    MessageState.ACKED: {},
    MessageState.SET_ASIDE: {},
    MessageState.EXPIRED: {},
    MessageState.SHED: {},
}
SETTLED = tuple(state for state, following in TRANSITIONS.items() if not following)
"""The states of a record that waits for ingest's confirmation."""


@dataclass(slots=True)
class Suspicion:
    """The evidence against a message: see `poison`."""

    losses: int = 0
    silences: int = 0
    waited_s: float = 0.0
    """Length of the last silence; other messages get as long before the next trial."""
    overtaken: bool = False
    """Others, sent after it, were acknowledged, and it was not."""
    due: bool = False
    """A control passed since it failed last."""
    try_at_s: float = 0.0

    @property
    def failures(self) -> int:
        """Failures of either kind."""
        return self.losses + self.silences


@dataclass(slots=True, eq=False)
class Outgoing:
    """The record of one message on its way out."""

    candidate: Candidate
    stream: StreamQueue
    since_s: float
    """The time at which it came into its state."""
    reached: int = 0
    """All pieces before this one are acknowledged."""
    next_piece: int = 0
    """No piece from this one on was sent yet."""
    touched: bool = False
    """A piece of it was sent: it is too late to drop it."""
    needs_upload: bool = False
    """Its payload has still to be uploaded as a file."""
    state: MessageState = MessageState.QUEUED
    pieces_in_flight: int = 0
    stored_s: float | None = None
    """The time at which ingest stored it; None where its age is unknown."""
    attempts: int = 0
    """Number of times it was sent: once, and again after each connection that ended meanwhile."""
    returns: int = 0
    """Connections that ended while it was in flight."""
    upload_failures: int = 0
    upload_at_s: float = 0.0
    """Its upload does not begin before this time."""
    suspicion: Suspicion | None = None
    reason: str = ""
    """The reason why it was set aside or dropped."""
    sealed: Parcel | FileParcel | None = None
    """Its form on the wire; None where the caller does not say, and once it is settled."""
    link: Telemetry | None = None
    """The telemetry that names its uploaded file."""
    spool_file: str | None = None
    """The file in the spool that belongs to it."""
    resume_key: str | None = None
    """Its key in the resume journal, where it goes in chunks."""
    _returned: list[int] | None = None
    """Pieces that were sent and came back, the first one last."""
    _ahead: set[int] | None = None
    """Pieces acknowledged beyond `reached`."""

    part: PackPart | None = None
    """What it adds to a pack; None: it always goes alone."""
    pack: Pack | None = None
    """The pack that it goes in, or was sent in before; None: it goes alone, or is not cut yet."""

    @property
    def together(self) -> Sequence[Outgoing]:
        """The messages that go as one, of which it is the first: its pack, or only itself."""
        return self.pack.members if self.pack is not None else (self,)

    @property
    def send_bytes(self) -> int:
        """The size of what is sent for it, and for those that go with it."""
        if self.pack is not None and self.pack.telemetry is not None:
            return self.pack.telemetry.wire_bytes
        return self.candidate.piece_bytes

    def become(self, state: MessageState, now: float) -> None:
        """Change the state. Raises IllegalTransition, and changes nothing, where the table has none such."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"message {self.candidate.id}", self.state, state)
        self.state = state
        self.since_s = now

    def has_unsent(self) -> bool:
        """True if a piece of it waits to be sent."""
        return bool(self._returned) or self.next_piece < self.candidate.pieces

    def begins_with_a_repeat(self) -> bool:
        """True if the piece that is to be sent next was sent before."""
        return bool(self._returned)

    def next_unsent(self) -> int:
        """Take the piece that is to be sent next."""
        if self._returned:
            return self._returned.pop()
        piece = self.next_piece
        assert piece < self.candidate.pieces
        self.next_piece = piece + 1
        return piece

    def put_back(self, piece: int) -> None:
        """Put back a piece that was sent; the last one sent comes first."""
        if self._returned is None:
            self._returned = []
        self._returned.append(piece)

    def piece_acked(self, piece: int) -> None:
        """The hub acknowledged a piece, in any order."""
        if piece != self.reached:
            self._ahead = self._ahead or set()
            self._ahead.add(piece)
            return
        self.reached += 1
        while self._ahead and self.reached in self._ahead:
            self._ahead.remove(self.reached)
            self.reached += 1

    def is_whole(self) -> bool:
        """True if the hub has every piece."""
        return self.reached == self.candidate.pieces

    def restart(self) -> None:
        """Begin with its first piece again, while no piece is in flight."""
        assert not self.pieces_in_flight
        self.reached = self.next_piece = 0
        self._returned = self._ahead = None
