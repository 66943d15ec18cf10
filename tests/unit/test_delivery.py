"""Delivery against a small model of a hub that drops, is silent, refuses, lies, and has poison."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.core.delivery import Delivery, Limits, Phase
from runtime.core.line import Acked, Cause, Closed, Connected, LineEvent, Lost
from runtime.core.pacing import Pace, Window
from runtime.core.steps import PROBE, Discard, Offer, Open, Send, Tag, TellRefused, Upload
from runtime.core.suspicion import LONE_LOSSES


class World:
    """A hub, a line to it, and a store, in a hundred lines. Nothing happens unless a test says so."""

    def __init__(self, window: int = 8) -> None:
        self.delivery = Delivery(Pace(Window(window)), Limits(connect_s=5, ack_s=10, retry_max_s=8))
        self.now = 1000.0
        self.generation = 1
        self.delivery.credentials(1, self.now)
        self.client = 0
        self.connected = False
        self.closing = False
        self.outage = False
        self.refusing = False
        self.wire: list[Tag] = []  # sent, not yet at the hub
        self.at_hub: list[Tag] = []  # received on this connection, not yet acknowledged
        self.stale: list[LineEvent] = []  # what discarded clients may still say
        self.arrivals: list[Tag] = []
        self.poison: set[int] = set()
        self.streams: dict[int, str] = {}
        self.uploads: list[int] = []
        self.delivered: list[int] = []
        self.quarantined: dict[int, str] = {}
        self.unconfirmed: set[int] = set()
        self.told_refused = 0
        self.sent: list[Tag] = []
        self.connections = 0

    def store(
        self, id: int, stream: str, *, poison: bool = False, pieces: int = 1, file: bool = False
    ) -> None:
        self.streams[id] = stream
        if poison:
            self.poison.add(id)
        assert self.delivery.offer(Offer(id, stream, pieces, 100 * pieces, file=file))

    def report(self, event: LineEvent, draw: float = 0.5) -> None:
        self.delivery.report(event, self.now, draw)

    def lose(self, cause: Cause = Cause.DROPPED) -> None:
        self.stale += [Acked(self.client, tag) for tag in self.at_hub]
        self.connected = False
        self.wire.clear()
        self.at_hub.clear()
        self.report(Lost(self.client, cause, "test"))

    def step(self) -> bool:
        """Do what delivery wants done. Whether there was anything."""
        steps = self.delivery.steps(self.now, 0.5)
        for step in steps:
            match step:
                case Open():
                    assert not self.connected and not self.closing, "two clients at a time"
                    self.client += 1
                    self.connections += 1
                case Discard():
                    self.stale += [Acked(self.client, tag) for tag in (*self.at_hub, *self.wire)]
                    self.connected = False
                    self.wire.clear()
                    self.at_hub.clear()
                    self.closing = True
                case Send(tag):
                    assert self.connected
                    assert tag[0] not in self.unconfirmed, "sent again after it was settled"
                    self.wire.append(tag)
                    self.sent.append(tag)
                case TellRefused():
                    self.told_refused += 1
                case Upload(id):
                    self.uploads.append(id)
        settled = self.delivery.take_settled()
        for id in settled.delivered:
            assert any(tag[0] == id for tag in self.arrivals), "delivered, and the hub does not have it"
            assert id not in self.delivered
        self.delivered += settled.delivered
        self.quarantined.update(settled.quarantined)
        self.unconfirmed |= settled.ids()
        return bool(steps)

    def close(self) -> None:
        if self.closing:
            self.closing = False
            self.report(Closed(self.client))

    def connect(self) -> None:
        if self.delivery.phase is Phase.CONNECTING:
            if self.refusing:
                self.lose(Cause.REFUSED)
            else:
                self.connected = True
                self.report(Connected(self.client))

    def receive(self, count: int = 1 << 30) -> None:
        """The hub reads; a poisonous message, or an outage, ends the connection."""
        for _ in range(min(count, len(self.wire))):
            tag = self.wire.pop(0)
            if self.outage or tag[0] in self.poison:
                self.lose()
                return
            self.arrivals.append(tag)
            self.at_hub.append(tag)

    def acknowledge(self, count: int = 1 << 30) -> None:
        for tag in self.at_hub[:count]:
            self.report(Acked(self.client, tag))
        del self.at_hub[:count]

    def upload_failed(self, id: int) -> None:
        self.delivery.upload_failed(id, "weather", self.now, 0.5, for_good=False)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def settle_down(self, turns: int = 4000) -> None:
        """All is well now, poison apart: turn until nothing is left."""
        self.outage = self.refusing = False
        for _ in range(turns):
            self.close()
            self.connect()
            self.receive()
            self.acknowledge()
            for id in self.uploads:
                self.delivery.uploaded(id)
            self.uploads.clear()
            if not self.step():
                if not self.delivery.hand.messages:
                    return
                self.pass_time(min(10.0, max(0.01, self.delivery.wait_s(self.now))))
        raise AssertionError(f"{len(self.delivery.hand.messages)} left, {self.delivery.phase}")

    def first_arrivals(self) -> dict[str, list[Tag]]:
        seen: set[Tag] = set()
        found: dict[str, list[Tag]] = defaultdict(list)
        for tag in self.arrivals:
            if tag not in seen and tag[0] != PROBE:
                seen.add(tag)
                found[self.streams[tag[0]]].append(tag)
        return found

    def check_order(self) -> None:
        for stream, tags in self.first_arrivals().items():
            assert tags == sorted(tags), f"stream {stream} arrived as {tags}"


class DeliveryMachine(RuleBasedStateMachine):
    """Anything may happen at any time; single drops that hit a lone message are fewer than what convicts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.next_id = 1
        self.lone_drops = 0

    @rule(
        stream=st.sampled_from("abc"),
        poison=st.integers(0, 9).map(lambda n: n == 0),
        pieces=st.sampled_from([1, 1, 1, 3]),
        file=st.integers(0, 19).map(lambda n: n == 0),
        count=st.integers(1, 12),
    )
    def store(self, stream: str, poison: bool, pieces: int, file: bool, count: int) -> None:
        for _ in range(count):
            self.world.store(self.next_id, stream, poison=poison, pieces=1 if file else pieces, file=file)
            self.next_id += 1

    @rule()
    def turn(self) -> None:
        self.world.close()
        self.world.connect()
        self.world.step()

    @rule(count=st.integers(1, 20), acks=st.integers(0, 20))
    def hub_works(self, count: int, acks: int) -> None:
        self.world.receive(count)
        self.world.acknowledge(acks)
        self.world.step()

    @rule()
    def upload_ends(self) -> None:
        for id in self.world.uploads:
            self.world.delivery.uploaded(id)
        self.world.uploads.clear()

    @precondition(lambda self: self.world.uploads)
    @rule()
    def upload_fails(self) -> None:
        self.world.upload_failed(self.world.uploads.pop())

    @precondition(lambda self: self.world.connected)
    @rule()
    def drop(self) -> None:
        if self.world.delivery.in_flight == 1:
            if self.lone_drops >= LONE_LOSSES - 1:
                return
            self.lone_drops += 1
        self.world.lose()

    @rule(on=st.booleans())
    def outage(self, on: bool) -> None:
        self.world.outage = on

    @rule(on=st.booleans())
    def refusals(self, on: bool) -> None:
        self.world.refusing = on

    @rule()
    def new_credentials(self) -> None:
        self.world.generation += 1
        self.world.delivery.credentials(self.world.generation, self.world.now)

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 11.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.world.stale)
    @rule(data=st.data())
    def a_discarded_client_lies(self, data: st.DataObject) -> None:
        self.world.report(data.draw(st.sampled_from(self.world.stale)))

    @rule(all_of=st.booleans())
    def ingest_confirms(self, all_of: bool) -> None:
        ids = set(self.world.unconfirmed if all_of else sorted(self.world.unconfirmed)[:3])
        self.world.delivery.confirmed(ids)
        self.world.unconfirmed -= ids

    @invariant()
    def no_more_in_flight_than_the_window(self) -> None:
        assert self.world.delivery.in_flight <= 8

    @invariant()
    def the_order_within_streams_holds(self) -> None:
        self.world.check_order()

    @invariant()
    def only_poison_is_in_quarantine(self) -> None:
        assert set(self.world.quarantined) <= self.world.poison

    def teardown(self) -> None:
        self.world.settle_down()
        assert set(self.world.delivered) | set(self.world.quarantined) == set(range(1, self.next_id))
        assert set(self.world.quarantined) == self.world.poison
        self.world.check_order()


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def world_with(count: int, stream: str = "s", **more: int) -> World:
    world = World(**more)
    for id in range(1, count + 1):
        world.store(id, stream)
    return world


