"""provisioning: turns the shared Provisioning Token into this device's Registration Token.

Each turn: read the facts, decide, call the platform if it is time, save, show. A call that a crash interrupts
is made again: `complete` answers as often as it is called.
"""

from __future__ import annotations

import contextlib
import random
from contextlib import closing

from loguru import logger

from runtime import wiring
from runtime.adapters.bus.sockets import IDENTITY_CHANGED, Hints
from runtime.adapters.identity import token_files
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.identity.platform_api import platform_client
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.config import Config
from runtime.core.identity import enrolment
from runtime.core.identity.enrolment import (
    Call,
    Enrolment,
    EnrolmentState,
    EnrolmentStep,
    Wish,
    host_of,
)
from runtime.core.identity.platform_answer import (
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
)
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.log_events import LogEvent
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman, Retryable
from runtime.workers.heartbeat import Heartbeat

NAME = "provisioning"
TURN_S = 2.0
"""Longest time for which a change on disk may go unnoticed."""

_LACKS: dict[token_files.MissingSecret | None, EnrolmentState] = {
    token_files.MissingSecret.UNREADABLE: EnrolmentState.TOKEN_UNREADABLE,
    token_files.MissingSecret.GARBLED: EnrolmentState.TOKEN_GARBLED,
}


def run(config: Config, stop: Stop) -> None:
    """Provision whenever there is no usable Registration Token, until asked to stop."""
    clock = SystemClock()
    heartbeat, watch = Heartbeat(config.layout, NAME, clock, stop), ConfigWatch(config, NAME, clock)
    with closing(Hints(config.layout, NAME, listen_to=("refresh",))) as hints:
        loop: ProvisioningLoop | None = None
        while not stop.requested():
            try:
                if watch.changed() or loop is None:
                    loop = ProvisioningLoop(watch.config, heartbeat, hints)
                hints.wait(min(loop.turn(), TURN_S), also=[stop])
            except (Retryable, NeedsHuman) as exc:
                loop = None  # opening the database again sets a damaged one aside
                heartbeat.wait_out(exc)


