"""The read planner against a list: every message is read, in order within its stream, none hides another."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.read_planner import (
    ENOUGH,
    ENOUGH_BYTES,
    FEW,
    SPAN,
    Lane,
    LaneFill,
    Query,
    ReadPlanner,
)
from runtime.core.message import StreamName

Row = tuple[int, StreamName, bool]
"""Id, stream, whether it belongs to a batch."""


@cache
def stream(name: str) -> StreamName:
    return StreamName(None, name)


class Store:
    """Rows in a list, and what is in hand of them."""

    def __init__(self, reading: ReadPlanner | None = None) -> None:
        self.reading = reading or ReadPlanner()
        self.rows: list[Row] = []
        self.hand: dict[Lane, list[int]] = defaultdict(list)
        self.taken: dict[StreamName, list[int]] = defaultdict(list)
        self.untaken: Counter[StreamName] = Counter()
        self.known: set[int] = set()
        self.looked_at = 0
        self.read_rows = 0
        self.now = 0.0
        self.crowded = False
        self.slow = 1 << 40
        """Ids after which time ends a read."""

    def store(self, name: str, count: int = 1, *, batch: bool = False) -> None:
        first = len(self.rows) + 1
        self.rows += [(id, stream(name), batch) for id in range(first, first + count)]
        self.untaken[stream(name)] += count

    def level(self, lane: Lane) -> LaneFill:
        return LaneFill(len(self.hand[lane]), crowded=self.crowded)

    def read(self) -> bool:
        """One turn. Whether it asked for anything."""
        first = None
        for refused in (False, True):
            if query := self.reading.resume(self.level, self.now, refused=refused):
                self.answer(query)
                first = query
        stored = {name for name, count in self.untaken.items() if count}
        stored |= {name for (name, _), waiting in self.hand.items() if waiting}
        second = self.reading.advance(len(self.rows), stored)
        if second:
            self.answer(second)
        return bool(first or second)

    def answer(self, query: Query) -> None:
        rows = (
            row
            for row in islice(self.rows, query.after, min(query.up_to, query.after + self.slow))
            if (row[1] == query.only if query.only else row[1] not in query.without)
        )
        self.looked_at += query.up_to - query.after
        found = list(islice(rows, query.limit))
        self.read_rows += len(found)
        for id, name, batch in found:
            fresh = self.hand[name, True]
            last_fresh = fresh[-1] if fresh else None
            lane = self.reading.lane(query, id, name, in_parts=batch, last_fresh=last_fresh)
            level = self.level(lane)
            level.full = self.reading.waits(name, last_fresh)
            if self.reading.admit(query, id, name, level) and id not in self.known:
                assert not self.hand[lane] or self.hand[lane][-1] < id, "out of order within its lane"
                if not lane[1]:
                    assert not fresh or id < fresh[0], "it may overtake an older one that is fresh"
                self.known.add(id)
                self.untaken[name] -= 1
                self.hand[lane].append(id)
                self.taken[name].append(id)
        cut_short = next(rows, None) is not None
        reached = found[-1][0] if cut_short else query.after + min(self.slow, query.up_to - query.after)
        self.reading.done(query, reached)

    def send(self, count: int, name: str | None = None) -> None:
        for lane, waiting in self.hand.items():
            if name is None or lane[0] == stream(name):
                del waiting[:count]

    def drain(self, turns: int = 10_000) -> None:
        for _ in range(turns):
            asked = self.read()
            self.send(200)
            self.now += 10.0
            if not asked and len(self.known) == len(self.rows) and not any(self.hand.values()):
                return
        raise AssertionError(f"{len(self.rows) - len(self.known)} were never taken")

    def ids(self, name: str) -> list[int]:
        return [id for id, other, _ in self.rows if other == stream(name)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abcd"), st.integers(1, 400)), st.integers(0, 300), st.just("read")
        ),
        max_size=30,
    ),
    st.sampled_from([30, 1 << 40]),
)
def test_every_message_is_taken_once_and_in_the_order_of_its_stream(actions: list[object], slow: int) -> None:
    world = Store()
    world.slow = slow
    for action in actions:
        match action:
            case (str(name), int(count)):
                world.store(name, count)
            case int(count):
                world.send(count)
            case _:
                world.read()
    world.drain()
    for name in "abcd":
        assert world.taken[stream(name)] == world.ids(name)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 400), st.booleans()), max_size=12))
def test_draining_fresh_first_loses_nothing_either(chunks: list[tuple[str, int, bool]]) -> None:
    world = Store(ReadPlanner(lambda name: name == stream("a"), backlog_per_s=50))
    for name, count, read in chunks:
        world.store(name, count)
        if read:
            world.read()
    world.drain()
    assert sorted(world.taken[stream("a")]) == world.ids("a")
    assert world.taken[stream("b")] == world.ids("b")


def test_one_message_behind_a_deep_backlog_of_another_stream_is_found() -> None:
    world = Store()
    world.store("bulk", 3 * SPAN)
    world.store("alarm")
    for _ in range(10):
        world.read()
    assert world.taken[stream("alarm")] == [3 * SPAN + 1]
    assert len(world.hand[stream("bulk"), False]) <= ENOUGH


def test_a_single_stream_is_not_run_through_to_its_end_for_nothing() -> None:
    world = Store()
    world.store("only", 3 * SPAN)
    for _ in range(10):
        world.read()
    assert world.looked_at < 4 * SPAN, "the front looked at what nobody but the one behind has"
    assert world.reading.front == 3 * SPAN


def test_a_row_is_read_once_and_not_again_and_again_for_want_of_room() -> None:
    """Four rows were read and sealed for each one taken, which cost half of what upload may use of a core."""
    store = Store()
    for name in ("bulk", "other"):
        store.store(name, 5_000)
    while len(store.known) < len(store.rows):
        store.read()
        store.send(20)
    assert store.read_rows <= 1.2 * len(store.rows)


def test_no_more_bytes_of_a_stream_are_read_than_there_is_room_for() -> None:
    store = Store()
    store.store("bulk", 5_000)
    store.read()
    held = LaneFill(10, ENOUGH_BYTES // 4)
    query = store.reading.resume(lambda lane: held, 0.0)
    assert query and (query.limit, query.limit_bytes) == (ENOUGH - 10, ENOUGH_BYTES - ENOUGH_BYTES // 4)


def test_a_fresh_first_stream_sends_new_messages_before_its_backlog_and_that_at_a_limited_rate() -> None:
    world = Store(ReadPlanner(lambda name: True, backlog_per_s=10))
    world.store("s", 2000)
    world.read()
    world.read()
    world.send(1000)
    world.store("s", 5)
    world.now = 100.0
    world.read()
    assert world.hand[stream("s"), True] == [2001, 2002, 2003, 2004, 2005]
    assert len(world.hand[stream("s"), False]) <= 10


def test_a_stream_that_uses_batches_is_never_drained_fresh_first() -> None:
    world = Store(ReadPlanner(lambda name: True, backlog_per_s=10))
    world.store("s", 2000, batch=True)
    world.read()
    world.read()
    world.store("s", 5, batch=True)
    world.drain()
    assert world.taken[stream("s")] == world.ids("s")


def test_what_comes_behind_a_page_that_the_store_dropped_meanwhile_is_still_found() -> None:
    """Sizes are read before rows: between them the oldest may have made room for others."""
    reading = ReadPlanner()
    query = reading.advance(2000, {stream("s")})
    assert query is not None
    reading.done(query, 0)
    again = reading.advance(2000, {stream("s")})
    assert again is not None and again.after == 0, "messages 501 to 2000 were passed over"


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 400)), max_size=30))
def test_a_crowded_hand_takes_something_of_everybody_and_a_little_of_each(
    stored: list[tuple[str, int]],
) -> None:
    world = Store()
    world.crowded = True
    for name, count in stored:
        world.store(name, count)
    for _ in range(20):
        world.read()
    for name in {name for name, _ in stored}:
        assert 1 <= len(world.hand[stream(name), False]) <= FEW
    world.crowded = False
    world.drain()
    for name in "abcdefgh":
        assert world.taken[stream(name)] == world.ids(name)
