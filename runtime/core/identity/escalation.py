"""Escalation: the consequence of a platform's answer for the Registration Token of the call. Pure.

Invariants:

1. One answer ends nothing that works. A token that still registers is given up by no answer to a refresh: it
   is asked for by registering first (DOUBT).
2. Only the service's own answer (problem+json) counts at once. A refusal by a gateway, or by a status that
   the contract does not name, counts after NAMELESS_TIMES in a row.
3. Transient failures (time-outs, 423, 429, 5xx, garbage) count for nothing, however long they last.
4. No state is a dead end: a refusal that never ends leads to renewing the token, and from there to
   provisioning again. A token line that is given up rests in identity.db, and is tried again now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runtime.core.identity.platform_answer import NAMELESS_TIMES, Outcome

HOPELESS_TIMES = 2 * NAMELESS_TIMES
"""After so many refusals to register in a row, under tokens renewed meanwhile, renewing does not help."""


class Task(StrEnum):
    """The tasks that the platform is asked to do."""

    REGISTER = "register"
    REFRESH = "refresh"
    REFRESH_PARENT = "refresh with the parent token"
    REGISTER_FORMER = "register with the token that was refused"


class AnswerVerdict(StrEnum):
    """The consequence of an answer for the token of the call."""

    STORE = "store what came"
    RETRY = "pause, then the same again"
    DOUBT = "register, to see whether the token lives"
    REFUSED = "renew the registration token now"
    DROP = "this registration token is dead: its parent, the line before it, or provisioning again"


@dataclass(frozen=True)
class Evidence:
    """The facts that an answer is judged by, besides its outcome."""

    own: bool = True
    """The service itself gave the answer."""
    refusals: int = 1
    """Refusals of this task in a row, this one included."""
    refused: bool = False
    """Registering with the token was refused before."""
    replaceable: bool = False
    """The token never registered, and a token line that did rests beside it."""
    renewable: bool = True
    """There is a Provisioning Token: another token line can be obtained."""


_DEAD = frozenset({Outcome.UNAUTHORIZED, Outcome.GONE, Outcome.CANCELLED})
_OVER = frozenset({Outcome.GONE, Outcome.CANCELLED})
_LAST_HOPE = frozenset({Outcome.BAD_REQUEST, Outcome.FORBIDDEN, Outcome.PRECONDITION})


def refuses_token(outcome: Outcome | None) -> bool:
    """True if registering was refused because of the token: another one may succeed."""
    return outcome in _DEAD


def judge(task: Task, outcome: Outcome, evidence: Evidence | None = None) -> AnswerVerdict:
    """The verdict on `outcome` of `task`. One that is not named is transient: a pause, then a retry."""
    given = evidence or Evidence()
    if outcome.good:
        return AnswerVerdict.STORE
    if not outcome.refuses or task is Task.REGISTER_FORMER:
        return AnswerVerdict.RETRY
    return _register(outcome, given) if task is Task.REGISTER else _refresh(task, outcome, given)


def _register(outcome: Outcome, evidence: Evidence) -> AnswerVerdict:
    dead = evidence.own and outcome in _DEAD
    if evidence.replaceable and (dead or evidence.refusals >= NAMELESS_TIMES):
        return AnswerVerdict.DROP
    if evidence.refused and evidence.renewable and evidence.refusals >= HOPELESS_TIMES:
        return AnswerVerdict.DROP
    return AnswerVerdict.REFUSED if dead or evidence.refusals >= NAMELESS_TIMES else AnswerVerdict.RETRY


def _refresh(task: Task, outcome: Outcome, evidence: Evidence) -> AnswerVerdict:
    """Judge a refresh. A 401 is about the Provisioning Token; the one in the body stays, at first."""
    hopeless = evidence.refused or task is Task.REFRESH_PARENT
    over = evidence.own and outcome in _OVER
    if not hopeless:
        return AnswerVerdict.DOUBT if over else AnswerVerdict.RETRY
    if over or (evidence.own and outcome in _LAST_HOPE) or evidence.refusals >= NAMELESS_TIMES:
        return AnswerVerdict.DROP
    return AnswerVerdict.RETRY