class ProvisioningLoop:
    """Connects the enrolment state machine with the platform and with the disk."""

    def __init__(self, config: Config, heartbeat: Heartbeat, hints: Hints) -> None:
        self._config = config
        self._hints = hints
        self._heart = heartbeat
        self._clock = SystemClock()
        self._store = IdentityStore(config.layout, wiring.vault(config.settings))
        self._code_file = config.layout.run / "verification-code"
        self._last_logged: tuple[object, ...] = ()
        self._policy = wiring.enrolment_policy(config.settings)

    def turn(self) -> float:
        """Do what is due now; return the seconds until something may be due again."""
        settings = self._config.settings
        if settings.identity.mode is not IdentityMode.PLATFORM:
            why = f"identity.mode is {settings.identity.mode}"
            self._show(Enrolment(), EnrolmentStep(EnrolmentState.NOT_NEEDED, None, why=why))
            return TURN_S
        source = token_files.token_source(wiring.provisioning_token(settings))
        made_by_hand = token_files.token_source(wiring.registration_token(settings))
        token, instance = source.secret, settings.platform.instance
        by_hand, wish = made_by_hand.secret, self._wish(source, made_by_hand)
        identity = self._store.read()
        if identity.locked:  # a new token could not be kept, and the stored one may be as good as ever
            self._show(identity.enrolment, EnrolmentStep(EnrolmentState.LOCKED, None, why=identity.locked))
            return TURN_S
        if instance is not None and identity.misplaced(wish.host):
            self._store.settle_lines(wish.host, read_moment(self._clock))
            identity = self._store.read()
        has_token = identity.has_token(wish.host)
        record = enrolment.settled(identity.enrolment, wish, has_token, identity.granted)
        if record != identity.enrolment and not self._store.save_enrolment(record, identity.enrolment):
            return 0.0  # refresh, or a command, changed it meanwhile: its token may be in force again
        step = enrolment.next_step(record, wish, has_token, read_moment(self._clock))
        self._show(record, step)
        if step.adopt and by_hand is not None:
            if self._keep(
                enrolment.adopted(wish, read_moment(self._clock)), PlatformResult(by_hand, None), record
            ):
                logger.info("the registration token made by hand is taken")
            return 0.0
        if step.call is None or step.in_s > 0:
            return step.in_s if step.call else TURN_S
        assert token is not None and instance is not None
        self._perform(step.call, record, token)
        return 0.0

    def _wish(self, source: token_files.SecretSource, by_hand: token_files.SecretSource) -> Wish:
        settings = self._config.settings
        marks = token_files.fingerprint(source.secret), token_files.fingerprint(by_hand.secret)
        lack = _LACKS.get(source.lack, EnrolmentState.TOKENLESS)
        details = source.where, lack, source.fault, by_hand.fault if by_hand.lack in _LACKS else ""
        instance = settings.platform.instance
        return Wish(str(instance) if instance else None, marks[0], settings.device.id, marks[1], *details)

    def _perform(self, call: Call, record: Enrolment, token: Secret) -> None:
        self._store.check_room()
        answer = self._ask(call, record, token)
        if answer.outcome is Outcome.ABANDONED:
            return
        now, draw = read_moment(self._clock), random.random()
        after = enrolment.after(record, call, answer, self._policy, now, draw)
        if isinstance(answer.value, PlatformResult):
            kept = self._keep(
                after, answer.value, record, host_of(str(self._config.settings.platform.instance))
            )
        else:
            kept = self._store.save_enrolment(after, record)
        if not kept:
            logger.info("{call}: the answer speaks of an enrolment that was forgotten", call=call.value)
        elif after.trouble:
            logger.bind(event=LogEvent.PROVISIONING_FAILED).warning(
                "{call}: {outcome}; again in {pause:.0f} s",
                call=call.value,
                outcome=after.trouble.value,
                pause=after.pause_s,
                reason=after.reason,
            )

    def _keep(
        self, record: Enrolment, grant: PlatformResult, before: Enrolment, host: str | None = None
    ) -> bool:
        """Save a Registration Token as a new token line; not where a command had `before` forgotten."""
        now, draw = read_moment(self._clock), random.random()
        kept = self._store.save_provisioned(record, grant, now, draw, before, host=host)
        if kept:
            self._hints.publish(IDENTITY_CHANGED)
        return kept

    def _ask(
        self, call: Call, record: Enrolment, token: Secret
    ) -> PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult]:
        route = wiring.platform_route(self._config.settings)
        platform = platform_client(route, self._heart.waiting, self._clock)
        if call is Call.INIT:
            return platform.init(token, self._config.settings.device.id)
        return platform.complete(token, record.operation_id or "")

    def _show(self, record: Enrolment, step: EnrolmentStep) -> None:
        """Show the state to operators: the status file, the file for a display, and the log on a change."""
        code = record.verification_code if step.state is EnrolmentState.PENDING else None
        figures = {
            "state": step.state.value,
            "trouble": record.trouble.value if record.trouble else None,
            "reason": step.why,
            "failures": record.failures,
            "verification_code": code,
            "next": step.call.value if step.call else None,
            "next_in_s": round(step.in_s, 1) if step.call else None,
        }
        shown = step.state, code, record.trouble, "" if step.call else step.why
        changed = shown != self._last_logged
        self._heart.publish(figures, now=changed)
        self._display(code)
        if not changed:
            return
        self._last_logged = shown
        if code:
            logger.bind(event=LogEvent.APPROVAL_AWAITED).warning(
                "waiting for approval: verification code {code}", code=code
            )
        else:
            logger.info("{state}", state=step.state.value, reason=step.why)

    def _display(self, code: str | None) -> None:
        """Write the file for a display on the device, again where another program deleted it."""
        with contextlib.suppress(OSError):  # no room on the disk, or no folder: at the next turn
            if code is None:
                self._code_file.unlink(missing_ok=True)
                return
            content = f"{code}\n".encode()  # as bytes: a damaged file may be no text
            if not self._code_file.exists() or self._code_file.read_bytes() != content:
                self._code_file.write_bytes(content)
