"""How a device comes by its Registration Token: a state machine, event in, next record out. Pure.

    FRESH --init 200--> PENDING --complete 200--> PROVISIONED --token dead, or another wish--> FRESH
      ^  \\--400--> REJECTED (until the configuration changes)
      |  \\--401, 403--> TOKEN_REFUSED (backs off; a new Provisioning Token is taken at once)
      |                    PENDING --202--> PENDING (poll)
      +---- 410 expired ----/   \\--410 cancelled--> CANCELLED --long pause--> FRESH

A Registration Token made by hand is taken at once, without any call, where it is not the one taken last.
While it is in force nothing begins anew; once it is dead, the way above is open.

Everything else (423, 429, 5xx, time-outs, TLS, garbage) leaves the phase as it is and backs off; the record
names the trouble. The operation id is kept until its end is known, so a device that died between `complete`
and saving simply completes again. The token that is in force stays so while another one is sought.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from runtime.core import backoff
from runtime.core.answer import Answer, Grant, Operation, Outcome
from runtime.core.moment import Moment

REFUSED_PAUSE_S = 60.0
"""Shortest pause after the Provisioning Token was refused: it is dead until a person acts."""


NAMELESS_TIMES = 10
"""So many answers to `complete` in a row that have no name for us are taken for: no such operation."""

BY_HAND = "made by hand"
"""The basis of a device that lives on a Registration Token made by hand."""


class Phase(StrEnum):
    """Where the device's enrolment stands."""

    NOT_NEEDED = "not needed"
    UNCONFIGURED = "no platform configured"
    LOCKED = "tokens locked: no key opens them"
    TOKENLESS = "no provisioning token"
    TOKEN_UNREADABLE = "provisioning token unreadable"  # noqa: S105 - the name of a state
    TOKEN_GARBLED = "provisioning token garbled"  # noqa: S105 - the name of a state
    FRESH = "not begun"
    PENDING = "waiting for approval"
    CANCELLED = "cancelled by the operator"
    REJECTED = "rejected by the platform"
    TOKEN_REFUSED = "provisioning token refused"  # noqa: S105 - the name of a state
    PROVISIONED = "provisioned"


class Call(StrEnum):
    """What can be asked of the platform."""

    INIT = "init"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Wish:
    """What the configuration asks for."""

    instance: str | None
    token: str | None
    """The Provisioning Token's fingerprint."""
    device_id: str | None
    by_hand: str | None = None
    """The fingerprint of a Registration Token that an operator made."""
    source: str = ""
    """Where the Provisioning Token comes from: a path, or the name of a setting."""
    lack: Phase = Phase.TOKENLESS
    """Where there is no Provisioning Token: why."""
    lack_words: str = ""
    """The same for a person, with the path."""

    def basis(self) -> str:
        """One text for all of it: another basis means provisioning again."""
        return f"{self.instance} {self.device_id or '*'} {self.token or '-'}"


@dataclass(frozen=True)
class Policy:
    """The settings that matter here."""

    poll_s: float = 5.0
    retry_max_s: float = 300.0
    cancelled_pause_s: float = 3600.0


@dataclass(frozen=True)
class Enrolment:
    """The story so far; stored after every step."""

    phase: Phase = Phase.FRESH
    basis: str = ""
    operation_id: str | None = None
    verification_code: str | None = None
    trouble: Outcome | None = None
    reason: str = ""
    failures: int = 0
    at: Moment | None = None
    """When the last answer came."""
    pause_s: float = 0.0
    """Nothing is asked within so long of `at`."""
    adopted: str | None = None
    """The fingerprint of the Registration Token made by hand that was taken last: no token is taken twice."""


@dataclass(frozen=True)
class Step:
    """What to do now: a call in `in_s` seconds, or none until a fact changes."""

    phase: Phase
    call: Call | None
    in_s: float = 0.0
    why: str = ""
    adopt: bool = False
    """Take the Registration Token made by hand, which needs no call."""


def mark(text: str) -> float:
    """Tells one from another, as a number that can be kept among facts."""
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]))


def settled(record: Enrolment, wish: Wish, has_token: bool, granted: float | None = None) -> Enrolment:
    """`record` in the light of the facts: another wish or a dead Registration Token begin it anew.

    A wish without a token is no other wish: the token may be taken away once it has served. Nor is the one
    that the token in force was `granted` under (its `mark`), put back: nobody has to approve that again.
    """
    if record.basis == BY_HAND and has_token:
        return record
    if wish.instance is None or wish.token is None:
        return record
    if record.basis != wish.basis():
        if has_token and granted == mark(wish.basis()):
            return Enrolment(Phase.PROVISIONED, wish.basis(), adopted=record.adopted)
        return Enrolment(basis=wish.basis(), adopted=record.adopted)
    if record.phase is Phase.PROVISIONED and not has_token:
        return replace(record, phase=Phase.FRESH)
    return record


