"""Enrolment: how a device gets its Registration Token. A state machine: event in, next record out. Pure.

    FRESH --init 200--> PENDING --complete 200--> PROVISIONED --token dead, or another wish--> FRESH
      ^  \\--400--> REJECTED (asked again after pauses that grow to an hour)
      |  \\--401, 403--> TOKEN_REFUSED (backs off; a new Provisioning Token is taken at once)
      |                    PENDING --202--> PENDING (poll)
      +---- 410 expired ----/   \\--410 cancelled--> CANCELLED --long pause--> FRESH

A Registration Token made by hand is taken at once, without any call, where it is not the one taken last.
While it is in force no operation begins; once it is dead, the transitions above apply again.

Everything else (423, 429, 5xx, time-outs, TLS, garbage) leaves the state as it is and backs off; the record
names the trouble. The operation id is kept until its end is known, so a device that died between `complete`
and saving simply completes again. The token in force stays in force while another one is requested.

Only the platform's own answer (problem+json) ends an operation at once. A gateway's answer, or a status
without a name here, ends it after NAMELESS_TIMES in a row: no state is a dead end. Operations that bring no
registration are begun ever more seldom, whatever ends them. Another Provisioning Token alone is another
means, not another wish: a registered device keeps its identity when a shared token is rotated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from runtime.core import backoff
from runtime.core.identity.platform_answer import (
    NAMELESS_TIMES,
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
)
from runtime.core.moment import Moment

REFUSED_PAUSE_S = 60.0
"""Shortest pause after the Provisioning Token was refused: it is dead until an operator acts."""


BY_HAND = "made by hand"
"""The basis of a device that lives on a Registration Token made by hand."""

REFUSED_BY_HAND = "the registration token made by hand was refused: the one before it is in force again"


class EnrolmentState(StrEnum):
    """The state of the device's enrolment."""

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
    """The calls that the platform answers."""

    INIT = "init"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Wish:
    """The identity that the configuration asks for."""

    instance: str | None
    token: str | None
    """The Provisioning Token's fingerprint."""
    device_id: str | None
    by_hand: str | None = None
    """The fingerprint of a Registration Token that an operator made."""
    source: str = ""
    """The source of the Provisioning Token: a path, or the name of a setting."""
    lack: EnrolmentState = EnrolmentState.TOKENLESS
    """The reason why there is no Provisioning Token, where there is none."""
    lack_words: str = ""
    """The same in words for an operator, with the path."""
    by_hand_words: str = ""
    """The fault of the file of a Registration Token made by hand, where the file holds none."""

    def basis(self) -> str:
        """The whole wish as one text, by which a record tells what it was made for."""
        return f"{self.instance} {self.device_id or '*'} {self.token or '-'}"

    @property
    def host(self) -> str:
        """The platform's name: a token is valid at the platform that granted it."""
        return host_of(self.instance or "")


def host_of(instance: str) -> str:
    """One name for `HOST` and `HOST:443`, however written."""
    return instance.lower().removesuffix(":443")


def aim(basis: str) -> tuple[str, ...]:
    """The goal of a basis, without the means: platform and device id."""
    if basis == BY_HAND:
        return (BY_HAND,)
    instance, *rest = basis.split(" ")
    return (host_of(instance), *rest[:1])


@dataclass(frozen=True)
class EnrolmentPolicy:
    """The settings that enrolment depends on."""

    poll_s: float = 5.0
    retry_max_s: float = 300.0
    cancelled_pause_s: float = 3600.0


@dataclass(frozen=True)
class Enrolment:
    """The record of an enrolment so far; stored after every step."""

    state: EnrolmentState = EnrolmentState.FRESH
    basis: str = ""
    operation_id: str | None = None
    verification_code: str | None = None
    trouble: Outcome | None = None
    reason: str = ""
    failures: int = 0
    at: Moment | None = None
    """The time of the last answer."""
    pause_s: float = 0.0
    """No call is made within so long of `at`."""
    adopted: str | None = None
    """The fingerprint of the last Registration Token made by hand that was taken: none is taken twice."""
    begun: int = 0
    """Operations begun since the device last registered."""
    refusals: int = 0
    """Refusals in a row, none of which ended the operation by itself."""


@dataclass(frozen=True)
class EnrolmentStep:
    """The next action: a call in `in_s` seconds, or none until a fact changes."""

    state: EnrolmentState
    call: Call | None
    in_s: float = 0.0
    why: str = ""
    adopt: bool = False
    """Take the Registration Token made by hand, which needs no call."""


