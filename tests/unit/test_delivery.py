"""Delivery against a small model of a hub that drops, is silent, refuses, lies, and has poison."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.core.delivery.events import Acked
from runtime.core.delivery.poison import LONE_LOSSES
from runtime.core.delivery.read_planner import Lane
from runtime.core.message import StreamName
from tests.support.delivery_world import URGENT, World
from tests.support.depth import deep

LANES = [(StreamName(None, "s", leaf), False) for leaf in (None, "leaf-a", "leaf-b")]
"""One stream of this device and of two leaves: the unit of order is the stream of a leaf."""


class DeliveryMachine(RuleBasedStateMachine):
    """Anything may happen at any time; single drops that hit a lone message are fewer than what convicts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.next_id = 1
        self.lone_drops = 0

    @rule(
        stream=st.sampled_from(LANES),
        poison=st.integers(0, 9).map(lambda n: n == 0),
        pieces=st.sampled_from([1, 1, 1, 3]),
        file=st.integers(0, 19).map(lambda n: n == 0),
        batches=st.sampled_from([[None], [None], ["A"], ["A", "B"], ["B", "C", "A", None]]),
        count=st.integers(1, 12),
        priority=st.sampled_from([0, 4, 4, URGENT]),
        ttl_s=st.sampled_from([None, None, None, 3.0, 30.0]),
    )
    def store(
        self,
        stream: Lane,
        poison: bool,
        pieces: int,
        file: bool,
        batches: list[str | None],
        count: int,
        priority: int,
        ttl_s: float | None = None,
    ) -> None:
        for n in range(count):
            batch = batches[n % len(batches)]
            self.world.store(
                self.next_id,
                stream,
                poison=poison,
                pieces=1 if file else pieces,
                file=file,
                batch=batch,
                priority=priority,
                expires_s=None if ttl_s is None else self.world.now + ttl_s,
            )
            self.next_id += 1

    @rule(stream=st.sampled_from(LANES), batch=st.sampled_from("ABC"))
    def complete_a_batch(self, stream: Lane, batch: str) -> None:
        self.world.store(self.next_id, stream, batch=batch, completes_batch=True)
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

    @precondition(lambda self: self.world.at_hub and self.lone_drops < LONE_LOSSES - 1)
    @rule()
    def hub_withholds_one(self) -> None:
        self.lone_drops += 1
        self.world.stale.append(Acked(self.world.client, self.world.at_hub.pop(0)))
        self.world.acknowledge()
        self.world.step()

    @rule()
    def upload_ends(self) -> None:
        for id in self.world.uploads:
            self.world.uploaded(id)
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

    @rule(on=st.booleans())
    def budget_is_used_up(self, on: bool) -> None:
        self.world.bar(on)

    @rule(another=st.integers(0, 3).map(lambda n: n == 0))
    def new_credentials(self, another: bool) -> None:
        self.world.generation += 1
        self.world.device += another
        self.world.delivery.set_credentials(self.world.generation, self.world.now)

    @rule(one_in=st.integers(2, 4), rest=st.integers(0, 3))
    def what_a_budget_cannot_hold_is_shed(self, one_in: int, rest: int) -> None:
        self.world.delivery.shed(lambda m: m.candidate.id % one_in == rest, "over_budget", self.world.now)
        self.world.step()

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
        for _, together in self.world.sent_together:  # a report is removed whole
            ids |= self.world.unconfirmed.intersection(together) if ids.intersection(together) else set()
        self.world.confirm(ids)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @invariant()
    def no_more_in_flight_than_the_window(self) -> None:
        assert self.world.delivery.in_flight <= 8

    @invariant()
    def the_order_within_streams_holds(self) -> None:
        self.world.check_order()

    @invariant()
    def one_batch_is_under_way_within_a_stream(self) -> None:
        self.world.check_batches()

    @invariant()
    def the_queue_counts_what_it_has(self) -> None:
        self.world.check_queue()

    @invariant()
    def the_state_of_each_record_is_what_is_known_of_its_message(self) -> None:
        self.world.check_states()

    @invariant()
    def only_poison_is_in_quarantine(self) -> None:
        assert set(self.world.quarantined) <= self.world.poison

    def teardown(self) -> None:
        self.world.settle_down()
        world = self.world
        settled = set(world.delivered) | set(world.quarantined) | world.dropped
        assert settled == set(range(1, self.next_id)) and not world.dropped & set(world.delivered)
        assert set(world.quarantined) == world.poison - world.dropped
        self.world.check_order()
        self.world.check_batches()


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(max_examples=deep(150), stateful_step_count=40, deadline=None)
