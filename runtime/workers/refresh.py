"""refresh: registers the device and keeps the SAS and the Registration Token fresh.

Each turn: read identity.db, decide, make at most one call to the platform, save the answer, send hints to the
other workers. A crash anywhere repeats the last call: a registration is requested again, and a refresh whose
answer was lost is requested with the parent token, which is kept until its child has proven itself.
"""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace

from loguru import logger

from runtime import wiring
from runtime.adapters.bus.sockets import IDENTITY_CHANGED, SAS_REFUSED, Hints
from runtime.adapters.identity import token_files
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.identity.platform_api import platform_client
from runtime.adapters.identity.registrars import ServerClock, certificate_left_s, registrar
from runtime.adapters.identity.values import IdentityRecord, Token
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.config import Config
from runtime.core.identity import enrolment, renewal
from runtime.core.identity.enrolment import Enrolment, host_of
from runtime.core.identity.escalation import AnswerVerdict, Evidence, Task, judge
from runtime.core.identity.platform_answer import Outcome, PlatformAnswer, PlatformResult, Registration
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.identity.renewal import (
    CredentialState,
    Life,
    Refusals,
    RegistrationState,
    RenewalStep,
    RetryPace,
)
from runtime.core.log_events import LogEvent
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman, Retryable
from runtime.workers.heartbeat import Heartbeat

NAME = "refresh"
TURN_S = 2.0
"""Longest time for which a change on disk may go unnoticed."""

STALE_REFUSAL_S = 2.0
"""A refusal that arrives so soon after a registration is about the SAS before it."""

STANDING = PlatformResult(Secret(""), None)
"""Stands for a Registration Token where the kind of identity needs none."""

SKEW_STEP_S = 2.0
"""Smaller changes of the skew are not written: the server's `Date` has whole seconds."""


def run(config: Config, stop: Stop) -> None:
    """Keep the device registered until asked to stop."""
    clock = SystemClock()
    heartbeat, watch = Heartbeat(config.layout, NAME, clock, stop), ConfigWatch(config, NAME, clock)
    with closing(Hints(config.layout, NAME, listen_to=("provisioning", "upload"))) as hints:
        loop: RefreshLoop | None = None
        hints_received: set[str] = set()
        while not stop.requested():
            try:
                if watch.changed() or loop is None:
                    loop = RefreshLoop(watch.config, heartbeat, hints, loop)
                wait_s = loop.turn(SAS_REFUSED in hints_received)
                hints_received = hints.wait(min(wait_s, TURN_S), also=[stop])
            except (Retryable, NeedsHuman) as exc:
                loop = None  # opening the database again sets a damaged one aside
                heartbeat.wait_out(exc)


