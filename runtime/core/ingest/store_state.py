"""Store state: whether messages.db is open, and if not, what is done about it and when.

Theory of operation: the worker reports what happened (an event), `next_state` returns the state that follows,
and the worker performs what that state asks for:

    Opening    the store is opened now
    Serving    requests are served
    Examining  the files are read block by block (`read_errors.py`): is it damage, or is the disk away?
    Salvaging  the readable rows are copied into a fresh store (`adapters/salvage/salvage.py`)
    Waiting    the store is opened again at `until_s`, or as soon as a salvage has the room that it lacked
    Newer      the same, later: a newer runtime wrote the store, and an operator must decide

`TRANSITIONS` lists every step that can happen. The state machine of `tests/unit/test_store_state.py` holds:

1. Only `StoreOpened` leads to Serving: nothing is served before the store was opened and checked.
2. Every other state has a reason for producers, and an end: none waits for an event that may never come.
3. A salvage that failed begins again, each time later, because it reads and writes the whole store; and at
   once where the disk has room that it did not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

TRY_OPEN_S = 1.0
TRY_NEWER_S = 10.0
SALVAGE_PAUSE_S = 60.0
"""Time after a salvage in which damage that the reader reports does not count: it may still read the old
file."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
MORE_SHARE = 10
"""New room of one part in so many of the store is worth another attempt at a salvage."""
INTERRUPTED = "a salvage was interrupted"


