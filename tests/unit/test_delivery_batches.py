"""Delivery: one batch at a time within a stream, whatever the producer interleaves."""

from __future__ import annotations

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.batches import LOOK_AHEAD, MOST_IDLE
from runtime.core.delivery.send_queue import SendQueue
from tests.support.delivery_world import LIMITS, World


def sent(world: World) -> list[int]:
    return [tag[0] for tag in world.sent]


def up(world: World) -> World:
    world.step()
    world.connect()
    world.step()
    return world


def test_a_batch_is_finished_before_the_next_one_of_its_stream_begins() -> None:
    world = World(window=100)
    for id, batch in enumerate("ABABA", 1):
        world.store(id, "s", batch=batch)
    world.store(6, "s", batch="A", completes_batch=True)
    world.store(7, "s", batch="B", completes_batch=True)
    world.store(8, "other", batch="B")
    up(world)
    assert [id for id in sent(world) if id != 8] == [1, 3, 5, 6, 2, 4, 7]
    assert 8 in sent(world)


def test_a_batch_that_is_never_completed_gives_way_and_what_comes_of_it_later_is_sent_too() -> None:
    world = World()
    world.store(1, "s", batch="A")
    world.store(2, "s", batch="B")
    up(world)
    assert sent(world) == [1]
    world.receive()
    world.acknowledge()
    world.step()
    assert 0 < world.delivery.wait_s(world.now) <= LIMITS.batch_s
    world.pass_time(world.delivery.wait_s(world.now))
    world.step()
    assert sent(world) == [1, 2]
    world.store(3, "s", batch="A")
    world.settle_down()
    assert world.delivered == [1, 2, 3]


def test_a_message_without_a_batch_goes_where_it_stands() -> None:
    world = World()
    for id, batch in enumerate(["A", None, "B", None, "A"], 1):
        world.store(id, "s", batch=batch)
    world.store(6, "s", batch="A", completes_batch=True)
    up(world)
    assert sent(world) == [1, 2, 5, 6, 3, 4]


def test_what_waits_behind_a_batch_is_bounded() -> None:
    world = World(window=10)
    world.store(1, "s", batch="A")
    for id in range(2, LOOK_AHEAD + 2):
        world.store(id, "s", batch="B")
    up(world)
    world.receive()
    world.acknowledge()
    world.step()
    assert sent(world)[:3] == [1, 2, 3], "there is no room to look for more of A: nobody waits for it"


def test_after_a_crash_the_batch_goes_on_that_the_hub_has_begun() -> None:
    """What the hub has of it is not in the store any more: there another batch stands first."""
    world = World()
    world.store(1, "s", batch="A")
    world.store(2, "s", batch="B")
    world.store(3, "s", batch="A")
    world.store(4, "s", batch="A", completes_batch=True)
    up(world)
    world.receive(1)
    world.acknowledge(1)
    world.step()
    world.confirm({1})
    world.crash()
    world.sent.clear()
    up(world)
    assert sent(world) == [3, 4, 2]


def test_many_batches_interleaved_go_out_one_by_one() -> None:
    """As many as fit: sorting them is no recursion."""
    world = World(window=10_000)
    names = [f"b{n}" for n in range(LOOK_AHEAD // 2)]
    for id, name in enumerate(names, 1):
        world.store(id, "s", batch=name)
    for id, name in enumerate(names, len(names) + 1):
        world.store(id, "s", batch=name, completes_batch=True)
    up(world)
    assert sent(world) == [id for n in range(1, len(names) + 1) for id in (n, n + len(names))]


def test_batches_of_streams_that_are_long_gone_are_forgotten() -> None:
    """Names of streams are given back: one for each job filled the memory, and a file on disk, for ever."""
    queue = SendQueue()
    for id in range(1, 3 * MOST_IDLE):
        queue.add(Candidate(id, f"job-{id}", batch="A"), 0.0)
        message = queue.messages[id]
        queue.acked(message, queue.pop(message, 0.0)[1], 0.0)
        queue.batches.delivered(message.candidate)
        queue.remove(message)
    batches = queue.batches
    assert len(batches.begun) <= MOST_IDLE and len(batches._under_way) <= MOST_IDLE
    assert batches.begun[f"job-{id}"] == "A", "those that sent something last are kept"


def test_what_an_earlier_life_has_begun_is_forgotten_like_the_rest() -> None:
    queue = SendQueue()
    queue.batches.resume({f"old-{n}": "A" for n in range(3 * MOST_IDLE)})
    assert len(queue.batches.begun) <= MOST_IDLE


def test_a_late_acknowledgement_of_a_completion_does_not_end_the_batch_behind_it() -> None:
    """After a crash another batch was sent in the midst of it."""
    queue = SendQueue()
    offers = [Candidate(1, "s", batch="A", completes_batch=True), Candidate(2, "s", batch="B")]
    for offer in offers:
        queue.add(offer, 0.0)
    completion, first = (queue.messages[offer.id] for offer in offers)
    for message in (completion, first):
        queue.pop(message, 0.0)
    for message in (first, completion):
        queue.acked(message, 0, 0.0)
        queue.batches.delivered(message.candidate)
    assert queue.batches.begun == {"s": "B"}


def test_a_batch_that_is_still_in_flight_does_not_give_way_so_that_a_crash_puts_the_next_one_first() -> None:
    world = World(window=100)
    for id, batch in enumerate("ABA", 1):
        world.store(id, "s", batch=batch)
    up(world)
    assert sent(world) == [1, 3]
    world.pass_time(LIMITS.batch_s + 1)
    world.step()
    world.pass_time(LIMITS.batch_s + 1)
    world.step()
    world.lose()
    world.crash()
    world.sent.clear()
    world.settle_down()
    assert sent(world) == [1, 3, 2]


def test_a_message_that_arrives_after_its_completion_begins_its_batch_no_second_time() -> None:
    """The hub acknowledged the completion first; the next run then waited for a batch that was whole."""
    batches = SendQueue().batches
    batches.delivered(Candidate(2, "s", batch="A", completes_batch=True))
    batches.delivered(Candidate(1, "s", batch="A"))
    assert batches.begun == {}
    batches.delivered(Candidate(3, "s", batch="A"))  # the producer takes the name once more
    assert batches.begun == {"s": "A"}


def test_a_batch_whose_first_message_was_shed_is_under_way_after_a_crash_once_a_later_one_was_sent() -> None:
    """The next batch stood before it in the store, and came in its midst."""
    world = World()
    for id, batch in ((1, "B"), (2, "C")):
        world.store(id, "s", batch=batch)
    world.delivery.shed(lambda message: message.candidate.id == 1, "over_budget", world.now)
    world.step()
    world.confirm({1})
    world.store(3, "s", batch="B")
    for turn in (world.connect, world.step, world.receive, world.crash, world.settle_down):
        turn()
    assert world.arrivals == [(3, 0), (3, 0), (2, 0)]
    world.check_batches()


def test_a_completion_that_was_sent_stays_before_the_next_batch_after_a_crash() -> None:
    world = World()
    world.store(1, "s", batch="A", completes_batch=True)
    world.store(2, "s", batch="B")
    for turn in (world.step, world.connect, world.step, world.crash, world.settle_down):
        turn()
    assert world.arrivals == [(1, 0), (2, 0)]
