"""What becomes of a store that fails: every case of a disk, a file and a salvage, without any of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.core.ingest.store_state import (
    FIRST_RETRY_S,
    INTERRUPTED,
    LONGEST_RETRY_S,
    SALVAGE_PAUSE_S,
    TRANSITIONS,
    TRY_NEWER_S,
    TRY_OPEN_S,
    Event,
    Examined,
    Examining,
    Failed,
    FailureKind,
    History,
    Newer,
    Opening,
    ReaderFailed,
    Salvaged,
    SalvageFound,
    SalvageRetry,
    Salvaging,
    Serving,
    State,
    StoreOpened,
    Ticked,
    Waiting,
    next_state,
)

REASON = "for the test"
STATES: tuple[type[State], ...] = get_args(State)
EVENTS: tuple[type[Event], ...] = get_args(Event)
SERVING = Serving()


def failed(failure: FailureKind, **facts: bool) -> Failed:
    return Failed(failure, REASON, **facts, left_bytes=1_000, store_bytes=5_000)


def test_a_full_disk_closes_no_open_store_for_removals_make_room() -> None:
    assert next_state(SERVING, failed(FailureKind.FULL), 0.0) is SERVING


def test_a_store_that_cannot_be_opened_for_want_of_room_is_tried_again() -> None:
    assert next_state(Opening(), failed(FailureKind.FULL), 5.0) == Waiting(REASON, 5.0 + TRY_OPEN_S)


def test_a_dead_disk_is_tried_again_every_second_for_as_long_as_it_is_dead() -> None:
    state: State = SERVING
    for second in range(1_000):
        state = next_state(state, failed(FailureKind.UNAVAILABLE), float(second))
        assert state == Waiting(REASON, second + TRY_OPEN_S)
        assert next_state(state, Ticked(), second + 0.9) is state
        state = next_state(state, Ticked(), second + TRY_OPEN_S)
        assert isinstance(state, Opening)
    assert isinstance(next_state(state, StoreOpened(), 1_000.0), Serving)


def test_a_newer_schema_waits_for_an_operator_and_looks_again() -> None:
    state = next_state(Opening(), failed(FailureKind.NEWER), 0.0)
    assert state == Newer(REASON, TRY_NEWER_S)
    assert isinstance(next_state(state, Ticked(), TRY_NEWER_S), Opening)


def test_a_damaged_store_is_salvaged_and_opened_at_once() -> None:
    state = next_state(SERVING, failed(FailureKind.DAMAGED), 0.0)
    assert state == Salvaging(REASON)
    state = next_state(state, Salvaged(), 7.0)
    assert isinstance(state, Opening)
    assert next_state(state, StoreOpened("3 of 4 salvaged"), 7.0) == Serving(
        History(salvaged_s=7.0, alarm="3 of 4 salvaged")
    )


def test_a_page_that_cannot_be_read_is_looked_at_before_the_store_is_believed_damaged() -> None:
    state = next_state(SERVING, failed(FailureKind.UNREADABLE), 0.0)
    assert state == Examining(REASON, TRY_OPEN_S)
    assert next_state(state, Examined(damaged=False), 9.0) == Waiting(REASON, TRY_OPEN_S)
    gone = ("messages.db: blocks 3",)
    assert next_state(state, Examined(True, gone), 9.0) == Salvaging(REASON, History(lost_parts=gone))


def test_a_page_that_was_looked_at_just_now_is_not_looked_at_again() -> None:
    assert isinstance(next_state(SERVING, failed(FailureKind.UNREADABLE, probe_due=False), 0.0), Waiting)
    assert next_state(SERVING, ReaderFailed(REASON, unreadable=True, probe_due=False), 0.0) is SERVING


def test_a_salvage_that_was_interrupted_begins_again() -> None:
    assert next_state(Opening(), SalvageFound(), 0.0) == Salvaging(INTERRUPTED)


def test_damage_in_a_store_that_is_set_aside_already_begins_no_second_salvage_of_it() -> None:
    """It would be set aside over the first, with all that it holds."""
    assert isinstance(next_state(Opening(), failed(FailureKind.DAMAGED, salvage_begun=True), 0.0), Waiting)
    examining = Examining(REASON, 1.0)
    assert isinstance(next_state(examining, Examined(True, salvage_begun=True), 0.0), Waiting)


def test_a_reader_that_still_looks_at_the_old_file_takes_no_fresh_store_apart() -> None:
    fresh = Serving(History(salvaged_s=100.0))
    report = ReaderFailed(REASON, unreadable=False)
    assert next_state(fresh, report, 100.0 + SALVAGE_PAUSE_S) is fresh
    assert isinstance(next_state(fresh, report, 101.0 + SALVAGE_PAUSE_S), Salvaging)
    assert isinstance(next_state(SERVING, report, 0.0), Salvaging)


def test_a_salvage_that_fails_begins_again_each_time_later_and_no_later_than_the_longest_pause() -> None:
    state: State = Salvaging(REASON)
    pauses = []
    for _ in range(12):
        state = next_state(state, failed(FailureKind.UNAVAILABLE), 0.0)
        assert isinstance(state, Waiting)
        pauses.append(state.until_s)
        state = next_state(next_state(state, Ticked(), state.until_s), SalvageFound(), 0.0)
    assert pauses[:4] == [FIRST_RETRY_S, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_RETRY_S == max(pauses)
    assert next_state(state, Salvaged(), 0.0).history.retry == SalvageRetry()


def test_a_salvage_without_room_says_so_and_begins_as_soon_as_there_is_more() -> None:
    state = next_state(Salvaging(REASON), failed(FailureKind.FULL), 0.0)
    assert isinstance(state, Waiting)
    assert state.history.alarm == state.why
    assert "no room to salvage it (5000 bytes)" in state.why
    assert next_state(state, Ticked(left_bytes=1_499), 0.5) is state
    assert isinstance(next_state(state, Ticked(left_bytes=1_500), 0.5), Opening)


def test_a_salvage_that_meets_what_the_disk_does_not_give_back_has_the_files_looked_at() -> None:
    state = next_state(Salvaging(REASON), failed(FailureKind.UNREADABLE), 0.0)
    assert isinstance(state, Examining)
    assert isinstance(
        next_state(Salvaging(REASON), failed(FailureKind.UNREADABLE, probe_due=False), 0.0), Waiting
    )
    assert isinstance(next_state(Salvaging(REASON), failed(FailureKind.NEWER), 0.0), Newer)


def test_what_can_follow_is_listed_for_every_state_and_every_event_leads_somewhere() -> None:
    assert {state for state, _ in TRANSITIONS} == set(STATES)
    assert {event for _, event in TRANSITIONS} == set(EVENTS)
    assert {after for targets in TRANSITIONS.values() for after in targets} == set(STATES)


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(STATES, EVENTS) if pair not in TRANSITIONS],
)  # fmt: skip
def test_an_event_that_cannot_happen_is_a_bug_and_changes_nothing(
    state: type[State], event: type[Event]
) -> None:
    with pytest.raises(AssertionError, match="cannot happen"):
        next_state(an(state), an(event), 0.0)


def an(kind: type[Any]) -> Any:
    """One of this kind."""
    values = {"why": REASON, "until_s": 1.0, "failure": FailureKind.FULL, "reason": REASON,
              "unreadable": True, "damaged": False}  # fmt: skip
    return kind(**{name: values[name] for name in kind.__dataclass_fields__ if name in values})


# --- the machine in a world of its own ---


@dataclass
class World:
    """A disk with a store on it; performs what the worker performs."""

    alive: bool = True
    room: bool = True
    newer: bool = False
    damaged: bool = False
    unreadable: bool = False
    set_aside: bool = False
    """The damaged file is in `damaged/`, and none is in its place."""
    blocks_looked_at: int = 0

    def trouble(self) -> FailureKind | None:
        return None if self.alive else FailureKind.UNAVAILABLE

    def failed(self, failure: FailureKind) -> Failed:
        return Failed(failure, REASON, self.set_aside, True, 10_000 if self.room else 0, 50_000)

    def open(self) -> Event:
        if (trouble := self.trouble()) is not None:
            return self.failed(trouble)
        if self.set_aside:
            return SalvageFound()
        if self.newer or self.damaged or self.unreadable:
            kinds = (
                (self.newer, FailureKind.NEWER),
                (self.damaged, FailureKind.DAMAGED),
                (True, FailureKind.UNREADABLE),
            )
            return self.failed(next(kind for holds, kind in kinds if holds))
        return StoreOpened("salvaged once")

    def salvage(self, lost_parts: tuple[str, ...]) -> Iterator[Event | None]:
        """Every step may find the disk gone or full; the file is set aside first, and renamed last."""
        for step in range(4):
            if (trouble := self.trouble()) is not None:
                yield self.failed(trouble)
            if step == 1:
                self.set_aside = True
            if step == 2 and (not self.room or self.newer):
                yield self.failed(FailureKind.NEWER if self.newer else FailureKind.FULL)
            if step == 3 and self.unreadable and not lost_parts:
                yield self.failed(FailureKind.UNREADABLE)
            yield None
        self.set_aside = self.damaged = self.unreadable = False
        yield Salvaged()

    def look(self) -> Event:
        self.blocks_looked_at += 1
        lost = self.alive and self.unreadable and self.blocks_looked_at % 3 == 0
        return Examined(lost, (REASON,) if lost else (), self.set_aside)


class StoreInAWorld(RuleBasedStateMachine):
    """The worker, killed and started again at any step, over a disk that fails at any step."""

    def __init__(self) -> None:
        super().__init__()
        self.world, self.now_s = World(), 0.0
        self.state: State = Opening()
        self.salvage: Iterator[Event | None] = iter(())

    def apply(self, event: Event) -> None:
        before, self.state = self.state, next_state(self.state, event, self.now_s)
        if isinstance(self.state, Salvaging) and self.state is not before:
            self.salvage = self.world.salvage(self.state.history.lost_parts)

    @rule()
    def turn(self) -> None:
        """One turn of the worker."""
        match self.state:
            case Waiting() | Newer():
                self.apply(Ticked(10_000 if self.world.room else 0))
            case Salvaging():
                if (event := next(self.salvage)) is not None:
                    self.apply(event)
            case Examining():
                self.apply(self.world.look())
        if isinstance(self.state, Opening):
            self.apply(self.world.open())

    @rule(seconds=st.sampled_from((0.1, 1.0, 60.0, 400.0)))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.turn()

    @rule()
    def kill(self) -> None:
        """SIGKILL or a power cut: only the disk remembers."""
        self.state, self.salvage = Opening(), iter(())

    @rule(what=st.sampled_from(("alive", "room", "newer")), holds=st.booleans())
    def disk(self, what: str, holds: bool) -> None:
        setattr(self.world, what, holds)

    @rule(what=st.sampled_from(("damaged", "unreadable")))
    def damage(self, what: str) -> None:
        """A bit flips in an open store, and a request meets it."""
        if isinstance(self.state, Serving):
            setattr(self.world, what, True)
            self.apply(
                self.world.failed(FailureKind.DAMAGED if what == "damaged" else FailureKind.UNREADABLE)
            )

    @rule(unreadable=st.booleans())
    def reader(self, unreadable: bool) -> None:
        if isinstance(self.state, Serving):
            self.apply(ReaderFailed(REASON, unreadable))

    @rule(failure=st.sampled_from(FailureKind))
    def request(self, failure: FailureKind) -> None:
        if isinstance(self.state, Serving) and failure in (FailureKind.FULL, FailureKind.UNAVAILABLE):
            self.apply(self.world.failed(failure))

    @invariant()
    def serves_only_a_sound_store_in_its_place(self) -> None:
        world = self.world
        if isinstance(self.state, Serving):
            assert not (world.damaged or world.unreadable or world.set_aside)
        else:
            assert self.state.why

    @invariant()
    def no_wait_is_longer_than_the_longest(self) -> None:
        if isinstance(self.state, Waiting | Newer | Examining):
            assert self.state.until_s <= self.now_s + LONGEST_RETRY_S

    def teardown(self) -> None:
        """Whatever happened: on a sound disk it ends in Serving, and at a newer schema in Newer."""
        goal = Newer if self.world.newer and not isinstance(self.state, Serving) else Serving
        self.world.alive = self.world.room = True
        for _ in range(60):
            self.now_s += 60.0
            self.turn()
            if isinstance(self.state, goal):
                return
        raise AssertionError(f"an hour later: {self.state}, {self.world}")


TestStoreInAWorld = StoreInAWorld.TestCase
TestStoreInAWorld.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(st.lists(st.sampled_from(FailureKind), max_size=30))
def test_retries_are_bounded_whatever_fails(failures: list[FailureKind]) -> None:
    retry = SalvageRetry()
    for failure in failures:
        retry = retry.after(failed(failure))
        assert FIRST_RETRY_S <= retry.pause_s <= LONGEST_RETRY_S
        assert retry.lacks_room == (failure is FailureKind.FULL)