class FailureKind(StrEnum):
    """The kinds of failure, by what follows from them."""

    FULL = "full"
    UNAVAILABLE = "unavailable"
    UNREADABLE = "unreadable"
    """A page is damaged, or the disk does not give it back."""
    DAMAGED = "damaged"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class SalvageRetry:
    """The salvages that failed in a row."""

    pause_s: float = 0.0
    """Time to the next attempt; 0 where none failed."""
    enough_bytes: int | None = None
    """Free bytes with which the next attempt begins at once; None where the last one had room enough."""

    @property
    def lacks_room(self) -> bool:
        """True if the last salvage found no room on the disk."""
        return self.enough_bytes is not None

    def after(self, failed: Failed) -> SalvageRetry:
        """One more salvage has failed."""
        enough_bytes = None
        if failed.failure is FailureKind.FULL:
            enough_bytes = failed.left_bytes + max(1, failed.store_bytes // MORE_SHARE)
        return SalvageRetry(min(LONGEST_RETRY_S, max(FIRST_RETRY_S, 2 * self.pause_s)), enough_bytes)

    def has_room(self, left_bytes: int) -> bool:
        """True if there is more room than the last salvage found."""
        return self.enough_bytes is not None and left_bytes >= self.enough_bytes


@dataclass(frozen=True, slots=True)
class History:
    """The facts that are kept from state to state."""

    retry: SalvageRetry = SalvageRetry()
    lost_parts: tuple[str, ...] = ()
    """Parts of the files that the disk never gives back again."""
    salvaged_s: float = -math.inf
    """Time of the last completed salvage."""
    alarm: str | None = None
    """For an operator: the store lost messages, or cannot be salvaged."""


# --- states ---


@dataclass(frozen=True, slots=True)
class Opening:
    """The store is opened now."""

    why: str = "the store is not open yet"
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Serving:
    """Requests are served."""

    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Examining:
    """The files are read block by block; if they are sound, the store is opened from `until_s` on."""

    why: str
    until_s: float
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Salvaging:
    """The readable rows are copied into a fresh store; `why` goes into the report."""

    why: str
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The store cannot be used now; it is opened again at `until_s`."""

    why: str
    until_s: float
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True)
class Newer:
    """A newer runtime wrote the store: an operator must decide, and it is looked at again at `until_s`."""

    why: str
    until_s: float
    history: History = field(default_factory=History)


State = Opening | Serving | Examining | Salvaging | Waiting | Newer


# --- events ---


@dataclass(frozen=True, slots=True)
class StoreOpened:
    """The store is open; `alarm` says what an earlier salvage lost."""

    alarm: str | None = None


@dataclass(frozen=True, slots=True)
class SalvageFound:
    """A salvage was begun and not finished: there is no store, but a damaged one that was set aside."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The store, or the work on it, failed."""

    failure: FailureKind
    reason: str
    salvage_begun: bool = False
    """A salvage was begun and not finished."""
    probe_due: bool = True
    """Reading the files now would tell more than the last look at them (`read_errors.py`)."""
    left_bytes: int = 0
    """Free bytes on the disk."""
    store_bytes: int = 0
    """The size of the store's files."""


@dataclass(frozen=True, slots=True)
class ReaderFailed:
    """The reader in `upload` met damage, or could not read, where ingest did not look."""

    reason: str
    unreadable: bool
    probe_due: bool = True


@dataclass(frozen=True, slots=True)
class Examined:
    """The files were read to their end."""

    damaged: bool
    lost_parts: tuple[str, ...] = ()
    salvage_begun: bool = False


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The fresh store stands in its place."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""

    left_bytes: int = 0
    """Free bytes on the disk."""


Event = StoreOpened | SalvageFound | Failed | ReaderFailed | Examined | Salvaged | Ticked

TRANSITIONS: dict[tuple[type[State], type[Event]], tuple[type[State], ...]] = {
    (Opening, StoreOpened): (Serving,),
    (Opening, SalvageFound): (Salvaging,),
    (Opening, Failed): (Examining, Salvaging, Waiting, Newer),
    (Serving, Failed): (Serving, Examining, Salvaging, Waiting),
    (Serving, ReaderFailed): (Serving, Examining, Salvaging),
    (Examining, Examined): (Salvaging, Waiting),
    (Salvaging, Salvaged): (Opening,),
    (Salvaging, Failed): (Examining, Waiting, Newer),
    (Waiting, Ticked): (Waiting, Opening),
    (Newer, Ticked): (Newer, Opening),
}
"""The states that can follow, by state and event. An event that stands not here for a state is a bug."""


def next_state(state: State, event: Event, now_s: float) -> State:
    """The state that follows from an event at `now_s`, by the boot clock; `state` itself: nothing changes."""
    after = _next(state, event, now_s)
    assert type(after) in TRANSITIONS[type(state), type(event)], f"{state} by {event}: no way to {after}"
    return after


def _next(state: State, event: Event, now_s: float) -> State:
    match state, event:
        case Opening(), StoreOpened():
            return Serving(replace(state.history, alarm=event.alarm))
        case Opening(), SalvageFound():
            return Salvaging(INTERRUPTED, state.history)
        case Salvaging(), Salvaged():
            return Opening(state.why, History(salvaged_s=now_s))
        case Salvaging(), Failed():
            return _salvage_failed(state, event, now_s)
        case Opening() | Serving(), Failed():
            return _failed(state, event, now_s)
        case Serving(), ReaderFailed():
            return _reader_failed(state, event, now_s)
        case Examining(), Examined():
            return _examined(state, event, now_s)
        case Waiting() | Newer(), Ticked():
            over = now_s >= state.until_s or state.history.retry.has_room(event.left_bytes)
            return Opening(state.why, state.history) if over else state
    raise AssertionError(f"{state}: {event} cannot happen")


def _failed(state: Opening | Serving, failed: Failed, now_s: float) -> State:
    if failed.failure is FailureKind.FULL and isinstance(state, Serving):
        return state  # removals still find room, in the ballast
    if failed.failure is FailureKind.DAMAGED and not failed.salvage_begun:
        return Salvaging(failed.reason, state.history)
    return _closed(failed, state.history, now_s, TRY_OPEN_S)


def _salvage_failed(state: Salvaging, failed: Failed, now_s: float) -> State:
    history = replace(state.history, retry=state.history.retry.after(failed))
    if failed.failure is FailureKind.FULL:
        alarm = f"messages.db is damaged, and the disk has no room to salvage it ({failed.store_bytes} bytes)"
        failed, history = replace(failed, reason=alarm), replace(history, alarm=alarm)
    return _closed(failed, history, now_s, max(TRY_OPEN_S, history.retry.pause_s))


def _closed(failed: Failed, history: History, now_s: float, pause_s: float) -> State:
    if failed.failure is FailureKind.NEWER:
        return Newer(failed.reason, now_s + max(TRY_NEWER_S, pause_s), history)
    if failed.failure is FailureKind.UNREADABLE and failed.probe_due:
        return Examining(failed.reason, now_s + pause_s, history)
    return Waiting(failed.reason, now_s + pause_s, history)


def _reader_failed(state: Serving, failed: ReaderFailed, now_s: float) -> State:
    if failed.unreadable:
        if not failed.probe_due:
            return state
        return Examining(failed.reason, now_s + TRY_OPEN_S, state.history)
    if now_s - state.history.salvaged_s <= SALVAGE_PAUSE_S:
        return state
    return Salvaging(failed.reason, state.history)


def _examined(state: Examining, examined: Examined, now_s: float) -> State:
    if not examined.damaged:
        return Waiting(state.why, state.until_s, state.history)
    history = replace(state.history, lost_parts=examined.lost_parts)
    if examined.salvage_begun:
        return Waiting(state.why, now_s + TRY_OPEN_S, history)
    return Salvaging(state.why, history)