def next_step(record: Enrolment, wish: Wish, has_token: bool, now: Moment) -> Step:
    """What to ask next, and when. `record` is settled."""
    if wish.instance is None:
        return Step(Phase.UNCONFIGURED, None, why="platform.instance is not set")
    if wish.by_hand is not None and wish.by_hand != record.adopted:
        return Step(record.phase, None, why="there is a registration token made by hand", adopt=True)
    if has_token and (record.phase is Phase.PROVISIONED or wish.token is None):
        return Step(Phase.PROVISIONED, None)
    if wish.token is None:
        return Step(wish.lack, None, why=_lack(record, wish))
    if record.phase is Phase.REJECTED:
        return Step(record.phase, None, why=record.reason)
    call = Call.COMPLETE if record.operation_id else Call.INIT
    why = record.reason
    if record.phase is Phase.TOKEN_REFUSED:
        why = f"{why}: put another token into {wish.source or 'platform.provisioning_token_file'}"
    return Step(record.phase, call, _wait_s(record, now), why)


def _lack(record: Enrolment, wish: Wish) -> str:
    """What a person has to put where."""
    remedy = (
        "put one token, alone, into platform.provisioning_token_file or the credential provisioning-token"
    )
    if wish.lack_words:
        what = {Phase.TOKEN_UNREADABLE: "make it readable for the user of the service"}
        remedy = f"{wish.lack_words}: {what.get(wish.lack, 'put one provisioning token, alone, into it')}"
    if record.adopted:
        return f"the registration token made by hand is dead: replace it, or: {remedy}"
    return remedy


def adopted(wish: Wish, now: Moment) -> Enrolment:
    """The record once the Registration Token made by hand is stored."""
    return Enrolment(Phase.PROVISIONED, BY_HAND, at=now, adopted=wish.by_hand)


def _wait_s(record: Enrolment, now: Moment) -> float:
    if record.trouble is Outcome.WRONG_TIME and record.at and now.clock_set_since(record.at):
        return 0.0
    passed_s = now.since(record.at) if record.at else None
    return 0.0 if passed_s is None else max(0.0, record.pause_s - max(0.0, passed_s))


def after(
    record: Enrolment,
    call: Call,
    answer: Answer[Operation] | Answer[Grant],
    policy: Policy,
    now: Moment,
    draw: float,
) -> Enrolment:
    """The record after `call` was answered; `draw` is random in [0, 1)."""
    match answer.value:
        case Operation() as operation:
            return Enrolment(
                Phase.PENDING,
                record.basis,
                operation.id,
                operation.verification_code,
                at=now,
                pause_s=policy.poll_s,
                adopted=record.adopted,
            )
        case Grant():
            return Enrolment(Phase.PROVISIONED, record.basis, at=now, adopted=record.adopted)
        case _:
            return _after_refusal(record, call, answer, policy, now, draw)


def _after_refusal(
    record: Enrolment,
    call: Call,
    answer: Answer[Operation] | Answer[Grant],
    policy: Policy,
    now: Moment,
    draw: float,
) -> Enrolment:
    pause_s = backoff.pause_s(
        record.failures,
        draw,
        base_s=policy.poll_s,
        max_s=policy.retry_max_s,
        floor_s=min(policy.poll_s, 1.0),
        retry_after_s=answer.retry_after_s,
    )
    failed = replace(
        record,
        trouble=answer.outcome,
        reason=answer.reason,
        failures=record.failures + 1,
        at=now,
        pause_s=pause_s,
    )
    closed = replace(failed, phase=Phase.FRESH, operation_id=None, verification_code=None)
    match call, answer.outcome:
        case Call.COMPLETE, Outcome.NOT_YET:
            return replace(
                failed,
                phase=Phase.PENDING,
                trouble=None,
                reason="",
                failures=0,
                pause_s=max(policy.poll_s, answer.retry_after_s or 0),
            )
        case Call.COMPLETE, Outcome.CANCELLED:
            spread_s = policy.cancelled_pause_s * (1 + draw / 2)
            return replace(closed, phase=Phase.CANCELLED, pause_s=max(pause_s, spread_s))
        case Call.COMPLETE, Outcome.GONE | Outcome.BAD_REQUEST:
            return replace(closed, pause_s=max(pause_s, min(policy.poll_s, policy.retry_max_s)))
        case Call.COMPLETE, Outcome.UNEXPECTED if record.trouble is not answer.outcome:
            return replace(failed, phase=Phase.PENDING, failures=1)  # those before were of another kind
        case Call.COMPLETE, Outcome.UNEXPECTED if failed.failures >= NAMELESS_TIMES:
            return closed
        case Call.INIT, Outcome.BAD_REQUEST:
            return replace(closed, phase=Phase.REJECTED)
        case _, Outcome.UNAUTHORIZED | Outcome.FORBIDDEN:
            return replace(
                failed,
                phase=Phase.TOKEN_REFUSED,
                pause_s=max(pause_s, min(REFUSED_PAUSE_S, policy.retry_max_s)),
            )
        case _:
            return replace(failed, phase=Phase.PENDING if failed.operation_id else Phase.FRESH)
