"""A hub, a line to it, and a store, for the tests of `delivery`: nothing happens unless a test says so."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from typing import Any

from runtime.core.delivery.actions import (
    PROBE,
    Candidate,
    Discard,
    InquireQuota,
    Open,
    ReportSasRefused,
    Send,
    StartUpload,
    Tag,
)
from runtime.core.delivery.connection import ConnectionState, DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Parcel, Telemetry
from runtime.core.delivery.events import Acked, Cause, Closed, Connected, ConnectionEvent, Lost
from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy
from runtime.core.delivery.outgoing import SETTLED, MessageState, Outgoing
from runtime.core.delivery.pack_names import member_ids
from runtime.core.delivery.pack_notes import PackNotes
from runtime.core.delivery.packing import PackRule, part_of
from runtime.core.delivery.send_queue import MOST_IN_PIECES
from runtime.core.delivery.window import CongestionWindow

BUDGET, URGENT = 1_000_000, 8
LIMITS = DeliveryLimits(connect_s=5, ack_s=10, retry_max_s=8, batch_s=4)


class World:
    """A hub, a line to it, and a store, in a hundred lines. Nothing happens unless a test says so."""

    def __init__(self, window: int = 8, rule: PackRule | None = None) -> None:
        self.now = 1000.0
        self.rule = rule
        self.payload_bytes = 700  # five in a unit
        self.notes: Any = None  # what a crash does not forget of packs
        self.names: dict[int, set[str]] = defaultdict(set)  # under which a message arrived
        self.contents: dict[str, list[int]] = {}  # by name
        self.sent_as: dict[Tag, tuple[str, list[int]]] = {}
        self.sent_together: list[tuple[str, list[int]]] = []  # probes apart
        self.generation = 1
        self.device = 1
        self.window = window
        self.barred = False
        self.stored_s: dict[int, float] = {}
        self.begin()
        self.offers: dict[int, Candidate] = {}  # what the store has
        self.reached: dict[int, int] = {}  # what a crash does not forget: pieces, batches, and whose they are
        self.batches: dict[Hashable, str] = {}
        self.reached_of = 0
        self.connected = False
        self.closing = False
        self.outage = False
        self.refusing = False
        self.wire: list[Tag] = []  # sent, not yet at the hub
        self.at_hub: list[Tag] = []  # received on this connection, not yet acknowledged
        self.stale: list[ConnectionEvent] = []  # what discarded clients may still say
        self.arrivals: list[Tag] = []
        self.arrived_at: dict[int, set[Tag]] = defaultdict(set)  # by device
        self.sent_at: dict[Tag, float] = {}  # for the first time
        self.poison: set[int] = set()
        self.uploads: list[int] = []
        self.delivered: list[int] = []
        self.quarantined: dict[int, str] = {}
        self.dropped: set[int] = set()
        self.unconfirmed: set[int] = set()
        self.told_refused = 0
        self.asked_why = 0
        self.sent: list[Tag] = []
        self.gone: dict[int, Candidate] = {}
        self.connections = 0

    def begin(self) -> None:
        """A process that knows nothing."""
        self.link = LinkBudget(LinkPolicy(messages_per_day=BUDGET, urgent_priority=URGENT))
        self.delivery = Delivery(CongestionWindow(self.window), self.link, LIMITS)
        self.bar(self.barred)
        self.delivery.set_credentials(self.generation, self.now)
        self.client = 0
        self.pack_notes = PackNotes.of_json(self.notes)

    def bar(self, on: bool) -> None:
        """The day's budget is used up, or begins anew."""
        self.barred = on
        self.link.usage.day_messages = BUDGET if on else 0

    def crash(self) -> None:
        """SIGKILL between two turns, and a new start with what the store has."""
        self.begin()
        self.connected = self.closing = False
        for forgotten in (self.wire, self.at_hub, self.stale, self.uploads):
            forgotten.clear()
        for id in self.unconfirmed:  # the report was lost: they are in the store as before
            self.quarantined.pop(id, None)
            self.dropped.discard(id)
            if id in self.delivered:
                self.delivered.remove(id)
        self.unconfirmed.clear()
        self.delivery.queue.batches.resume(self.batches)
        for id, offer in self.offers.items():
            reached = min(self.reached.get(id, 0), offer.pieces - 1)
            assert self.offer(offer._replace(reached=reached))

    def store(self, id: int, stream: Hashable, *, poison: bool = False, pieces: int = 1, **more: Any) -> None:
        self.offers[id] = Candidate(id, stream, pieces, 100 * pieces, **more)
        if poison:
            self.poison.add(id)
        assert self.offer(self.offers[id])

    def confirm(self, ids: set[int]) -> None:
        """Ingest has removed them."""
        self.pack_notes.confirmed(self.delivery.confirmed(ids))
        self.unconfirmed -= ids
        for id in ids:
            self.gone[id] = self.offers.pop(id)
            self.reached.pop(id, None)

    def report(self, event: ConnectionEvent, draw: float = 0.5) -> None:
        self.delivery.on_event(event, self.now, draw)

    def lose(self, cause: Cause = Cause.DROPPED) -> None:
        self.stale += [Acked(self.client, tag) for tag in self.at_hub]
        self.connected = False
        self.wire.clear()
        self.at_hub.clear()
        self.report(Lost(self.client, cause, "test"))

    def step(self) -> bool:
        """Do what delivery wants done. Whether there was anything."""
        steps = self.delivery.actions(self.now, 0.5)
        self.note_all(step.tag for step in steps if isinstance(step, Send))
        for step in steps:
            match step:
                case Open():
                    assert not self.connected and not self.closing, "two clients at a time"
                    self.client += 1
                    self.connections += 1
                    if self.device != self.reached_of:
                        self.delivery.restart(self.now)
                        self.reached.clear()
                        self.reached_of = self.device
                case Discard():
                    self.stale += [Acked(self.client, tag) for tag in (*self.at_hub, *self.wire)]
                    self.connected = False
                    self.wire.clear()
                    self.at_hub.clear()
                    self.closing = True
                case Send(tag):
                    assert self.connected
                    assert tag[0] not in self.unconfirmed, "sent again after it was settled"
                    self.check_send(tag)
                    self.wire.append(tag)
                    self.sent.append(tag)
                case ReportSasRefused():
                    self.told_refused += 1
                case InquireQuota():
                    self.asked_why += 1
                case StartUpload(id):
                    self.uploads.append(id)
        self.reached |= self.delivery.drain_reached()
        self.batches = dict(self.delivery.queue.batches.begun)
        self.take_settled()
        return bool(steps)

    def take_settled(self) -> None:
        """The outcomes of messages, as ingest gets them."""
        settled = self.delivery.drain_settled()
        for id in settled.delivered:
            pieces = {(id, piece) for piece in range(self.offers[id].pieces)}
            assert any(pieces <= has for has in self.arrived_at.values()), (
                "delivered, and no hub has all of it"
            )
            assert id not in self.delivered
        self.delivered += settled.delivered
        self.quarantined.update(settled.quarantined)
        for id, _ in settled.dropped:
            assert (id, 0) not in self.sent_at, "counted as lost, and it may have arrived"
            self.dropped.add(id)
        self.unconfirmed |= settled.ids()

    def close(self) -> None:
        if self.closing:
            self.closing = False
            self.report(Closed(self.client))

    def connect(self) -> None:
        if self.delivery.connection.state is ConnectionState.CONNECTING:
            if self.refusing:
                self.lose(Cause.REFUSED)
            else:
                self.connected = True
                self.report(Connected(self.client))

    def receive(self, count: int = 1 << 30) -> None:
        """The hub reads; a poisonous message, or an outage, ends the connection."""
        for _ in range(min(count, len(self.wire))):
            tag = self.wire.pop(0)
            if self.outage or self.poison.intersection(self.carried_by(tag)):
                self.lose()
                return
            for id in self.carried_by(tag):
                self.arrivals.append((id, tag[1]))
                self.arrived_at[self.reached_of].add((id, tag[1]))
                self.names[id].add(self.sent_as[tag][0])
            self.at_hub.append(tag)

    def acknowledge(self, count: int = 1 << 30) -> None:
        for tag in self.at_hub[:count]:
            self.report(Acked(self.client, tag))
        del self.at_hub[:count]

    def offer(self, candidate: Candidate) -> Outgoing | None:
        sent_before = self.pack_notes.sent_before("store", candidate.id)
        message = self.delivery.offer(candidate._replace(sent_before=sent_before), self.now)
        rule = self.pack_notes.rule_of("store", candidate.id) or self.rule
        if message is not None and rule is not None and candidate.pieces == 1 and not candidate.file:
            message.part = part_of(self.sealed(candidate), rule)
            message.stored_s = self.stored_s.setdefault(candidate.id, self.now)
        if message is not None:
            self.pack_notes.restore("store", message)
        return message

    def sealed(self, candidate: Candidate) -> Parcel:
        """The message as it goes alone."""
        text = (b"%d" % candidate.id).ljust(self.payload_bytes, b".")
        about = {"batch-id": candidate.batch} if candidate.batch else {}
        if candidate.completes_batch:
            text, about = b"", about | {"complete-batch": "true", "ignore-payload": "true"}
        whole = Telemetry(f"p:b:{candidate.id}", text, tuple(about.items()))
        return Parcel(1, len(text), lambda _: whole, raw=None if candidate.completes_batch else whole)

    def note_all(self, tags: Iterable[Tag]) -> None:
        """Note the members before anything is sent, as upload does; check what goes as one."""
        for tag in tags:
            message = self.delivery.queue.messages.get(tag[0])
            if message is None:
                self.sent_as[tag] = "probe", [PROBE]
                continue
            self.pack_notes.sending("store", message)
            name, ids = f"p:b:{tag[0]}", [one.candidate.id for one in message.together]
            if message.pack is not None and message.pack.telemetry is not None:
                name = message.pack.telemetry.mid
                assert [f"p:b:{id}" for id in ids] == member_ids(name)
            assert self.contents.setdefault(name, ids) == ids, "one name, other members"
            self.sent_as[tag] = name, ids
            self.sent_together.append((name, ids))
            for id in ids:
                self.sent_at.setdefault((id, tag[1]), self.now)
        if self.pack_notes.changed:
            self.notes = json.loads(json.dumps(self.pack_notes.to_json()))

    def carried_by(self, tag: Tag) -> list[int]:
        """The messages that a PUBLISH carries."""
        return self.sent_as[tag][1]

    def uploaded(self, id: int) -> None:
        self.delivery.uploaded(id, self.now)

    def upload_failed(self, id: int) -> None:
        self.delivery.upload_failed(id, "weather", self.now, 0.5, final=False)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def settle_down(self, turns: int = 4000) -> None:
        """All is well now, poison apart: turn until nothing is left."""
        self.outage = self.refusing = False
        self.bar(False)
        for _ in range(turns):
            self.close()
            self.connect()
            self.receive()
            self.acknowledge()
            for id in self.uploads:
                self.uploaded(id)
            self.uploads.clear()
            if not self.step():
                if not self.delivery.queue.messages:
                    return
                self.confirm(self.dropped & self.unconfirmed)  # a stream waits for that
                self.pass_time(min(10.0, max(0.01, self.delivery.wait_s(self.now))))
        raise AssertionError(f"{len(self.delivery.queue.messages)} left, {self.delivery.connection.state}")

    def offered(self, id: int) -> Candidate:
        return self.offers.get(id) or self.gone[id]

    def first_arrivals(self) -> dict[Hashable, list[Tag]]:
        found: dict[Hashable, list[Tag]] = defaultdict(list)
        for tag in dict.fromkeys(self.arrivals):
            if tag[0] != PROBE:
                found[self.offered(tag[0]).stream].append(tag)
        return found

    def check_send(self, tag: Tag) -> None:
        """What the hub of this device is known to have of a message in pieces is not sent once more.

        Nor does a link go out before this device has uploaded its file.
        """
        assert tag[0] not in self.delivery.queue.files, "a link to a file that is still to be uploaded"
        if self.barred and tag[0] != PROBE and self.delivery.window > 1:  # else it may be a trial
            assert self.offered(tag[0]).priority >= URGENT, "it passes a budget that is used up"
        known = self.reached.get(tag[0], 0)
        assert known == 0 or tag[1] >= min(known, self.offered(tag[0]).pieces - 1)

    def check_order(self) -> None:
        """Each batch in store order, and what belongs to none; where there are no batches that is all."""
        for stream, tags in self.first_arrivals().items():
            by_batch: dict[str | None, list[Tag]] = defaultdict(list)
            for tag in tags:
                by_batch[self.offered(tag[0]).batch].append(tag)
            for batch, of_it in by_batch.items():
                assert of_it == sorted(of_it), f"stream {stream}, batch {batch} arrived as {of_it}"

    def check_queue(self) -> None:
        """What is counted is what there is, and of files and messages in part there are not too many."""
        queue = self.delivery.queue
        messages = list(queue.messages.values())
        assert queue.bytes == sum(message.candidate.wire_bytes for message in messages)
        for priority, counted in enumerate(queue.by_priority):
            sizes = [m.candidate.wire_bytes for m in messages if m.candidate.priority == priority]
            assert counted == (len(sizes), sum(sizes))
        for stream in queue.streams():
            of_it = [message for message in messages if message.stream is stream]
            assert (stream.messages, stream.files) == (len(of_it), sum(m.candidate.file for m in of_it))
        in_part = [m for m in messages if m.touched and m.candidate.pieces > 1]
        assert len(in_part) <= max(MOST_IN_PIECES * 3 // 2, sum(m.candidate.reached > 0 for m in messages))
        assert self.delivery.uploading <= LIMITS.uploads + 1

    def check_states(self) -> None:
        """The state of each record is what the collections and the world outside say of its message."""
        queue, sender = self.delivery.queue, self.delivery.sender
        in_flight = Counter(id for tag in sender.in_flight.tags() for id in self.carried_by(tag))
        for id, message in queue.messages.items():
            assert message.pieces_in_flight == in_flight[id]
            assert (message.state is MessageState.DEFERRED) == (message in message.stream.deferred)
            assert (message.state is MessageState.ON_TRIAL) == (message is sender.trial)
            assert (message.state is MessageState.UPLOADING) == (id in self.uploads)
            assert message.state is not MessageState.SUSPECT or message.stream.held
            assert message.state is not MessageState.QUEUED or message in message.stream.waiting
            if message.state is not MessageState.ON_TRIAL:
                assert (message.state is MessageState.IN_FLIGHT) == (in_flight[id] > 0)
            assert message.needs_upload == (id in queue.files)
        settled = [sender.settled.get(id) for id in self.unconfirmed]
        assert all(message is not None and message.state in SETTLED for message in settled)
        assert not any(id in sender.settled for id in queue.messages)

    def check_batches(self) -> None:
        """A batch begins when the one before is completed, or was waited for long enough."""
        for stream, tags in self.first_arrivals().items():
            under_way: str | None = None
            last_s = 0.0
            for tag in tags:
                offer = self.offered(tag[0])
                if offer.batch is None:
                    continue
                waited_s = self.sent_at[tag] - last_s
                assert under_way in (None, offer.batch) or waited_s >= LIMITS.batch_s - 0.001, (
                    f"stream {stream}: {offer} came within batch {under_way}, {waited_s} s after its last"
                )
                under_way = None if offer.completes_batch else offer.batch
                last_s = self.sent_at[tag]


def world_with(count: int, stream: str = "s", **more: Any) -> World:
    world = World(**more)
    for id in range(1, count + 1):
        world.store(id, stream)
    return world