def test_an_acknowledgement_of_a_discarded_client_delivers_nothing() -> None:
    world = world_with(1)
    world.step()
    world.connect()
    world.step()
    world.lose()
    world.step()
    world.close()
    world.pass_time(5)
    world.step()
    world.connect()
    world.step()
    world.report(Acked(1, (1, 0)))
    world.step()
    assert world.delivered == []


def test_a_hub_that_never_acknowledges_is_left_after_the_time_out_and_everything_is_sent_again_in_order() -> (
    None
):
    world = world_with(5)
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1, 2, 3, 4, 5]
    world.pass_time(10.1)
    world.step()
    assert world.closing
    world.close()
    world.pass_time(10)
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1]  # narrowed: a quarter of five
    world.settle_down()
    assert world.delivered == [1, 2, 3, 4, 5]


def test_poison_anywhere_goes_to_quarantine_with_its_reason_and_nothing_else_does() -> None:
    for position in (1, 50, 100):
        world = World(window=32)
        for id in range(1, 101):
            world.store(id, "s", poison=id == position)
        world.settle_down()
        assert list(world.quarantined) == [position]
        assert "when this message came" in world.quarantined[position]
        assert world.delivered == [n for n in range(1, 101) if n != position]
        assert world.connections < 20, "a poisonous message costs a bounded number of connections"