class RefreshLoop:
    """Connects the renewal decisions with the platform and with the disk."""

    def __init__(
        self, config: Config, heartbeat: Heartbeat, hints: Hints, before: RefreshLoop | None = None
    ) -> None:
        """`before`: the loop's predecessor, under another configuration."""
        self._config = config
        self._hints = hints
        self._heart = heartbeat
        self._clock = SystemClock()
        self._store = IdentityStore(config.layout, wiring.vault(config.settings))
        self._registrar = registrar(wiring.registration_route(config.settings), heartbeat.waiting)
        self._refusals = Refusals()
        self._refused = False
        self._renewer: str | None = before._renewer if before else None
        """Fingerprint of the Provisioning Token at the last turn."""
        self._last_logged: tuple[object, ...] = ()
        self._policy = wiring.renewal_policy(config.settings)

    def turn(self, hub_refused: bool) -> float:
        """Do what is due now; return the seconds until something may be due again."""
        token = self._provisioning_token()
        now, missing = read_moment(self._clock), self._registrar.missing()
        identity = self._settled(self._read(), now, missing)
        if hub_refused:
            self._on_sas_refused(identity, now)
        held = self._held(identity, token, missing, now)
        step = renewal.next_step(held, self._policy, now)
        self._show(identity, held, step, now)
        if step.task is None or step.in_s > 0:
            return step.in_s
        self._perform(step.task, identity, held, token)
        return 0.0

    def _read(self) -> IdentityRecord:
        """The record on disk, every token sealed or in the clear as the settings have it."""
        identity = self._store.read()
        if identity.locked or all(token.as_wanted for token in identity.tokens):
            return identity
        self._store.rewrite()
        identity = self._store.read()
        logger.info(
            "the tokens at rest are written anew, {}", "sealed" if identity.sealed else "in the clear"
        )
        return identity

    def _settled(self, identity: IdentityRecord, now: Moment, missing: str | None) -> IdentityRecord:
        """`identity` under the basis of the configuration: another basis begins a fresh record."""
        if identity.locked:
            return identity
        basis = None if missing else self._registrar.basis()
        lost = identity.registration is None  # the stand-in for a token where the kind of identity needs none
        if basis is not None and (lost or identity.enrolment.basis != basis):
            adopted = identity.enrolment.adopted
            record = Enrolment(enrolment.EnrolmentState.PROVISIONED, basis, at=now, adopted=adopted)
            self._store.save_provisioned(record, STANDING, now, random.random())
        elif basis is None and missing is None and identity.misplaced(self._host()):
            self._store.settle_lines(self._host(), now)
        else:
            return identity
        return self._store.read()

    def _provisioning_token(self) -> Secret | None:
        """The token to refresh with; another one than before ends the pause that the old one caused."""
        if self._registrar.basis() is not None:
            return None
        token = token_files.token_at(wiring.provisioning_token(self._config.settings))
        mark = token_files.fingerprint(token)
        if self._renewer is not None and mark not in (None, self._renewer):
            for task in (Task.REFRESH, Task.REFRESH_PARENT):
                self._store.forget_failed(task)
        self._renewer = mark or self._renewer
        return token

    def _on_sas_refused(self, identity: IdentityRecord, now: Moment) -> None:
        sas = identity.sas
        age_s = now.since(sas.life.received) if sas else None
        if sas is None or (age_s is not None and age_s < STALE_REFUSAL_S):
            return
        if not self._refused:
            self._refused = True
            self._refusals = self._refusals.record(now, random.random(), self._policy)
            logger.bind(event=LogEvent.SAS_REFUSED).warning(
                "the hub refused the sas", times=self._refusals.count
            )

    def _held(
        self, identity: IdentityRecord, token: Secret | None, missing: str | None, now: Moment
    ) -> CredentialState:
        return replace(
            identity.held(now),
            hub_refused=self._refusals if self._refused else None,
            can_refresh=token is not None,
            missing=missing,
            former=self._former_token(identity) is not None,
        )

    def _host(self) -> str:
        return host_of(str(self._config.settings.platform.instance or ""))

    def _former_token(self, identity: IdentityRecord) -> Token | None:
        """The token of the line at rest that may be shown to the present platform."""
        former = identity.former
        by_token = self._config.settings.identity.mode is IdentityMode.PLATFORM
        return former if by_token and former is not None and former.is_for(self._host()) else None

    def _perform(
        self, task: Task, identity: IdentityRecord, held: CredentialState, token: Secret | None
    ) -> None:
        self._store.check_room()
        presented = self._presented_token(task, identity)
        assert presented is not None and presented.secret is not None  # nothing is due while it is locked
        answer: PlatformAnswer[Registration] | PlatformAnswer[PlatformResult]
        if task in (Task.REGISTER, Task.REGISTER_FORMER):
            answer = self._registrar.register(presented.secret, self._server_clock(identity))
        else:
            assert token is not None
            platform = platform_client(wiring.platform_route(self._config.settings), self._heart.waiting)
            answer = platform.refresh(token, presented.secret)
        if answer.outcome is Outcome.ABANDONED:
            return
        now = read_moment(self._clock)
        self._learn_skew(identity, answer, now)
        match judge(task, answer.outcome, self._evidence(task, identity, held, answer)):
            case AnswerVerdict.STORE:
                self._save(presented, answer, now)
            case AnswerVerdict.DROP:
                logger.bind(event=LogEvent.REGISTRATION_TOKEN_DEAD).warning(
                    "{task}: the registration token is dead", task=task.value, reason=answer.reason
                )
                self._store.drop_registration(presented.serial, now, whole=task is Task.REGISTER)
                self._hints.publish(IDENTITY_CHANGED)
            case verdict:
                pace = self._pace(task, identity, held.at_stake(task), answer, now)
                self._pause(task, presented, pace, verdict)

    def _server_clock(self, identity: IdentityRecord) -> ServerClock:
        """The clock to sign by: where a signature was refused, its skew has to be learnt again."""
        pace = (identity.paces or {}).get(Task.REGISTER)
        refused = pace is not None and pace.outcome is Outcome.UNAUTHORIZED
        return ServerClock(identity.skew(read_moment(self._clock)) or 0.0, self._refused or refused)

    def _presented_token(self, task: Task, identity: IdentityRecord) -> Token | None:
        if task is Task.REGISTER_FORMER:
            return self._former_token(identity)
        return identity.parent if task is Task.REFRESH_PARENT else identity.registration

    def _evidence(
        self,
        task: Task,
        identity: IdentityRecord,
        held: CredentialState,
        answer: PlatformAnswer[Registration] | PlatformAnswer[PlatformResult],
    ) -> Evidence:
        pace = held.paces.get(task, RetryPace())
        beside = self._former_token(identity)
        return Evidence(
            answer.own,
            pace.refusals + answer.outcome.refuses,
            identity.token_refused,
            beside is not None and not (held.proven or held.parent or identity.former_refused),
            held.can_refresh,
        )

    def _save(
        self,
        presented: Token,
        answer: PlatformAnswer[Registration] | PlatformAnswer[PlatformResult],
        now: Moment,
    ) -> None:
        draw, hold = random.random(), self._config.settings.identity.hold_backlog_on_identity_change
        match answer.value:
            case Registration(device_id=device, lifetime_s=lifetime_s) as new:
                host = self._host() if presented.secret else None
                if self._store.save_registered(presented.serial, new, now, draw, hold=hold, host=host):
                    self._refused = False
                    logger.info("registered as {device}", device=device, lifetime_s=lifetime_s)
            case PlatformResult() as grant:
                if self._store.save_refreshed(presented.serial, grant, now, draw):
                    logger.info("the registration token is renewed", lifetime_s=grant.lifetime_s)
        self._hints.publish(IDENTITY_CHANGED)

    def _pace(
        self,
        task: Task,
        identity: IdentityRecord,
        at_stake: Life | None,
        answer: PlatformAnswer[Registration] | PlatformAnswer[PlatformResult],
        now: Moment,
    ) -> RetryPace:
        pace, draw = (identity.paces or {}).get(task, RetryPace()), random.random()
        if task is Task.REGISTER_FORMER:
            pause_s = renewal.former_pause_s(pace.failures, draw, answer.retry_after_s)
        else:
            pause_s = renewal.retry_pause_s(
                at_stake, pace.failures, draw, self._policy, now, answer.retry_after_s
            )
        return pace.after(answer.outcome, answer.reason, pause_s, now, answer.retry_after_s)

    def _pause(self, task: Task, presented: Token, pace: RetryPace, verdict: AnswerVerdict) -> None:
        assert pace.outcome is not None
        refused, doubted = verdict is AnswerVerdict.REFUSED, verdict is AnswerVerdict.DOUBT
        if not self._store.save_failed(presented.serial, task, pace, refused=refused, doubted=doubted):
            logger.info("{task}: the answer speaks of a token that was replaced", task=task.value)
            return
        logger.bind(event=LogEvent.RENEWAL_FAILED).warning(
            "{task}: {outcome}; again in {pause:.0f} s",
            task=task.value,
            outcome=pace.outcome.value,
            pause=pace.pause_s,
            reason=pace.reason,
        )

    def _learn_skew(
        self,
        identity: IdentityRecord,
        answer: PlatformAnswer[Registration] | PlatformAnswer[PlatformResult],
        now: Moment,
    ) -> None:
        if answer.server_s is None:
            return
        skew_s = answer.server_s + 0.5 - now.wall_s  # a Date is cut off to whole seconds
        known_s = identity.skew(now)
        if known_s is None or abs(skew_s - known_s) >= SKEW_STEP_S:
            self._store.save_skew(round(skew_s, 1), now)

    def _show(self, identity: IdentityRecord, held: CredentialState, step: RenewalStep, now: Moment) -> None:
        """Show the state to operators: the status file, and the log on a change."""
        state = renewal.registration_state(held, now)
        fixed = renewal.fixed_credential(held.fixed_left_s, certificate_left_s(self._registrar, now))
        ends = fixed.sentence() if fixed else ""
        skew_s = identity.skew(now)
        clock = renewal.clock_warning(skew_s)
        trouble = next((pace for pace in held.paces.values() if pace.outcome), None)
        figures = {
            "state": state.value,
            "trouble": trouble.outcome.value if trouble and trouble.outcome else None,
            "reason": "; ".join(filter(None, (ends or _reason(state, step, held), clock))),
            "alarm": ends if fixed and fixed.left_s <= 0 else "",
            "device_id": identity.hub.device_id if identity.hub else None,
            "generation": identity.hub.generation if identity.hub else None,
            "sas_remaining_s": _whole(renewal.sas_left_s(held, now)),
            "registration_remaining_s": _whole(
                held.registration.remaining_s(now) if held.registration else None
            ),
            "next": step.task.value if step.task else None,
            "next_in_s": _whole(step.in_s),
            "skew_s": skew_s,
            "sealed": identity.sealed,
        }
        shown = state, figures["trouble"], bool(ends), bool(clock)
        changed = shown != self._last_logged
        self._heart.publish(figures, now=changed)
        if changed:
            self._last_logged = shown
            about = logger.bind(event=LogEvent.IDENTITY_STATE)
            log = about.warning if ends or clock else about.info
            log("{state}", state=state.value, reason=figures["reason"])


def _reason(state: RegistrationState, step: RenewalStep, held: CredentialState) -> str:
    failed = {task: pace for task, pace in held.paces.items() if pace.outcome}
    reasons = [
        f"{task.value}: {pace.reason}" if len(failed) > 1 else pace.reason for task, pace in failed.items()
    ]
    if any(
        pace.outcome is Outcome.UNAUTHORIZED
        for task, pace in failed.items()
        if task in (Task.REFRESH, Task.REFRESH_PARENT)
    ):
        reasons.append("the provisioning token is refused: put another one into its file")
    elif state is RegistrationState.REFUSED and not held.can_refresh:
        reasons.append(
            "no provisioning token renews it: put one, or another registration token, into its file"
        )
    if reasons:
        return "; ".join(reasons)
    if state is RegistrationState.ON_HOLD:
        return "`edgectl identity --accept` sends the backlog under the new device id"
    return "" if state is RegistrationState.REGISTERED else step.why


def _whole(seconds: float | None) -> int | None:
    """The whole seconds for a figure; None for never and for unknown."""
    return None if seconds is None or seconds == float("inf") else round(seconds)
