"""The delivery engine: events in, actions out. It uses no socket, disk, clock or chance.

Invariants:

1. A message is *delivered* only by the PUBACK of its own last send, on the client that is open now. Events
   of a discarded client are ignored: they may be wrong.
2. Within a stream, first sends are in store order, one batch after the other (`batches`): after a loss
   everything that was not acknowledged goes back to the front, in order, before anything newer.
3. A message goes to quarantine only on evidence that is about it and not about the hub (`poison`).
4. Nothing that was settled is sent again while ingest has not confirmed its removal.

Two machines are joined here: the connection (`connection`) and the sender (`sender`). Each message has one
record (`outgoing`), whose states and transitions stand in a table.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.core.delivery.actions import Action, Candidate, InquireQuota, ReportSasRefused, Tag
from runtime.core.delivery.connection import ConnectionMachine, ConnectionState, DeliveryLimits
from runtime.core.delivery.events import Acked, Carried, Cause, Closed, Connected, ConnectionEvent, Lost
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.outgoing import MessageState, Outgoing
from runtime.core.delivery.sender import Sender
from runtime.core.delivery.window import CongestionWindow
from runtime.core.settlement import Settled


class Delivery:
    """All messages on their way to the hub. Times are seconds on one clock that never jumps."""

    def __init__(
        self, window: CongestionWindow, link: LinkBudget, limits: DeliveryLimits | None = None
    ) -> None:
        self._limits = limits or DeliveryLimits()
        self.connection = ConnectionMachine(self._limits)
        self.sender = Sender(window, link, self._limits)
        self.queue = self.sender.queue
        self.room = self.sender.room
        self.packer = self.sender.packer
        self.settled = self.sender.settled
        self._link = link
        self._actions: list[Action] = []

    # -- figures -------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Sends without an acknowledgement."""
        return len(self.sender.in_flight)

    @property
    def uploading(self) -> int:
        """File uploads under way."""
        return self.sender.uploads.in_use

    @property
    def suspects(self) -> list[Outgoing]:
        """Messages that may be poisonous."""
        return self.sender.poison.suspects()

    @property
    def window(self) -> int:
        """Most sends in flight now."""
        return self.sender.window

    # -- messages to send, and their outcome ---------------------------------------------------------

    def offer(self, candidate: Candidate, now: float) -> Outgoing | None:
        """Take on a message; those of a stream come in store order. None where it is known already."""
        return self.sender.add(candidate, now)

    def record(self, id: int) -> Outgoing | None:
        """The record of a message; None where it was never read, or its removal is confirmed."""
        return self.queue.messages.get(id) or self.settled.get(id)

    def refuse(self, id: int, reason: str, now: float) -> None:
        """Set a message aside that was never offered, because no hub would take it."""
        self.sender.refuse(id, reason, now)

    def shed(self, goes: Callable[[Outgoing], bool], reason: str, now: float) -> int:
        """Drop messages of which nothing was sent. Returns their number."""
        return self.sender.shed(goes, reason, now)

    def uploaded(self, id: int, now: float) -> None:
        """The payload is in the cloud: the link to it may be sent."""
        self.sender.uploaded(id, now)

    def upload_failed(
        self,
        id: int,
        reason: str,
        now: float,
        draw: float,
        *,
        final: bool,
        retry_after_s: float | None = None,
    ) -> None:
        """The upload failed. `final` sets the message aside; else it begins again after a pause."""
        if final:
            self.sender.upload_refused(id, reason, now)
        else:
            self.sender.upload_failed(id, now, draw, retry_after_s)

    def drain_settled(self) -> Settled:
        """The outcome of messages since the last call."""
        self.sender.collect_expired()
        return self.settled.drain()

    def drain_reached(self) -> dict[int, int]:
        """Messages sent in pieces, and the first piece that the hub does not have, where that has changed."""
        return self.sender.drain_reached()

    def restart(self, now: float) -> None:
        """Another device is to send: the pieces that the hub has of a message are not this device's."""
        self.sender.restart(now)

    def confirmed(self, ids: set[int]) -> list[Outgoing]:
        """Ingest removed these messages: they will not be read again. Their records end here."""
        removed = self.settled.confirmed(ids)
        for message in removed:
            if message.state is MessageState.SHED:
                self.queue.shed_confirmed(message)
        return removed

    # -- events --------------------------------------------------------------------------------------

    def set_credentials(self, generation: int | None, now: float) -> None:
        """Set the credentials in force; None while there are none. New ones are tried at once."""
        self.connection.set_credentials(generation, now)

    def on_event(self, event: ConnectionEvent, now: float, draw: float, *, excused: bool = False) -> None:
        """Take in an event of the connection; `draw` is random in [0, 1).

        A loss is `excused` where something other than a message may have ended the connection.
        """
        if event.client != self.connection.client:
            return
        state = self.connection.state
        match event:
            case Connected() if state is ConnectionState.CONNECTING:
                self.connection.up(now)
                self.sender.begin(now)
            case Acked(tag=tag) if state in (ConnectionState.UP, ConnectionState.DRAINING):
                self._acked(tag, now)  # type: ignore[arg-type]  # the tag is the one we sent
            case Lost() if state not in (ConnectionState.CLOSING, ConnectionState.DOWN):
                self.carried(event.carried, now)
                self._lost(event.cause, event.reason, now, draw, excused=excused)
            case Closed() if state is ConnectionState.CLOSING:
                self.connection.become(ConnectionState.DOWN)
            case _:
                pass

    def give_up(self, reason: str, now: float, draw: float) -> None:
        """Give up a client that is up, for a reason that lies in none of the messages."""
        if self.connection.state is ConnectionState.UP:
            self._lost(Cause.OVERDUE, reason, now, draw, excused=True)

    def carried(self, carried: Carried | None, now: float) -> None:
        """Take in how far the client's bytes have come by now, where that is known."""
        if carried is not None and carried.client == self.connection.client:
            self.sender.in_flight.carried(carried, now)

    def actions(self, now: float, draw: float) -> list[Action]:
        """The actions due now. Call it after events, and at the latest when `wait_s` is over."""
        match self.connection.state:
            case ConnectionState.DOWN if self.connection.may_open(now) and self._link.is_open(now):
                self._actions.append(self.connection.open(now))
            case ConnectionState.CONNECTING if now >= self.connection.deadline_s:
                self._lost(Cause.OVERDUE, f"no answer within {self._limits.connect_s:g} s", now, draw)
            case ConnectionState.UP:
                self._turn(now, draw)
        if self.connection.state is ConnectionState.DRAINING and (
            not self.in_flight or now >= self.connection.deadline_s
        ):
            self._discard("replaced by a new one", now)
        self._actions += self.sender.start_uploads(now)
        due, self._actions = self._actions, []
        return due

    def wait_s(self, now: float) -> float:
        """Seconds until an action may be due, if no event comes."""
        match self.connection.state:
            case ConnectionState.DOWN if self.connection.has_credentials:
                link_s = now + (0.0 if self._link.is_open(now) else self._link.wait_s(now))
                until_s = max(self.connection.reconnect.at_s, link_s)
            case ConnectionState.CONNECTING | ConnectionState.DRAINING:
                until_s = self.connection.deadline_s
            case ConnectionState.UP:
                until_s = self.sender.next_s(now)
            case _:
                until_s = now + 60.0
        if (upload_s := self.sender.uploads.next_s(now)) is not None:
            until_s = min(until_s, upload_s)
        return max(0.0, until_s - now)

    # -- the two machines together -------------------------------------------------------------------

    def _turn(self, now: float, draw: float) -> None:
        """One turn of a client that is up: it is given up, or replaced, or it sends."""
        if reason := self.sender.overdue(now):
            self._lost(Cause.OVERDUE, reason, now, draw)
        elif self._to_be_replaced(now):
            self.connection.drain(now)
        else:
            self._actions += self.sender.send(now)

    def _to_be_replaced(self, now: float) -> bool:
        """True if another client has to take over: other credentials, a closed link, a trial that is due."""
        if self.connection.has_old_credentials or not self._link.is_open(now):
            return True
        return self.sender.wants_another_client(now)

    def _acked(self, tag: Tag, now: float) -> None:
        evidence = self.sender.is_evidence(tag)
        piece_bytes = self.sender.acked(tag, now)
        if piece_bytes is None:
            return
        self.connection.acked(piece_bytes, now)
        if evidence and self.sender.control_passed(now):
            self.connection.reconnect.explained()

    def _lost(self, cause: Cause, reason: str, now: float, draw: float, *, excused: bool = False) -> None:
        if cause is Cause.REFUSED:
            self._actions.append(ReportSasRefused())
        convicted: list[Outgoing] = []
        if self.connection.state is not ConnectionState.CONNECTING:
            ending = self.sender.ending(now, by_hub=cause is Cause.DROPPED)
            self.connection.path.ended(ending, now)
            if not excused:
                convicted = self.sender.blame(now, proves=ending.proves)
            if self.sender.count_fruitless_client():
                self._actions.append(InquireQuota())
        self.connection.lost(cause, reason, now, draw, explained=excused or self.sender.poison.any())
        self._discard(reason, now)
        evidence = "times the hub acknowledged what was sent after this message, and never it"
        if self.sender.convict(convicted, evidence, now):
            self.connection.reconnect.explained()

    def _discard(self, reason: str, now: float) -> None:
        self.sender.end(now)
        self._actions.append(self.connection.discard(reason))
