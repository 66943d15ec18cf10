"""The room in the send queue: messages that may not go now never keep out those that may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.queue_room import IMPORTANT, STANDING, RoomMeter
from runtime.core.delivery.send_queue import FULL_BYTES, SendQueue
from runtime.core.ingest.quota import TOP_PRIORITY

URGENT = 6
FULL = 200
SIZE = FULL_BYTES // FULL
"""Of each message: so many fill the hand."""
AT_ONCE = 10
"""Taken between two looks at the hand."""


def about(messages: float) -> object:
    return pytest.approx(messages, abs=AT_ONCE)


class Given:
    """A hand in which all but the urgent is barred, or nothing."""

    def __init__(self, *, barred: bool) -> None:
        self.queue = SendQueue()
        self.barred = barred
        self.keeper = RoomMeter(self.queue, self.passes, lambda priority: priority >= URGENT)
        self.now = 0.0
        self.next_id = 1

    def passes(self, priority: int) -> bool:
        return not self.barred or priority >= URGENT

    def fill(self, priority: int, *, file: bool = False) -> int:
        """Messages of streams of their own, until there is no room for one more. How many."""
        before = self.next_id
        while True:
            self.now += 1.0
            room, important = self.keeper.look(self.now), self.keeper.is_important(priority)
            for _ in range(AT_ONCE):
                stands = file or not self.passes(priority)
                if room.full(stands=stands, important=important):
                    return self.next_id - before
                self.queue.add(
                    Candidate(self.next_id, f"s{self.next_id}", 1, SIZE, priority, file=file), self.now
                )
                room.took(SIZE, stands=stands, important=important)
                self.next_id += 1


def test_half_of_the_room_is_left_for_what_goes_however_much_stands() -> None:
    world = Given(barred=False)
    assert world.fill(4, file=True) == about(STANDING * FULL)
    assert world.fill(4) == about(FULL - STANDING * FULL)
    assert world.fill(TOP_PRIORITY) == about(IMPORTANT * FULL), "and this beyond"


def test_what_goes_may_fill_all_of_it_where_nothing_stands() -> None:
    world = Given(barred=False)
    assert world.fill(4) == about(FULL)
    assert world.fill(4, file=True) == about(STANDING * FULL), "some more"


def test_a_budget_that_is_used_up_leaves_room_for_the_urgent_also_in_a_full_hand() -> None:
    world = Given(barred=False)
    world.fill(4)
    world.barred = True
    assert world.fill(4) == 0
    assert world.fill(URGENT) >= STANDING * FULL - AT_ONCE


@given(st.lists(st.tuples(st.integers(0, TOP_PRIORITY), st.booleans()), max_size=6), st.booleans())
def test_whatever_fills_the_hand_an_urgent_message_finds_room_or_urgent_ones_are_there(
    filled: list[tuple[int, bool]], barred: bool
) -> None:
    world = Given(barred=barred)
    for priority, file in filled:
        world.fill(priority, file=file)
    going = sum(world.queue.by_priority[priority][0] for priority in range(URGENT, TOP_PRIORITY + 1))
    assert world.fill(TOP_PRIORITY) > 0 or going >= IMPORTANT * FULL - AT_ONCE
    assert len(world.queue.messages) <= 2 * FULL


def test_a_hand_with_little_in_it_is_not_measured() -> None:
    world = Given(barred=True)
    for id in range(1, FULL // 2):
        world.queue.add(Candidate(id, f"s{id}", 1, SIZE, 4), 0.0)
    room = world.keeper.look(1.0)
    assert room.going.messages == FULL // 2 - 1 and not room.full(stands=True, important=False)
