"""Programs that wait for a change of the desired properties, or for the hub to have what they reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runtime.core.management.codes import ManagementCode
from runtime.core.management.replies import AnswerProgram, Kept, ManagementRefusal, Watched
from runtime.core.management.twin import value_at
from runtime.core.management.twin_record import TwinRecord
from runtime.core.management.twin_rules import Path
from runtime.core.management.waiting import LongPolls
from runtime.core.moment import Moment


@dataclass(frozen=True, slots=True)
class WatchAsked:
    """A program waits for a change of the desired properties at `path` after the change `after`."""

    asker: object
    path: Path
    after: int
    wait_s: float = 0.0
    poll: str = ""


@dataclass(frozen=True, slots=True)
class ConfirmationAsked:
    """A program waits until the hub has what was reported at `path` by the change `change`."""

    asker: object
    path: Path
    change: int | None
    wait_s: float = 0.0
    poll: str = ""


TwinPoll = WatchAsked | ConfirmationAsked
Watchers = LongPolls[TwinPoll]
Step = tuple[Watchers, list[AnswerProgram]]


def asked(watchers: Watchers, poll: TwinPoll, holder: str, record: TwinRecord, now: Moment) -> Step:
    """The watchers with one more, or the answer where it need not wait, or cannot."""
    if answer := _answer(record, poll):
        return watchers, [answer]
    if poll.wait_s <= 0.0:
        return watchers, [_over(record, poll)]
    more = watchers.plus(poll, holder, now)
    if more is None:
        words = "too many requests of this program, or of all, wait already"
        refusal = ManagementRefusal(ManagementCode.TOO_MANY_WAITING, words, retry_after_ms=1_000)
        return watchers, [AnswerProgram(poll.asker, refusal)]
    return more, []


def woken(watchers: Watchers, record: TwinRecord) -> Step:
    """The watchers after a change of the record, and the answers that it brings."""
    answers = [answer for poll in watchers.requests() if (answer := _answer(record, poll))]
    return _without(watchers, answers), answers


def ticked(watchers: Watchers, record: TwinRecord, now: Moment) -> Step:
    """The watchers without those whose time is over, and their answers."""
    watchers, over = watchers.over(now)
    return watchers, [_over(record, poll) for poll in over]


def _without(watchers: Watchers, answers: Iterable[AnswerProgram]) -> Watchers:
    askers = [
        answer.asker for answer in answers
    ]  # one program may wait twice: each request is one of its own
    left = tuple(one for one in watchers.waiters if not any(one.request.asker is asker for asker in askers))
    return replace(watchers, waiters=left) if askers else watchers


def _answer(record: TwinRecord, poll: TwinPoll) -> AnswerProgram | None:
    if isinstance(poll, ConfirmationAsked):
        if not record.confirms(poll.path):
            return None
        return AnswerProgram(poll.asker, Kept(poll.change, confirmed=True))
    change = record.desired_change(poll.path)
    if poll.after < change or poll.after > record.change:  # the number of another life of the database
        return AnswerProgram(poll.asker, Watched(change, value_at(record.desired, poll.path)))
    return None


def _over(record: TwinRecord, poll: TwinPoll) -> AnswerProgram:
    if isinstance(poll, ConfirmationAsked):
        return AnswerProgram(poll.asker, Kept(poll.change, confirmed=record.confirms(poll.path)))
    return AnswerProgram(poll.asker, Watched(record.desired_change(poll.path), unchanged=True))
