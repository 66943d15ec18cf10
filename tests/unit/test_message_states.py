"""The states of a message and of the connection: every way of the tables is gone, and no other can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runtime.core.delivery import connection, outgoing
from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.connection import ConnectionMachine, ConnectionState, DeliveryLimits
from runtime.core.delivery.events import Acked, Cause
from runtime.core.delivery.outgoing import SETTLED, TRANSITIONS, MessageState, Outgoing
from runtime.core.delivery.poison import LONE_LOSSES
from runtime.core.delivery.send_queue import NO_STREAM, StreamQueue
from runtime.core.delivery.transitions import IllegalTransition, Table
from tests.support.delivery_world import LIMITS, World

Ways = set[tuple[Any, Any]]


def ways(table: Table[Any]) -> Ways:
    return {(before, after) for before, following in table.items() for after in following}


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ways]:
    """Every change of state while the test runs, by the one method that makes them."""
    seen: Ways = set()
    for kind in (Outgoing, ConnectionMachine):

        def become(self: Any, state: Any, *now: float, original: Any = kind.become) -> None:
            before = self.state
            original(self, state, *now)
            seen.add((before, state))

        monkeypatch.setattr(kind, "become", become)
    yield seen
    assert seen <= ways(TRANSITIONS) | ways(connection.TRANSITIONS)


def lose_until(world: World, fact: Any) -> None:
    for _ in range(4 * LONE_LOSSES):
        world.close()
        world.connect()
        world.step()
        if fact():
            return
        world.receive()
        world.acknowledge()
        world.step()
        if fact():
            return
        world.pass_time(max(0.01, world.delivery.wait_s(world.now)))
    raise AssertionError("it never came to that")


def test_every_way_of_a_message_is_gone(gone: Ways) -> None:
    expired = World()
    expired.offer(Candidate(1, "s", expires_s=expired.now - 1))
    batches = World()
    for id, batch in enumerate("ABA", 1):
        batches.store(id, "s", batch=batch)
    pieces = World(window=1)
    pieces.store(1, "s", pieces=3)
    files = World()
    files.store(1, "s", file=True)
    files.step()
    files.delivery.upload_failed(1, "the blob is too large", files.now, 0.5, final=True)
    file = World()
    file.store(1, "s", file=True)
    shed = World()
    shed.store(1, "s")
    assert shed.delivery.shed(lambda message: True, "over_budget", shed.now) == 1
    for world in (expired, batches, pieces, files, file):
        world.settle_down()
    refused = World()
    refused.delivery.refuse(1, "too large", refused.now)
    outage = World()
    outage.store(1, "s")
    lose_until(outage, lambda: outage.wire)
    outage.lose()
    outage.settle_down()
    poison = World()
    poison.store(1, "s", poison=True)
    poison.store(2, "t")
    poison.settle_down()
    assert list(poison.quarantined) == [1]
    whole = World()
    whole.store(1, "s", poison=True)
    lose_until(whole, lambda: whole.delivery.suspects)
    whole.poison.clear()
    whole.settle_down()
    acquitted = World()
    acquitted.store(1, "s", poison=True, pieces=2)
    acquitted.store(2, "t", poison=True)
    lose_until(acquitted, lambda: len(acquitted.delivery.suspects) == 2)
    acquitted.poison.clear()
    acquitted.settle_down()
    assert sorted(acquitted.delivered) == [1, 2]
    assert gone & ways(TRANSITIONS) == ways(TRANSITIONS)


def test_every_way_of_the_connection_is_gone(gone: Ways) -> None:
    refused = World()
    refused.store(1, "s")
    refused.step()
    refused.lose(Cause.REFUSED)
    refused.settle_down()
    replaced = World()
    replaced.store(1, "s")
    lose_until(replaced, lambda: replaced.wire)
    replaced.delivery.set_credentials(2, replaced.now)
    replaced.step()
    replaced.lose()
    overdue = World()
    overdue.store(1, "s")
    lose_until(overdue, lambda: overdue.wire)
    overdue.pass_time(2 * LIMITS.ack_s)
    overdue.step()
    assert gone & ways(connection.TRANSITIONS) == ways(connection.TRANSITIONS)


def state_of(message: Outgoing) -> list[object]:
    return [getattr(message, field.name) for field in fields(message)]


@pytest.mark.parametrize(
    ("before", "after"), sorted(set(product(MessageState, repeat=2)) - ways(TRANSITIONS), key=str)
)
def test_any_other_way_of_a_message_raises_and_leaves_the_record_as_it_was(
    before: MessageState, after: MessageState
) -> None:
    message = Outgoing(Candidate(7, "s"), StreamQueue(), 1.0)
    message.state = before
    was = state_of(message)
    with pytest.raises(IllegalTransition, match=f"message 7 cannot go from {before.name} to {after.name}"):
        message.become(after, 2.0)
    assert state_of(message) == was


@pytest.mark.parametrize(
    ("before", "after"),
    sorted(set(product(ConnectionState, repeat=2)) - ways(connection.TRANSITIONS), key=str),
)
def test_any_other_way_of_the_connection_raises_and_leaves_it_as_it_was(
    before: ConnectionState, after: ConnectionState
) -> None:
    machine = ConnectionMachine(DeliveryLimits())
    machine.state = before
    with pytest.raises(IllegalTransition, match=f"cannot go from {before.name} to {after.name}"):
        machine.become(after)
    assert machine.state is before


def test_nothing_leads_out_of_a_settled_state() -> None:
    assert set(SETTLED) == {
        MessageState.ACKED,
        MessageState.SET_ASIDE,
        MessageState.EXPIRED,
        MessageState.SHED,
    }


def test_a_message_that_was_settled_is_neither_sent_nor_settled_again() -> None:
    """The queue holds it by some mistake of ours: the process ends rather than send it."""
    world = World()
    world.store(1, "s")
    message = world.delivery.queue.messages[1]
    lose_until(world, lambda: world.delivered)
    with pytest.raises(IllegalTransition):
        world.delivery.queue.pop(message, world.now)
    with pytest.raises(IllegalTransition):
        world.delivery.sender.convict([message], "times", world.now)


def test_a_message_that_is_on_its_way_is_not_set_aside_because_its_row_was_damaged_meanwhile() -> None:
    """It was reported as set aside, and then as delivered: the good copy in memory is what counts."""
    world = World()
    world.store(1, "s")
    lose_until(world, lambda: world.wire)
    world.delivery.refuse(1, "cannot be read", world.now)
    world.settle_down()
    assert (world.delivered, world.quarantined) == ([1], {})


def test_a_settled_message_keeps_nothing_of_its_stream_until_ingest_confirms_it() -> None:
    """A queue of each stream that was gone stayed in memory: 1.7 kB for each of 20,000 messages."""
    world = World(window=100)
    for id in range(1, 40):
        world.store(id, f"job-{id}")
    world.settle_down()
    assert len(world.delivery.settled) == 39
    assert all(message.stream is NO_STREAM for message in world.delivery.settled)
    assert not NO_STREAM.waiting and not NO_STREAM.messages


def test_only_become_changes_a_state() -> None:
    """The check would else be passed by."""
    assigned = [
        f"{path.name}: {line.strip()}"
        for path in Path(outgoing.__file__).parent.glob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\.state\s*(:[^=]*)?=[^=]", line)
    ]
    assert sorted(assigned) == [
        "connection.py: self.state = ConnectionState.DOWN",
        "connection.py: self.state = state",
        "outgoing.py: self.state = state",
    ]


def test_a_record_says_how_often_its_message_was_tried_and_since_when_it_is_as_it_is() -> None:
    world = World()
    world.store(1, "s")
    message = world.delivery.queue.messages[1]
    assert (message.attempts, message.since_s) == (0, world.now)
    world.pass_time(3)
    lose_until(world, lambda: world.wire)
    assert (message.state, message.attempts, message.since_s) == (MessageState.IN_FLIGHT, 1, world.now)
    world.lose()
    assert (message.state, message.attempts) == (MessageState.QUEUED, 1)
    lose_until(world, lambda: world.wire)
    assert message.attempts == 2
    world.receive()
    world.report(Acked(world.client, (1, 0)))
    assert message.state is MessageState.ACKED
