"""What an answer of the platform means for the Registration Token it was asked with. Pure.

What holds:

1. One answer ends nothing that works. A token that still registers is given up by no answer to a refresh: it
   is asked for by registering first (DOUBT).
2. Only the service's own word (problem+json) counts at once. A refusal by a gateway, or by a status that the
   contract has no word for, counts after NAMELESS_TIMES in a row.
3. Weather (time-outs, 423, 429, 5xx, garbage) counts for nothing, however long it lasts.
4. There is no state without a way on: whatever refuses for ever leads to renewing the token, and from there
   to provisioning again. A line that is given up rests in identity.db, and is tried again now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runtime.core.identity.platform_answer import NAMELESS_TIMES, Outcome

HOPELESS_TIMES = 2 * NAMELESS_TIMES
"""So many refusals to register in a row, under tokens that were renewed meanwhile: renewing does not help."""


class Task(StrEnum):
    """What can be asked of the platform."""

    REGISTER = "register"
    REFRESH = "refresh"
    REFRESH_PARENT = "refresh with the parent token"
    REGISTER_FORMER = "register with the token that was refused"


class AnswerVerdict(StrEnum):
    """What an answer means for the token it was asked with."""

    STORE = "store what came"
    RETRY = "pause, then the same again"
    DOUBT = "register, to see whether the token lives"
    REFUSED = "renew the registration token now"
    DROP = "this registration token is dead: its parent, the line before it, or provisioning again"


@dataclass(frozen=True)
class Evidence:
    """What else is known when an answer comes."""

    own: bool = True
    """The service itself said so."""
    refusals: int = 1
    """Refusals of this task in a row, this one included."""
    refused: bool = False
    """Registering with the token was refused before."""
    replaceable: bool = False
    """The token never registered, and a line that did rests beside it."""
    renewable: bool = True
    """There is a Provisioning Token: another line can be had."""


_DEAD = frozenset({Outcome.UNAUTHORIZED, Outcome.GONE, Outcome.CANCELLED})
_OVER = frozenset({Outcome.GONE, Outcome.CANCELLED})
_LAST_HOPE = frozenset({Outcome.BAD_REQUEST, Outcome.FORBIDDEN, Outcome.PRECONDITION})


def refuses_token(outcome: Outcome | None) -> bool:
    """Whether registering was refused for the sake of the token: another one may do."""
    return outcome in _DEAD


def judge(task: Task, outcome: Outcome, evidence: Evidence | None = None) -> AnswerVerdict:
    """What `outcome` of `task` leads to. Whatever is not named is weather: a pause, then the same again."""
    seen = evidence or Evidence()
    if outcome.good:
        return AnswerVerdict.STORE
    if not outcome.refuses or task is Task.REGISTER_FORMER:
        return AnswerVerdict.RETRY
    return _register(outcome, seen) if task is Task.REGISTER else _refresh(task, outcome, seen)


def _register(outcome: Outcome, seen: Evidence) -> AnswerVerdict:
    dead = seen.own and outcome in _DEAD
    if seen.replaceable and (dead or seen.refusals >= NAMELESS_TIMES):
        return AnswerVerdict.DROP
    if seen.refused and seen.renewable and seen.refusals >= HOPELESS_TIMES:
        return AnswerVerdict.DROP
    return AnswerVerdict.REFUSED if dead or seen.refusals >= NAMELESS_TIMES else AnswerVerdict.RETRY


def _refresh(task: Task, outcome: Outcome, seen: Evidence) -> AnswerVerdict:
    """A 401 speaks of the Provisioning Token, not of the one in the body: that stays, at first."""
    hopeless = seen.refused or task is Task.REFRESH_PARENT
    over = seen.own and outcome in _OVER
    if not hopeless:
        return AnswerVerdict.DOUBT if over else AnswerVerdict.RETRY
    if over or (seen.own and outcome in _LAST_HOPE) or seen.refusals >= NAMELESS_TIMES:
        return AnswerVerdict.DROP
    return AnswerVerdict.RETRY