def settled(record: Enrolment, wish: Wish, has_token: bool, granted: str | None = None) -> Enrolment:
    """`record` in the light of the facts: another wish or a dead Registration Token begin a fresh record.

    A wish without a token is no other wish: the token may be taken away once it has served. Nor is another
    token for the same platform and device id, nor the wish that the token in force was `granted` under, put
    back: no operator has to approve that again.
    """
    if record.basis == BY_HAND and has_token:
        return record
    if wish.instance is None or wish.token is None:
        return record
    if has_token and granted == BY_HAND:
        return Enrolment(EnrolmentState.PROVISIONED, BY_HAND, adopted=record.adopted)
    if record.basis == wish.basis():
        dead = record.state is EnrolmentState.PROVISIONED and not has_token
        return replace(record, state=EnrolmentState.FRESH) if dead else record
    if has_token and _serves(record, wish, granted):
        return Enrolment(EnrolmentState.PROVISIONED, wish.basis(), adopted=record.adopted)
    return Enrolment(basis=wish.basis(), adopted=record.adopted)


def _serves(record: Enrolment, wish: Wish, granted: str | None) -> bool:
    """True if the token in force is the one that is wished for."""
    if granted is None:  # it was kept by a runtime that did not say
        granted = record.basis if record.state is EnrolmentState.PROVISIONED else ""
    return aim(granted) == aim(wish.basis())


def restored(record: Enrolment, basis: str) -> Enrolment:
    """The record once the token line that was granted for `basis` is in force again."""
    if record.basis == BY_HAND:
        return Enrolment(EnrolmentState.PROVISIONED, basis, reason=REFUSED_BY_HAND, adopted=record.adopted)
    if basis == BY_HAND:
        return Enrolment(EnrolmentState.PROVISIONED, basis, adopted=record.adopted)
    if aim(record.basis) == aim(basis):
        return Enrolment(EnrolmentState.PROVISIONED, record.basis, adopted=record.adopted)
    # another wish is not given up: it is asked for again, after the pause that it earned
    return (
        replace(record, state=EnrolmentState.FRESH) if record.state is EnrolmentState.PROVISIONED else record
    )


def next_step(record: Enrolment, wish: Wish, has_token: bool, now: Moment) -> EnrolmentStep:
    """The next call, and the time of it. `record` is settled."""
    if wish.instance is None:
        return EnrolmentStep(EnrolmentState.UNCONFIGURED, None, why="platform.instance is not set")
    if wish.by_hand is not None and wish.by_hand != record.adopted:
        return EnrolmentStep(record.state, None, why="there is a registration token made by hand", adopt=True)
    if has_token and (record.state is EnrolmentState.PROVISIONED or wish.token is None):
        return EnrolmentStep(
            EnrolmentState.PROVISIONED,
            None,
            why=record.reason if record.state is EnrolmentState.PROVISIONED else "",
        )
    if wish.token is None:
        return EnrolmentStep(wish.lack, None, why=_lack(record, wish))
    call = Call.COMPLETE if record.operation_id else Call.INIT
    why = record.reason
    if record.state is EnrolmentState.TOKEN_REFUSED:
        why = f"{why}: put another token into {wish.source or 'platform.provisioning_token_file'}"
    return EnrolmentStep(record.state, call, _wait_s(record, now), why)


def _lack(record: Enrolment, wish: Wish) -> str:
    """The file or setting that an operator has to supply, in words."""
    remedy = (
        "put one token, alone, into platform.provisioning_token_file or the credential provisioning-token"
    )
    if wish.lack_words:
        what = {EnrolmentState.TOKEN_UNREADABLE: "make it readable for the user of the service"}
        remedy = f"{wish.lack_words}: {what.get(wish.lack, 'put one provisioning token, alone, into it')}"
    if wish.by_hand_words:
        return f"{wish.by_hand_words}: put a registration token, alone, into it; or: {remedy}"
    if record.adopted:
        return f"the registration token made by hand is spent: replace it, or: {remedy}"
    return remedy


def adopted(wish: Wish, now: Moment) -> Enrolment:
    """The record once the Registration Token made by hand is stored."""
    return Enrolment(EnrolmentState.PROVISIONED, BY_HAND, at=now, adopted=wish.by_hand)


def _wait_s(record: Enrolment, now: Moment) -> float:
    if record.trouble is Outcome.WRONG_TIME and record.at and now.clock_set_since(record.at):
        return 0.0
    passed_s = now.since(record.at) if record.at else None
    return 0.0 if passed_s is None else max(0.0, record.pause_s - max(0.0, passed_s))


