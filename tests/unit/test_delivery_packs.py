"""Delivery in packs against a model of a hub: the order, the names and the poison of single messages."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from runtime.core.delivery.link_budget import LinkPolicy, parse_hours
from runtime.core.delivery.outgoing import Outgoing
from runtime.core.delivery.pack_notes import PackNotes
from runtime.core.delivery.packing import PackFormat, PackRule
from runtime.core.delivery.packs import REREAD_S
from tests.support.delivery_world import URGENT, World
from tests.support.depth import deep
from tests.unit.test_delivery import LANES, DeliveryMachine

LINES = PackRule(PackFormat.LINES)


class PackingMachine(DeliveryMachine):
    """All that happens to single messages happens to packs; and the settings change between two runs."""

    def __init__(self) -> None:
        super().__init__()
        self.world.rule = PackRule(PackFormat.LINES, linger_s=1.0, units=3, fold_completion=True)

    @rule(
        format=st.sampled_from(list(PackFormat)),
        linger_s=st.sampled_from([0.0, 5.0]),
        units=st.integers(1, 4),
        fold=st.booleans(),
    )
    def crash_and_other_settings(self, format: PackFormat, linger_s: float, units: int, fold: bool) -> None:
        rule = PackRule(format, linger_s, units, fold_completion=fold)
        self.world.rule = None if format is PackFormat.NONE else rule
        self.world.crash()

    @rule(format=st.sampled_from(list(PackFormat)), units=st.integers(1, 4), received=st.integers(1, 3))
    def crash_when_packs_have_arrived(self, format: PackFormat, units: int, received: int) -> None:
        self.store(LANES[0], False, 1, False, [None], 6, 4)
        self.turn()
        self.turn()
        self.world.receive(received)
        self.crash_and_other_settings(format, 0.0, units, received > 1)

    @invariant()
    def a_message_comes_under_one_name_only(self) -> None:
        twice = {id: names for id, names in self.world.names.items() if len(names) > 1}
        assert not twice


TestPacking = PackingMachine.TestCase
TestPacking.settings = settings(max_examples=deep(60), stateful_step_count=40, deadline=None)


def lines(count: int, rule: PackRule = LINES, *, poison: int | None = None, **more: Any) -> World:
    world = World(window=8, rule=rule)
    for id in range(1, count + 1):
        world.store(id, "s", poison=id == poison, **more)
    return world


def up(world: World) -> World:
    """The world with a client that is up, and what it sends at once."""
    world.step()
    world.connect()
    world.step()
    return world


def sent(world: World) -> list[list[int]]:
    """The members of all sends so far."""
    return [ids for _, ids in world.sent_together]


def test_a_backlog_goes_in_packs_of_many_units_and_what_is_left_in_one() -> None:
    world = up(lines(100))
    assert [len(ids) for ids in sent(world)] == [93, 5, 2]
    assert [id for ids in sent(world) for id in ids] == list(range(1, 101))


def test_what_waits_for_others_goes_when_its_oldest_has_lingered() -> None:
    world = up(lines(2, replace(LINES, linger_s=10.0)))
    assert sent(world) == []
    assert world.delivery.wait_s(world.now) == pytest.approx(10.0)
    world.pass_time(4.0)
    world.store(3, "s")
    world.step()
    assert sent(world) == [] and world.delivery.wait_s(world.now) == pytest.approx(6.0)
    world.pass_time(6.0)
    world.step()
    assert sent(world) == [[1, 2, 3]]


@pytest.mark.parametrize("stored_s", [None, -1e9, 1e9])
def test_a_clock_that_jumped_makes_no_message_wait_longer_than_it_may(stored_s: float | None) -> None:
    world = lines(1, replace(LINES, linger_s=10.0))
    world.delivery.queue.messages[1].stored_s = stored_s
    up(world)
    world.receive()
    world.acknowledge()
    world.step()
    world.pass_time(10.0)
    world.step()
    assert sent(world) == [[1]]


def test_nothing_lingers_beyond_the_hours_of_the_link() -> None:
    world = lines(2, replace(LINES, linger_s=600.0))
    world.link.set_policy(LinkPolicy(hours=parse_hours(["00:00-12:00"])))
    world.link.set_time(1_800_000_000.0 // 86_400 * 86_400 + 12 * 3_600 - 300, world.now)
    assert sent(up(world)) == [[1, 2]]


def test_after_a_restart_the_linger_counts_from_the_storing() -> None:
    world = up(lines(2, replace(LINES, linger_s=10.0)))
    world.pass_time(7.0)
    world.crash()
    assert world.delivery.wait_s(up(world).now) == pytest.approx(3.0)


def test_a_full_unit_does_not_linger() -> None:
    world = up(lines(7, replace(LINES, linger_s=10.0)))
    assert sent(world) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("why", "more"),
    [
        ("it is urgent", {"priority": URGENT}),
        ("its ttl would end meanwhile", {"expires_s": 1005.0}),
    ],
)
def test_nothing_lingers_where_waiting_would_do_harm(why: str, more: dict[str, Any]) -> None:
    assert sent(up(lines(2, replace(LINES, linger_s=10.0), **more))) == [[1, 2]], why


def test_a_completion_behind_them_sends_the_messages_of_a_batch_at_once() -> None:
    world = lines(3, replace(LINES, linger_s=10.0), batch="A")
    world.store(4, "s", batch="A", completes_batch=True)
    assert sent(up(world)) == [[1, 2, 3], [4]]


FOLDING = replace(LINES, linger_s=10.0, fold_completion=True)


def test_a_completion_goes_with_the_last_messages_of_its_batch_where_that_is_asked_for() -> None:
    world = lines(3, FOLDING, batch="A")
    world.store(4, "s", batch="A", completes_batch=True)
    world.store(5, "s", batch="B")
    up(world)
    assert sent(world) == [[1, 2, 3, 4]] and world.delivered == []
    world.settle_down()
    assert sent(world)[1:] == [[5]] and world.delivered == [1, 2, 3, 4, 5]


def test_a_completion_that_was_sent_in_a_pack_goes_in_it_again_after_the_option_was_switched_off() -> None:
    world = lines(2, FOLDING, batch="A")
    world.store(3, "s", batch="A", completes_batch=True)
    up(world)
    world.rule = LINES
    world.crash()
    world.settle_down()
    assert sent(world) == [[1, 2, 3], [1, 2, 3]] and world.delivered == [1, 2, 3]


def test_a_completion_goes_alone_where_the_messages_of_its_batch_have_left() -> None:
    """A message under its own name may have arrived: with the completion it would be dropped as a repeat."""
    world = lines(1, replace(FOLDING, linger_s=0.0), batch="A")
    up(world)
    world.lose()
    world.store(2, "s", batch="A", completes_batch=True)
    world.settle_down()
    assert sent(world) == [[1], [1], [2]]


def test_a_pack_never_reaches_over_the_end_of_a_batch_or_to_another_priority() -> None:
    world = lines(2, batch="A")
    for id, batch, priority in ((3, "B", 4), (4, "B", 4), (5, None, 4), (6, None, 5)):
        world.store(id, "s", batch=batch, priority=priority)
    world.settle_down()
    assert sent(world) == [[1, 2], [3, 4], [5], [6]]


def test_an_expired_message_is_dropped_before_the_cut_and_not_once_it_was_sent() -> None:
    world = lines(3)
    world.store(4, "s", expires_s=1001.0)
    world.store(5, "s")
    up(world)
    assert sent(world) == [[1, 2, 3, 4, 5]]
    world.lose()
    world.pass_time(60.0)
    world.settle_down()
    assert world.quarantined == {} and world.delivered == [1, 2, 3, 4, 5]

    late = lines(1)
    late.store(2, "s", expires_s=1001.0)
    late.store(3, "s")
    late.pass_time(2.0)
    up(late)
    assert sent(late) == [[1], [3]]


@pytest.mark.parametrize("rule", [None, LINES])
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_was_sent_before_a_crash_is_neither_shed_nor_expired_after_it(
    rule: PackRule | None, pieces: int
) -> None:
    """It was counted as lost though it had arrived: nothing remembered that it was sent."""
    world = World(rule=rule)
    for id in (1, 2, 3):
        world.store(id, "s", pieces=pieces, expires_s=world.now + 5.0)
    up(world)
    world.receive()
    world.crash()
    world.store(4, "s", expires_s=world.now + 5.0)
    world.pass_time(60.0)
    assert world.delivery.shed(lambda message: message.candidate.id == 3, "over_budget", world.now) == 0
    world.settle_down()
    assert sorted(world.delivered) == [1, 2, 3] and world.dropped == {4}


def test_a_lost_pack_goes_again_as_it_was_whatever_has_come_meanwhile() -> None:
    world = up(lines(3))
    world.lose()
    world.store(4, "s")
    world.settle_down()
    assert sent(world)[0] == sent(world)[1] == [1, 2, 3]
    assert world.names[1] == {"p:b:1#+3"} and world.names[4] == {"p:b:4"}


@pytest.mark.parametrize("rule", [None, replace(LINES, units=1), PackRule(PackFormat.CONCAT)])
def test_a_pack_goes_again_after_a_crash_as_it_was_under_any_settings(rule: PackRule | None) -> None:
    world = up(lines(12))
    world.receive()
    world.rule = rule
    world.crash()
    world.settle_down()
    assert world.names[1] == {"p:b:1#+11"} and world.names[12] == {"p:b:12"}
    assert world.delivered == list(range(1, 13))


def test_a_message_that_left_the_store_gives_only_its_own_pack_another_name() -> None:
    world = World(window=8, rule=replace(LINES, units=1))
    for id in range(1, 16):
        world.store(id, "s")
    up(world)
    world.receive()
    assert world.names[1] == {"p:b:1#+5"} and world.names[6] == {"p:b:6#+5"}
    del world.offers[2]
    world.crash()
    world.settle_down()
    assert world.names[1] == {"p:b:1#+5", "p:b:1#+1-1+3"}
    assert world.names[6] == {"p:b:6#+5"} and world.names[11] == {"p:b:11#+5"}


def test_what_was_dropped_and_is_back_after_a_crash_does_not_tear_a_pack_apart() -> None:
    world = lines(8)
    world.delivery.shed(lambda message: message.candidate.id % 2 == 0, "over_budget", world.now)
    world.step()
    before = dict(world.offers)
    world.confirm({2, 4, 6, 8})
    up(world)
    world.receive()
    assert world.names[1] == {"p:b:1#+4*2"}
    world.offers = before
    world.crash()
    world.settle_down()
    assert sent(world)[-2:] == [[1, 3, 5, 7], [2, 4, 6, 8]]
    assert all(len(names) == 1 for names in world.names.values())


@pytest.mark.parametrize("at", [1, 90, 180])
def test_poison_in_a_pack_costs_twenty_connections_at_most_and_no_other_message(at: int) -> None:
    world = World(window=8, rule=LINES)
    world.payload_bytes = 200
    for id in range(1, 181):
        world.store(id, "s", poison=id == at)
    world.settle_down()
    assert sent(world)[0] == list(range(1, 181)), "all in one pack"
    assert list(world.quarantined) == [at]
    assert world.delivered == [id for id in range(1, 181) if id != at]
    assert world.connections <= 20
    world.check_order()


def test_a_dissolved_pack_stays_dissolved_after_a_crash() -> None:
    world = lines(5, poison=3)
    while not any(len(ids) == 1 for ids in sent(world)):
        world.close()
        world.connect()
        world.receive()
        world.acknowledge()
        world.step()
        world.pass_time(max(0.01, world.delivery.wait_s(world.now)))
    packs = sum(len(ids) > 1 for ids in sent(world))
    world.crash()
    world.settle_down()
    assert sum(len(ids) > 1 for ids in sent(world)) == packs
    assert list(world.quarantined) == [3]


def test_a_stream_that_packs_has_a_turn_for_each_unit() -> None:
    world = World(window=1, rule=LINES)
    for id in range(1, 201):
        world.store(id, "packed")
    world.rule = None
    for id in range(201, 261):
        world.store(id, "single")
    world.settle_down()
    second = next(at for at, ids in enumerate(sent(world)) if ids[0] == 94)
    assert second >= 16, "a pack of 16 units, and then as many turns of the other stream"


def test_a_stream_whose_packs_take_all_that_waits_leaves_the_others_their_turns() -> None:
    """It came as a new stream after each pack, and so before all others: they sent one message in fifty."""
    world = World(rule=LINES)
    world.link.set_policy(LinkPolicy(messages_per_s=0.5))
    ids = iter(range(1, 10_000))
    for _ in range(100):
        world.store(next(ids), "packs", batch="A")
        world.store(next(ids), "alone", pieces=2)
        world.pass_time(1.0)
        for turn in (world.close, world.connect, world.step, world.receive, world.acknowledge, world.step):
            turn()
    sends = Counter(world.offered(id).stream for id, _ in world.sent)
    assert abs(sends["packs"] - sends["alone"]) <= 2, sends


@pytest.mark.parametrize("meanwhile", ["in flight", "lost"])
def test_a_member_that_is_read_again_too_late_for_its_pack_goes_alone(meanwhile: str) -> None:
    """It joined a pack that was joined without it: it counted as delivered, and was never sent."""
    world = up(lines(3))
    late = world.offers.pop(3)
    world.crash()
    world.delivery.packer.caught_up = lambda stream: False
    up(world)
    world.pass_time(REREAD_S)
    world.step()
    assert sent(world)[-1] == [1, 2]
    if meanwhile == "lost":
        world.lose()
    world.offers[3] = late
    assert world.offer(late)
    world.settle_down()
    assert world.delivered == [1, 2, 3] and world.names[3] == {"p:b:3"}


def test_a_pack_of_which_too_many_left_the_store_for_a_name_goes_one_by_one() -> None:
    """The name says each gap, and may not be longer than the hub allows."""
    world = World(rule=LINES)
    world.payload_bytes = 20
    for id in range(1, 201):
        world.store(id, "s")
    up(world)
    for id in range(1, 201):
        if id * id % 7 in (1, 2):
            del world.offers[id]
    left = list(world.offers)
    world.crash()
    world.settle_down()
    assert world.delivered == left
    world.check_order()


def test_a_stream_that_has_lingered_and_may_not_go_yet_makes_no_turn_due() -> None:
    """The caller's next turn was due at once, again and again, for as long as the rate held the stream up."""
    world = lines(1, replace(LINES, linger_s=10.0))
    world.store(2, "other")
    up(world)
    world.link.set_policy(LinkPolicy(messages_per_s=0.01))
    world.link.sent(0)
    world.pass_time(11.0)
    world.step()
    assert sent(world) == []
    assert world.delivery.wait_s(world.now) > 1.0


def test_a_later_run_waits_for_no_member_that_is_gone_from_the_store() -> None:
    """Notes on the disk are old: while a backlog lasted, each stream was read as if one were missing."""
    world = up(lines(3))
    gone = PackNotes.of_json(world.notes)
    gone.begin("store", 4)
    assert not gone.waits
    some = PackNotes.of_json(world.notes)
    some.begin("store", 3)
    assert some.waits and some.rule_of("store", 3) == LINES
    emptied = PackNotes.of_json(world.notes)
    emptied.begin("store", None)
    assert not emptied.waits
    another = PackNotes.of_json(world.notes)
    another.begin("another store", 1)
    assert not another.waits


def test_no_record_of_a_pack_outlives_its_confirmation() -> None:
    """Pack and records held each other: upload grew by 400 bytes a message until the collector came."""
    gc.collect()
    gc.disable()
    try:
        before = records()
        world = up(lines(100))
        assert records() == before + 100
        world.settle_down()
        world.confirm(set(world.delivered))
        assert records() == before
    finally:
        gc.enable()


def records() -> int:
    return sum(isinstance(one, Outgoing) for one in gc.get_objects())