def test_ten_poisonous_messages_in_a_row_do_not_block_the_rest() -> None:
    world = World(window=32)
    for id in range(1, 41):
        world.store(id, "s", poison=10 < id <= 20)
    world.settle_down()
    assert sorted(world.quarantined) == list(range(11, 21))
    assert world.delivered == [*range(1, 11), *range(21, 41)]


def test_while_a_poisonous_message_is_tried_the_other_streams_go_on() -> None:
    world = World(window=8)
    world.store(1, "bad", poison=True)
    for id in range(2, 200):
        world.store(id, "good")
    world.settle_down()
    assert list(world.quarantined) == [1]
    assert len(world.delivered) == 198


def test_an_outage_that_drops_everybody_for_hours_sends_nothing_to_quarantine() -> None:
    world = World(window=8)
    for id in range(1, 101):
        world.store(id, "abcd"[id % 4])
    world.outage = True
    for _ in range(3000):
        world.close()
        world.connect()
        world.receive()
        world.step()
        world.pass_time(max(0.1, world.delivery.wait_s(world.now)))
    assert world.connections > 100
    assert world.quarantined == {}
    world.settle_down()
    assert sorted(world.delivered) == list(range(1, 101))
    world.check_order()


def test_a_hub_that_drops_every_connection_at_its_nth_message_gets_everything_in_the_end() -> None:
    for n in (2, 3, 7):
        world = world_with(60)
        taken = 0
        for _ in range(5000):
            world.close()
            if world.delivery.phase is Phase.CONNECTING:
                taken = 0
            world.connect()
            while world.wire and world.connected:
                if taken == n - 1:
                    world.arrivals.append(world.wire[0])  # recorded, not acknowledged
                    world.lose()
                    break
                taken += 1
                world.receive(1)
                world.acknowledge()
            world.step()
            world.pass_time(0.3)
            if len(world.delivered) == 60:
                break
        assert world.quarantined == {}
        assert world.delivered == list(range(1, 61))