def after(
    record: Enrolment,
    call: Call,
    answer: PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult],
    policy: EnrolmentPolicy,
    now: Moment,
    draw: float,
) -> Enrolment:
    """The record after `call` was answered; `draw` is random in [0, 1)."""
    match answer.value:
        case ProvisioningOperation() as operation:
            return Enrolment(
                EnrolmentState.PENDING,
                record.basis,
                operation.id,
                operation.verification_code,
                at=now,
                pause_s=policy.poll_s,
                adopted=record.adopted,
                begun=record.begun + 1,
            )
        case PlatformResult():
            # the pause counts where the token is dead on arrival
            return Enrolment(
                EnrolmentState.PROVISIONED,
                record.basis,
                at=now,
                pause_s=_between_operations_s(record.begun, policy, draw),
                adopted=record.adopted,
                begun=record.begun,
            )
        case _:
            return _after_refusal(record, call, answer, policy, now, draw)


def _between_operations_s(begun: int, policy: EnrolmentPolicy, draw: float) -> float:
    """Pause between the end of an operation and the next: each may cost an operator's time."""
    return _spread_s(begun, policy.poll_s, policy.retry_max_s, draw)


def _spread_s(doublings: int, first_s: float, longest_s: float, draw: float) -> float:
    """Exponential with equal jitter: never less than half, where full jitter might be nothing."""
    ceiling_s = min(longest_s, first_s * 2.0 ** min(doublings, 64))
    return ceiling_s * (1 + draw) / 2


def _after_refusal(
    record: Enrolment,
    call: Call,
    answer: PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult],
    policy: EnrolmentPolicy,
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
        refusals=record.refusals + answer.outcome.refuses,
        at=now,
        pause_s=pause_s,
    )
    if call is Call.INIT:
        return _after_init(failed, answer, policy, draw)
    return _after_complete(failed, answer, policy, draw)


def _after_init(
    failed: Enrolment,
    answer: PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult],
    policy: EnrolmentPolicy,
    draw: float,
) -> Enrolment:
    match answer.outcome:
        case Outcome.BAD_REQUEST if answer.own:
            longest_s = policy.cancelled_pause_s
            rejected_s = _spread_s(failed.refusals, min(REFUSED_PAUSE_S, longest_s), longest_s, draw)
            return replace(failed, state=EnrolmentState.REJECTED, pause_s=max(failed.pause_s, rejected_s))
        case outcome if _token_refused(outcome, own=answer.own):
            return _with_token_refused(failed, policy)
        case _:
            return replace(failed, state=EnrolmentState.FRESH)


def _after_complete(
    failed: Enrolment,
    answer: PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult],
    policy: EnrolmentPolicy,
    draw: float,
) -> Enrolment:
    closed = replace(
        failed,
        state=EnrolmentState.FRESH,
        operation_id=None,
        verification_code=None,
        refusals=0,
        pause_s=max(failed.pause_s, _between_operations_s(failed.begun, policy, draw)),
    )
    match answer.outcome:
        case Outcome.NOT_YET:
            return replace(
                failed,
                state=EnrolmentState.PENDING,
                trouble=None,
                reason="",
                failures=0,
                refusals=0,
                pause_s=max(policy.poll_s, min(answer.retry_after_s or 0.0, backoff.LONGEST_RETRY_AFTER_S)),
            )
        case Outcome.CANCELLED if answer.own:
            spread_s = policy.cancelled_pause_s * (1 + draw / 2)
            return replace(closed, state=EnrolmentState.CANCELLED, pause_s=max(closed.pause_s, spread_s))
        case Outcome.GONE if answer.own:
            return closed
        case outcome:
            ended = closed if failed.refusals >= NAMELESS_TIMES and outcome.refuses else failed
            if _token_refused(outcome, own=answer.own):
                return _with_token_refused(ended, policy)
            return replace(
                ended, state=EnrolmentState.PENDING if ended.operation_id else EnrolmentState.FRESH
            )


def _token_refused(outcome: Outcome, *, own: bool) -> bool:
    """True if it was the Provisioning Token that was refused. A 403 is as often a firewall's page."""
    return outcome is Outcome.UNAUTHORIZED or (outcome is Outcome.FORBIDDEN and own)


def _with_token_refused(record: Enrolment, policy: EnrolmentPolicy) -> Enrolment:
    pause_s = max(record.pause_s, min(REFUSED_PAUSE_S, policy.retry_max_s))
    return replace(record, state=EnrolmentState.TOKEN_REFUSED, pause_s=pause_s)
