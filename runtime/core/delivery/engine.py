"""The delivery engine: events in, actions out. It uses no socket, disk, clock or chance.

Invariants:

1. A message is *delivered* only by the PUBACK of its own last send, on the client that is open now. Events
   of a discarded client are ignored: they may be wrong.
2. Within a stream, first sends are in store order, one batch after the other (`batches`): after a loss
   everything that was not acknowledged goes back to the front, in order, before anything newer.
3. A message goes to quarantine only on evidence that is about it and not about the hub (`poison`).
4. Nothing that was settled is sent again while ingest has not confirmed its removal.
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.core.delivery.actions import (
    PROBE,
    Action,
    Candidate,
    Discard,
    InquireQuota,
    Open,
    ReportSasRefused,
    Send,
    StartUpload,
    Tag,
)
from runtime.core.delivery.connection_state import DRAIN_S, ConnectionState, DeliveryLimits
from runtime.core.delivery.events import Acked, Carried, Cause, Closed, Connected, ConnectionEvent, Lost
from runtime.core.delivery.file_turns import FileTurns
from runtime.core.delivery.in_flight import InFlight
from runtime.core.delivery.path_mtu import Path
from runtime.core.delivery.poison import PoisonDetector
from runtime.core.delivery.queue_room import RoomKeeper
from runtime.core.delivery.quota_probe import QuotaProbe
from runtime.core.delivery.reconnect import Reconnect
from runtime.core.delivery.send_queue import Outgoing, SendQueue
from runtime.core.delivery.window import WINDOW_BYTES, Pace
from runtime.core.settlement import Settled

_WIDE = 1 << 30


class Delivery:
    """All messages on their way to the hub. Times are seconds on one clock that never jumps."""

    def __init__(self, pace: Pace, limits: DeliveryLimits | None = None) -> None:
        self.phase = ConnectionState.DOWN
        self.hand = SendQueue()
        self.room = RoomKeeper(self.hand, pace.passes, pace.is_urgent)
        self.losses, self.failed_attempts, self.last_loss = 0, 0, ""
        self._pace = pace
        self._limits = limits or DeliveryLimits()
        self.hand.batches.patience_s = self._limits.batch_s
        self._suspicion = PoisonDetector(
            self._limits.ack_s, lambda id: not pace.barred(self.hand.messages[id].offer.priority)
        )
        self._doubt = QuotaProbe()
        self._trial: Outgoing | None = None
        self._control: Tag | None = None
        self._client = 0
        self._generation: int | None = None
        self._opened_generation: int | None = None
        self._flight = InFlight()
        self._files = FileTurns(self._limits.uploads, self._limits.retry_max_s)
        self._narrowed = _WIDE
        self._sent_on_client = 0
        self._acked_on_client = 0
        self._reconnect = Reconnect(self._limits.retry_max_s)
        self._path = Path()
        self._deadline_s = 0.0
        self._steps: list[Action] = []
        self._delivered: list[int] = []
        self._quarantined: list[tuple[int, str]] = []
        self._dropped: list[tuple[int, str]] = []
        self._unconfirmed: set[int] = set()
        self._reached: dict[int, int] = {}

    # -- figures -------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Sends without an acknowledgement."""
        return len(self._flight)

    @property
    def unconfirmed(self) -> int:
        """Settled messages whose removal ingest has not confirmed."""
        return len(self._unconfirmed)

    @property
    def uploading(self) -> int:
        """File uploads under way."""
        return len(self._files)

    @property
    def suspects(self) -> dict[int, int]:
        """Messages that may be poisonous, and how often each has failed."""
        return self._suspicion.failures()

    @property
    def window(self) -> int:
        """Most sends in flight now."""
        return 1 if self._trial else min(self._narrowed, self._pace.window)

    def trouble(self, now: float) -> str:
        """The trouble of a connection, which may stand nevertheless, in words."""
        if short := self._reconnect.short_lives(now):
            return f"{short} connections in a row ended within seconds: does another device use this id?"
        return self._path.trouble

    # -- messages to send, and their outcome ---------------------------------------------------------

    def offer(self, offer: Candidate) -> bool:
        """Take on a message; those of a stream come in store order. False where it is known already."""
        if offer.id in self.hand.messages or offer.id in self._unconfirmed:
            return False
        self.hand.add(offer)
        return True

    def refuse(self, id: int, reason: str) -> None:
        """Set a message aside that was never offered, because no hub would take it."""
        if id not in self._unconfirmed:
            self._quarantined.append((id, reason))
            self._unconfirmed.add(id)

    def uploaded(self, id: int) -> None:
        """The payload is in the cloud: the link to it may be sent."""
        self._files.ended(id)
        self._files.forget(id)
        if message := self.hand.files.pop(id, None):
            self.hand.release(message.stream)

    def upload_failed(
        self,
        id: int,
        reason: str,
        now: float,
        draw: float,
        *,
        for_good: bool,
        retry_after_s: float | None = None,
    ) -> None:
        """The upload failed. `for_good` sets the message aside; else it begins again after a pause."""
        self._files.ended(id)
        message = self.hand.files.get(id)
        if message is None:
            return
        if for_good:
            self._quarantined.append((id, reason))
            self._settle(message)
        else:
            self._files.failed(id, now, draw, retry_after_s)
        self.hand.release(message.stream)

    def take_settled(self) -> Settled:
        """The outcome of messages since the last call."""
        for id in self.hand.expired:
            self._dropped.append((id, "expired"))
            self._unconfirmed.add(id)
        self.hand.expired.clear()
        taken = Settled(self._delivered, self._quarantined, self._dropped)
        self._delivered, self._quarantined, self._dropped = [], [], []
        return taken

    def take_reached(self) -> dict[int, int]:
        """Messages sent in pieces, and the first piece that the hub does not have, where that has changed."""
        taken, self._reached = self._reached, {}
        return taken

    def begin_anew(self) -> None:
        """Another device is to send: the pieces that the hub has of a message are not this device's."""
        assert not self._flight
        for message in self.hand.begin_anew():
            self._suspicion.forget(message.offer.id)
            self.hand.release(message.stream)
        self._reached.clear()

    def confirmed(self, ids: set[int]) -> None:
        """Ingest removed these messages: they will not be read again."""
        self._unconfirmed -= ids

    # -- events --------------------------------------------------------------------------------------

    def credentials(self, generation: int | None, now: float) -> None:
        """Set the credentials in force; None while there are none. New ones are tried at once."""
        if generation != self._generation:
            self._generation = generation
            self._reconnect.credentials_changed(now)

    def report(self, event: ConnectionEvent, now: float, draw: float) -> None:
        """Take in an event of the connection; `draw` is random in [0, 1)."""
        if event.client != self._client:
            return
        match event:
            case Connected() if self.phase is ConnectionState.CONNECTING:
                self._up(now)
            case Acked(tag=tag) if self.phase in (ConnectionState.UP, ConnectionState.DRAINING):
                self._acked(tag, now)  # type: ignore[arg-type]  # the tag is the one we sent
            case Lost() if self.phase not in (ConnectionState.CLOSING, ConnectionState.DOWN):
                self.carried(event.carried, now)
                self._lost(event.cause, event.reason, now, draw)
            case Closed() if self.phase is ConnectionState.CLOSING:
                self.phase = ConnectionState.DOWN
            case _:
                pass

    def carried(self, carried: Carried | None, now: float) -> None:
        """Take in how far the client's bytes have come by now, where that is known."""
        if carried is not None and carried.client == self._client:
            self._flight.carried(carried, now)

    def steps(self, now: float, draw: float) -> list[Action]:
        """The actions due now. Call it after events, and at the latest when `wait_s` is over."""
        match self.phase:
            case ConnectionState.DOWN if self._may_open(now):
                self._client += 1
                self._opened_generation = self._generation
                self._deadline_s = now + self._limits.connect_s
                self.phase = ConnectionState.CONNECTING
                self._steps.append(Open(self._path.segment_bytes(now), self._path.stretch))
            case ConnectionState.CONNECTING if now >= self._deadline_s:
                self._lost(Cause.OVERDUE, f"no answer within {self._limits.connect_s:g} s", now, draw)
            case ConnectionState.UP if self._flight.stands(now, self._patience_s):
                self._lost(Cause.OVERDUE, self._flight.why_overdue(self._patience_s), now, draw)
            case ConnectionState.UP if self._flight.overtaken(now, self._limits.ack_s):
                self._lost(Cause.OVERDUE, "others are acknowledged, the oldest in flight is not", now, draw)
            case ConnectionState.UP if self._to_be_replaced(now):
                self._deadline_s = now + DRAIN_S
                self.phase = ConnectionState.DRAINING
            case ConnectionState.UP:
                self._send_what_may_go(now)
        if self.phase is ConnectionState.DRAINING and (not self._flight or now >= self._deadline_s):
            self._discard("replaced by a new one")
        self._start_uploads(now)
        taken, self._steps = self._steps, []
        return taken

    def wait_s(self, now: float) -> float:
        """Seconds until an action may be due, if no event comes."""
        match self.phase:
            case ConnectionState.DOWN if self._generation is not None:
                until_s = max(
                    self._reconnect.at_s, now + (0.0 if self._pace.open(now) else self._pace.wait_s(now))
                )
            case ConnectionState.CONNECTING | ConnectionState.DRAINING:
                until_s = self._deadline_s
            case ConnectionState.UP:
                until_s = min(now + self._pace.wait_s(now), self._flight.patience_s(self._patience_s))
                if self._trial is not None and (s := self._flight.patience_s(self._limits.ack_s)) > now:
                    until_s = min(until_s, s)
                if (trial_s := self._suspicion.next_trial_s()) is not None and self._trial is None:
                    until_s = min(until_s, trial_s)
            case _:
                until_s = now + 60.0
        if self.phase is ConnectionState.UP and (batch_s := self.hand.batches.next_s()) is not None:
            until_s = min(until_s, batch_s)
        if (file_s := self._files.next_s(now)) is not None:
            until_s = min(until_s, file_s)
        return max(0.0, until_s - now)

    # -- the client ----------------------------------------------------------------------------------

    def _may_open(self, now: float) -> bool:
        return self._generation is not None and now >= self._reconnect.at_s and self._pace.open(now)

    def _to_be_replaced(self, now: float) -> bool:
        """True if another client has to take over: other credentials, a closed link, a trial that is due."""
        if self._generation != self._opened_generation or not self._pace.open(now):
            return True
        trial_s = self._suspicion.next_trial_s()
        if trial_s is None or self._trial is not None:
            return self._trial is not None and self._pace.barred(self._trial.offer.priority)
        return now >= trial_s or (not self._flight and self.hand.idle())

    def _up(self, now: float) -> None:
        self.phase = ConnectionState.UP
        self._pace.connected()
        self._reconnect.up(now)
        self._sent_on_client = self._acked_on_client = 0
        self._control = None
        self._flight.begin(now)
        due = self._suspicion.due()
        self._trial = self.hand.messages[due[0]] if due else None

    def _discard(self, reason: str) -> None:
        self.hand.put_back(self._flight.clear())
        self._trial = None
        self._reconnect.closed()
        self.phase = ConnectionState.CLOSING
        self._steps.append(Discard(reason))

    def _lost(self, cause: Cause, reason: str, now: float, draw: float) -> None:
        self.failed_attempts += self.phase is ConnectionState.CONNECTING
        self.losses += self.phase is not ConnectionState.CONNECTING
        self.last_loss = f"{cause.value}: {reason}"
        if cause is Cause.REFUSED:
            self._steps.append(ReportSasRefused())
        convicted = {}
        if self.phase is not ConnectionState.CONNECTING:
            ending = self._flight.ending(now, self._limits.prompt_s, by_hub=cause is Cause.DROPPED)
            self._path.ended(ending, now)
            convicted = self._blame(now, proves=ending.proves)
            if self._sent_on_client and not self._acked_on_client and self._doubt.record_failure():
                self._steps.append(InquireQuota())
        self._reconnect.lost(cause, now, draw, explained=self._suspicion.any())
        if trouble := self.trouble(now):
            self.last_loss = f"{self.last_loss}; {trouble}"
        self._discard(reason)
        self._convict(convicted, "times the hub acknowledged what was sent after this message, and never it")

    # -- sending -------------------------------------------------------------------------------------

    def _send_what_may_go(self, now: float) -> None:
        self.hand.give_way(now, no_room=self.room.look(now).full(stands=True, important=False))
        if self._suspicion.any_overtaken() and not self._sent_on_client and self._trial is None:
            self._probe(now)
        for message in self._whose_turn(now):
            size_bytes = message.offer.piece_bytes
            self._pace.sent(size_bytes, message.offer.priority)
            self._put_in_flight(self.hand.pop(message), size_bytes, now)
        if (self._suspicion.any() and not self._sent_on_client) or self._to_be_followed(now):
            self._probe(now)

    def _probe(self, now: float) -> None:
        if self._suspicion.worth_a_control():  # it costs what every message costs
            self._pace.sent(0)
            self._put_in_flight((PROBE, 0), 0, now)

    def _to_be_followed(self, now: float) -> bool:
        """True if the hub has all of a trial, and is silent: its answer to another message tells why."""
        if self._trial is None or len(self._flight) != 1 or self._flight.unheard():
            return False
        return self._patience_s > self._limits.ack_s and self._flight.stands(now, self._limits.ack_s)

    @property
    def _patience_s(self) -> float:
        """Most seconds without progress of the sends in flight."""
        return self._suspicion.patience_s(self._trial.offer.id if self._trial else None)

    def _whose_turn(self, now: float) -> Iterator[Outgoing]:
        if (trial := self._trial) is not None:
            if not self._flight and trial.unsent and self._pace.allows(trial.offer.priority, now):
                yield trial
            return
        if not self._has_room():
            return
        for message in self.hand.turns(now, lambda offer: self._pace.allows(offer.priority, now)):
            yield message
            if not self._has_room():
                return

    def _has_room(self) -> bool:
        return len(self._flight) < self.window and self._flight.bytes < WINDOW_BYTES

    def _put_in_flight(self, tag: Tag, size_bytes: int, now: float) -> None:
        if not self._sent_on_client and self._trial is None:
            self._control = tag
        self._sent_on_client += 1
        self._flight.put(tag, size_bytes, now)
        self._steps.append(Send(tag, size_bytes))

    def _acked(self, tag: Tag, now: float) -> None:
        sent_s = self._flight.acked(tag, now)
        if sent_s is None:
            return
        self._reconnect.acked(now)
        self._acked_on_client += 1
        self._doubt.reset()
        self._narrowed = min(self._narrowed + (tag[0] != PROBE), _WIDE)  # else two could hide behind it
        self._pace.acked(now - sent_s, len(self._flight) + 1)
        message = self.hand.messages.get(tag[0])
        if message is not None:
            self._path.carried(message.offer.piece_bytes)
            self._let_go(self._suspicion.passed(tag[0]))
            whole = self.hand.acked(message, tag[1])
            if message.offer.pieces > 1:
                self._reached[tag[0]] = message.reached
            if whole:
                self._delivered.append(tag[0])
                self.hand.batches.delivered(message.offer)
                self._settle(message)
        if tag == self._control or (message is not None and message is self._trial):
            self._control = self._trial = None
            words = "times the hub dropped the connection when this message came, and it took others"
            self._convict(self._suspicion.control_passed(now), words)

    def _settle(self, message: Outgoing) -> None:
        """Take the message out of the send queue: it waits for ingest's confirmation now."""
        self._unconfirmed.add(message.offer.id)
        self._suspicion.forget(message.offer.id)
        self._files.forget(message.offer.id)
        self.hand.remove(message)

    def _start_uploads(self, now: float) -> None:
        """Begin the file uploads that can begin; the stream of each waits for it, others do not."""
        if not self.hand.files or not self._pace.open(now):
            return
        for message in self.hand.to_upload(now):  # the most important first
            id, priority = message.offer.id, message.offer.priority
            if not self._files.has_place(urgent=self._pace.is_urgent(priority)):
                return
            if self._files.rested(id, now) and self._pace.takes_file(priority, now):
                self.hand.hold(message.stream)
                self._files.begin(id)
                self._steps.append(StartUpload(id))

    # -- poison against outage -----------------------------------------------------------------------

    def _blame(self, now: float, *, proves: bool) -> dict[int, int]:
        """The messages that the loss of a connection convicts.

        With several in flight the window narrows; one that was alone is charged where the hub ended the
        connection on reading it (`proves`). With none in flight the hub drops others as well.
        """
        oldest = self._flight.oldest()
        if oldest is not None and self._flight.overtaken(now, self._limits.ack_s):
            if oldest == self._control:
                self._suspicion.control_failed()
            return self._suspicion.overtaken(oldest[0]) if oldest[0] in self.hand.messages else {}
        if oldest is None:
            self._suspicion.control_failed()
        if len(self._flight) > 1 and self._trial is None:
            self._narrowed = max(1, min(self._narrowed, len(self._flight)) // 4)
            self._pace.lost()
            return {}
        for tag in self._flight.tags():
            self._narrowed = 1
            if tag == self._control:
                self._suspicion.control_failed()
            message = self.hand.messages.get(tag[0])
            silent_s = None if proves else self._flight.waited_s(now)
            if message is not None and self._suspicion.failed(tag[0], silent_s):
                self.hand.hold(message.stream)
        return {}

    def _convict(self, convicted: dict[int, int], words: str) -> None:
        for id, losses in convicted.items():
            message = self.hand.messages[id]
            self._quarantined.append((id, f"{losses} {words}"))
            self._settle(message)
            self.hand.release(message.stream)
            self._reconnect.explained()

    def _let_go(self, freed: list[int]) -> None:
        for id in freed:
            if id in self.hand.messages:
                self.hand.release(self.hand.messages[id].stream)