def test_refused_credentials_are_told_at_every_attempt_and_new_ones_are_tried_at_once() -> None:
    world = world_with(1)
    world.refusing = True
    for attempt in range(1, 4):
        world.step()
        world.connect()
        world.step()
        assert world.told_refused == attempt
        world.close()
        world.pass_time(30)
    world.step()
    world.connect()
    world.step()
    world.close()
    assert world.delivery.wait_s(world.now) > 0
    world.refusing = False
    world.delivery.credentials(2, world.now)
    assert world.delivery.wait_s(world.now) == 0
    world.settle_down()
    assert world.delivered == [1]


def test_new_credentials_replace_the_client_and_what_was_in_flight_may_still_be_acknowledged() -> None:
    world = world_with(3)
    world.step()
    world.connect()
    world.step()
    world.receive(2)
    world.delivery.credentials(2, world.now)
    world.step()
    assert world.delivery.phase is Phase.DRAINING
    world.acknowledge()
    world.pass_time(2.1)
    world.step()
    assert world.closing
    assert world.delivered == [1, 2]
    world.settle_down()
    assert [tag[0] for tag in world.sent] == [1, 2, 3, 3]


def test_a_file_upload_holds_its_own_stream_and_no_other() -> None:
    world = World()
    world.store(1, "files")
    world.store(2, "files", file=True)
    world.store(3, "files")
    world.store(4, "telemetry")
    world.step()
    world.connect()
    world.step()
    assert [tag[0] for tag in world.wire] == [1, 4]
    assert world.uploads == [], "what stands before it is not acknowledged yet"
    world.receive()
    world.acknowledge()
    world.step()
    assert world.uploads == [2] and world.wire == []
    world.upload_failed(2)
    world.step()
    assert world.uploads == [2], "it is tried again after a pause"
    world.pass_time(world.delivery.wait_s(world.now))
    world.step()
    assert world.uploads == [2, 2]
    world.delivery.uploaded(2)
    world.step()
    assert [tag[0] for tag in world.wire] == [2, 3]


def test_a_stream_of_low_priority_is_served_beside_one_of_high_priority_and_not_after_it() -> None:
    world = World(window=1000)
    for id in range(1, 501):
        world.delivery.offer(Offer(id, "low", priority=0))
        world.delivery.offer(Offer(1000 + id, "high", priority=5))
    world.step()
    world.connect()
    world.step()
    first = [tag[0] for tag in world.wire[:330]]
    assert sum(id < 1000 for id in first) == 10, "one in 33: 2 to the power of the difference"
    assert first[0] == 1 or first[1] == 1 or 1 in first[:40]


def test_expired_messages_are_dropped_with_the_reason_unless_they_are_on_their_way() -> None:
    world = World(window=1)
    world.delivery.offer(Offer(1, "s", expires_s=1005.0))
    world.delivery.offer(Offer(2, "s", expires_s=1005.0))
    world.step()
    world.connect()
    world.step()
    world.pass_time(6)
    world.arrivals += world.wire
    world.report(Acked(1, (1, 0)))
    world.delivery.steps(world.now, 0.5)
    settled = world.delivery.take_settled()
    assert settled.delivered == [1]
    assert settled.dropped == [(2, "expired")]


def test_what_ingest_has_not_confirmed_is_not_sent_again_when_the_store_shows_it_again() -> None:
    world = world_with(1)
    world.settle_down()
    assert world.delivered == [1]
    assert not world.delivery.offer(Offer(1, "s"))
    world.delivery.confirmed({1})
    assert world.delivery.unconfirmed == 0
