"""The sender: what goes out on the client that is up, and what its end proves about the messages in flight.

It holds every message that is on its way (`send_queue`), those in flight (`in_flight`) and those settled
(`settled_records`), and asks the link budget and the congestion window how much may go. When a client opens
and ends is decided in `connection`; the engine reports it by `begin` and `end`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.core.delivery.actions import PROBE, Action, Candidate, Send, StartUpload, Tag
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.in_flight import ConnectionEnding, InFlight
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.outgoing import MessageState, Outgoing
from runtime.core.delivery.packs import Packer
from runtime.core.delivery.patience import AckPatience
from runtime.core.delivery.poison import PoisonDetector
from runtime.core.delivery.queue_room import RoomMeter
from runtime.core.delivery.quota_probe import QuotaProbe
from runtime.core.delivery.send_queue import NO_STREAM, SendQueue
from runtime.core.delivery.settled_records import SettledRecords
from runtime.core.delivery.upload_slots import UploadSlots
from runtime.core.delivery.window import WINDOW_BYTES, CongestionWindow

MOST_MEMBERS_IN_FLIGHT = 2_000
"""No further send while so many messages are in flight, in packs: each one is a repeat after a crash."""
_WIDE = 1 << 30


class Sender:
    """Times are seconds on one clock that never jumps; `draw` is random in [0, 1)."""

    def __init__(self, window: CongestionWindow, link: LinkBudget, limits: DeliveryLimits) -> None:
        self.queue = SendQueue()
        self.queue.batches.patience_s = limits.batch_s
        self.room = RoomMeter(self.queue, link.passes, link.is_urgent)
        self.settled = SettledRecords()
        self.poison = PoisonDetector(limits.ack_s, lambda m: link.passes(m.candidate.priority))
        self.in_flight = InFlight()
        self.packer = Packer(self.queue, link)
        self.patience = AckPatience(limits.ack_s)
        self.uploads = UploadSlots(limits.uploads, limits.retry_max_s)
        self.trial: Outgoing | None = None
        """The suspect that goes first and alone on the client that is open."""
        self._congestion = window
        self._link = link
        self._limits = limits
        self._quota_probe = QuotaProbe()
        self._members_in_flight = 0
        self._control: Tag | None = None
        """The first send on the client that is up, where no trial has that place."""
        self._narrowed = _WIDE
        """Most sends in flight, narrowed with each lost connection until one message is alone."""
        self._sent_on_client = 0
        self._acked_on_client = 0
        self._reached: dict[int, int] = {}
        """The changes since the last `drain_reached`."""

    # -- messages to send, and their outcome ---------------------------------------------------------

    def add(self, candidate: Candidate, now: float) -> Outgoing | None:
        """Begin the record of a message; None where it has one already."""
        if self.knows(candidate.id):
            return None
        return self.queue.add(candidate, now)

    def knows(self, id: int) -> bool:
        """True if the message has a record: it was read before, and ingest has not confirmed its removal."""
        return id in self.queue.messages or id in self.settled

    def refuse(self, id: int, reason: str, now: float) -> None:
        """Set a message aside that was never offered, because no hub would take it."""
        if not self.knows(id):
            message = Outgoing(Candidate(id, None), NO_STREAM, now, reason=reason)
            message.become(MessageState.SET_ASIDE, now)
            self.settled.add(message)

    def drain_reached(self) -> dict[int, int]:
        """Messages sent in pieces, and the first piece that the hub does not have, where that has changed."""
        reached, self._reached = self._reached, {}
        return reached

    def restart(self, now: float) -> None:
        """Another device is to send: the pieces that the hub has of a message are not this device's."""
        assert not self.in_flight
        for message in self.queue.restart():
            self.poison.acquit(message, now)
            self.queue.release(message.stream)
        self._reached.clear()

    def collect_expired(self) -> None:
        """Settle the messages that the queue has dropped because their ttl was over."""
        for message in self.queue.expired:
            message.reason = "expired"
            self.settled.add(message)
        self.queue.expired.clear()

    def shed(self, goes: Callable[[Outgoing], bool], reason: str, now: float) -> int:
        """Settle as lost those for which `goes` is true, and nothing was sent. Returns their number."""
        gone = self.queue.shed(goes, now)
        for message in gone:
            message.reason = reason
            self.settled.add(message)
        return len(gone)

    def _settle(self, message: Outgoing) -> None:
        """Take a settled message out of the queue: it waits for ingest's confirmation now."""
        self.poison.forget(message)
        self.uploads.forget(message)
        self.queue.remove(message)
        self.settled.add(message)

    # -- the life of a client ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """A client is up, with nothing in flight."""
        self._congestion.connected()
        self._sent_on_client = self._acked_on_client = 0
        self._control = None
        self.in_flight.begin(now)
        self.trial = self.poison.due()
        if self.trial is not None:
            self.trial.become(MessageState.ON_TRIAL, now)

    def end(self, now: float) -> None:
        """The client is discarded: what it did not acknowledge goes back to the front, in order."""
        self.queue.put_back(self.in_flight.clear(), now)
        self._members_in_flight = 0
        if self.trial is not None and self.trial.state is MessageState.ON_TRIAL:
            self.trial.become(MessageState.SUSPECT, now)
        self.trial = None

    def wants_another_client(self, now: float) -> bool:
        """True if another client has to take over: a trial is due, or the link bars the one under way."""
        if self.trial is not None:
            return not self._link.passes(self.trial.candidate.priority)
        trial_s = self.poison.next_trial_s()
        return trial_s is not None and (now >= trial_s or (not self.in_flight and self.queue.idle()))

    def overdue(self, now: float) -> str:
        """The reason to end the connection, whose acknowledgements do not come; empty while there is none."""
        if self.in_flight.stalled(now, patience_s := self._patience_s):
            if self.trial is None and not self.in_flight.still_arriving():
                self.patience.overdue()
            return self.in_flight.why_overdue(patience_s)
        if self.in_flight.overtaken(now, self._limits.ack_s):
            return "others are acknowledged, the oldest in flight is not"
        return ""

    def next_s(self, now: float) -> float:
        """The latest time at which something may be due on a client that is up."""
        until_s = min(now + self._link.wait_s(now), self.in_flight.overdue_at_s(self._patience_s))
        if self.trial is not None and (s := self.in_flight.overdue_at_s(self._limits.ack_s)) > now:
            until_s = min(until_s, s)
        if self.trial is None and (trial_s := self.poison.next_trial_s()) is not None:
            until_s = min(until_s, trial_s)
        until_s = min(until_s, max(now, self.packer.next_s()))
        batch_s = self.queue.batches.next_s()
        return until_s if batch_s is None else min(until_s, batch_s)

    # -- sending -------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Most sends in flight now."""
        return 1 if self.trial else min(self._narrowed, self._congestion.size)

    def send(self, now: float) -> list[Action]:
        """Send what may go on a client that is up."""
        sends: list[Action] = []
        self.packer.begin_turn(now)
        self.queue.give_way(now, no_room=self.room.look(now).full(stands=True, important=False))
        if self.poison.any_overtaken() and not self._sent_on_client and self.trial is None:
            self._probe(sends, now)
        for message in self._turns(now):
            size_bytes = message.send_bytes
            self._link.sent(size_bytes, message.candidate.priority)
            repeat = message.begins_with_a_repeat()
            self._members_in_flight += len(message.together)
            sends.append(self._put_in_flight(self.queue.pop(message, now), size_bytes, now, repeat=repeat))
        if (self.poison.any() and not self._sent_on_client) or self._to_be_followed(now):
            self._probe(sends, now)
        return sends

    def _probe(self, sends: list[Action], now: float) -> None:
        if self.poison.worth_a_control():  # it costs what every message costs
            self._link.sent(0, 0)
            sends.append(self._put_in_flight((PROBE, 0), 0, now))

    def _to_be_followed(self, now: float) -> bool:
        """True if the hub has all of a trial, and is silent: its answer to another message tells why."""
        if self.trial is None or len(self.in_flight) != 1 or self.in_flight.still_arriving():
            return False
        return self._patience_s > self._limits.ack_s and self.in_flight.stalled(now, self._limits.ack_s)

    @property
    def _patience_s(self) -> float:
        """Most seconds without progress of the sends in flight: more only for a hub that has them whole."""
        least_s = self.poison.patience_s(self.trial)
        return least_s if self.in_flight.still_arriving() else max(least_s, self.patience.current_s)

    def _turns(self, now: float) -> Iterator[Outgoing]:
        """The messages whose next piece may go now, one by one."""
        if (trial := self.trial) is not None:
            unsent = not self.in_flight and trial.has_unsent()
            if unsent and self._link.allows(trial.candidate.priority, now):
                yield trial
            return
        if not self._has_room():
            return
        may = lambda candidate: self._link.allows(candidate.priority, now)  # noqa: E731
        for message in self.queue.turns(now, may, lambda message: self.packer.ready(message, now)):
            yield message
            if not self._has_room():
                return

    def _has_room(self) -> bool:
        if self._members_in_flight >= MOST_MEMBERS_IN_FLIGHT:
            return False
        return len(self.in_flight) < self.window and self.in_flight.bytes < WINDOW_BYTES

    def _put_in_flight(self, tag: Tag, size_bytes: int, now: float, *, repeat: bool = False) -> Send:
        if not self._sent_on_client and self.trial is None:
            self._control = tag
        self._sent_on_client += 1
        self.in_flight.put(tag, size_bytes, now)
        return Send(tag, size_bytes, repeat)

    # -- acknowledgements ----------------------------------------------------------------------------

    def acked(self, tag: Tag, now: float) -> int | None:
        """Take in an acknowledgement of the client that is open. Returns the bytes of the piece of a message.

        None where nothing of that tag is in flight.
        """
        sent_s = self.in_flight.acked(tag, now)
        if sent_s is None:
            return None
        self._acked_on_client += 1
        self._quota_probe.reset()
        self._narrowed = min(self._narrowed + (tag[0] != PROBE), _WIDE)  # else two could hide behind it
        self._congestion.acked(now - sent_s, len(self.in_flight) + 1)
        self.patience.acked(now - sent_s)
        message = self.queue.messages.get(tag[0])
        if message is None:
            return 0
        self._members_in_flight -= len(message.together)
        size_bytes = message.send_bytes
        for freed in self.poison.passed(message, now):
            self.queue.release(freed.stream)
        for one in message.together:
            self._piece_acked(one, tag[1], now)
        if message.pack is not None:
            message.pack.members.clear()  # else pack and records are a circle, which only the collector ends
        return size_bytes

    def _piece_acked(self, message: Outgoing, piece: int, now: float) -> None:
        whole = self.queue.acked(message, piece, now)
        if message.candidate.pieces > 1:
            self._reached[message.candidate.id] = message.reached
        if whole:
            self.queue.batches.delivered(message.candidate)
            self._settle(message)

    def is_evidence(self, tag: Tag) -> bool:
        """True if its acknowledgement shows that the hub takes messages: it is the control, or the trial."""
        return tag == self._control or (self.trial is not None and tag[0] == self.trial.candidate.id)

    def control_passed(self, now: float) -> bool:
        """The hub takes messages. True if that convicts a suspect."""
        self._control = self.trial = None
        evidence = "times the hub dropped the connection when this message came, and it took others"
        return self.convict(self.poison.control_passed(now), evidence, now)

    # -- files ---------------------------------------------------------------------------------------

    def start_uploads(self, now: float) -> list[Action]:
        """Begin the file uploads that can begin; the stream of each waits for it, others do not."""
        begun: list[Action] = []
        if not self.queue.files or not self._link.is_open(now):
            return begun
        for message in self.queue.to_upload(now):  # the most important first
            id, priority = message.candidate.id, message.candidate.priority
            if not self.uploads.has_slot(urgent=self._link.is_urgent(priority)):
                break
            if now >= message.upload_at_s and self._link.takes_file(priority, now):
                self.queue.hold(message.stream)
                self.uploads.begin(message, now)
                begun.append(StartUpload(id))
        return begun

    def uploaded(self, id: int, now: float) -> None:
        """The payload is in the cloud: the link to it may be sent."""
        if (message := self._uploading(id)) is not None:
            self.uploads.end(message, MessageState.QUEUED, now)
            self.queue.uploaded(message)
            self.queue.release(message.stream)

    def upload_refused(self, id: int, reason: str, now: float) -> None:
        """The storage will never take the file: the message is set aside."""
        if (message := self._uploading(id)) is not None:
            message.reason = reason
            stream = message.stream
            self.uploads.end(message, MessageState.SET_ASIDE, now)
            self._settle(message)
            self.queue.release(stream)

    def upload_failed(self, id: int, now: float, draw: float, retry_after_s: float | None) -> None:
        """The upload failed: it begins again after a pause."""
        if (message := self._uploading(id)) is not None:
            self.uploads.end(message, MessageState.QUEUED, now)
            self.uploads.rest(message, now, draw, retry_after_s)
            self.queue.release(message.stream)

    def _uploading(self, id: int) -> Outgoing | None:
        message = self.queue.messages.get(id)
        return message if message is not None and message.state is MessageState.UPLOADING else None

    # -- poison against outage -----------------------------------------------------------------------

    def ending(self, now: float, *, by_hub: bool) -> ConnectionEnding:
        """The evidence where the connection ends now."""
        return self.in_flight.ending(now, self._limits.prompt_s, by_hub=by_hub)

    def count_fruitless_client(self) -> bool:
        """The client is lost. True if it was one too many with messages sent and none acknowledged."""
        return bool(self._sent_on_client and not self._acked_on_client and self._quota_probe.record_failure())

    def blame(self, now: float, *, proves: bool) -> list[Outgoing]:
        """The messages that the loss of a connection convicts.

        With several in flight the window narrows; one that was alone is charged where the hub ended the
        connection on reading it (`proves`). With none in flight the hub drops others as well.
        """
        oldest = self.in_flight.oldest()
        if oldest is not None and self.in_flight.overtaken(now, self._limits.ack_s):
            if oldest == self._control:
                self.poison.control_failed()
            message = self.queue.messages.get(oldest[0])
            return [] if message is None else self.poison.overtaken(message)
        if oldest is None:
            self.poison.control_failed()
        if len(self.in_flight) > 1 and self.trial is None:
            self._narrowed = max(1, min(self._narrowed, len(self.in_flight)) // 4)
            self._congestion.lost()
            return []
        for tag in self.in_flight.tags():
            self._narrowed = 1
            if tag == self._control:
                self.poison.control_failed()
            message = self.queue.messages.get(tag[0])
            silent_s = None if proves else self.in_flight.waited_s(now)
            if message is not None and self.poison.failed(message, now, silent_s):
                self.queue.hold(message.stream)
        return []

    def convict(self, convicted: list[Outgoing], evidence: str, now: float) -> bool:
        """Set the convicted messages aside, with the evidence as the reason. True if there are any.

        A pack is dissolved instead: one of its members is to blame, and the others are not.
        """
        for message in convicted:
            if message.pack is not None:
                self._dissolve(message, now)
                continue
            losses = message.suspicion.losses if message.suspicion is not None else 0
            message.reason = f"{losses} {evidence}"
            message.become(MessageState.SET_ASIDE, now)
            stream = message.stream
            self._settle(message)
            self.queue.release(stream)
        return bool(convicted)

    def _dissolve(self, first: Outgoing, now: float) -> None:
        self.poison.acquit(first, now)
        if first.pack is not None:
            first.pack.dissolve()
        self.queue.release(first.stream)
