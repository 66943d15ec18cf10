"""Renewal: which token is renewed when, and what a refusal leads to. Pure: time and chance are arguments.

Invariants:

1. A renewal is due at a share of the token's life, spread by a draw that is made once per token and kept
   with it, and always well clear of expiry: a fleet that started together does not renew together.
2. Two renewals of one token are never closer than MIN_GAP_S, however short its life.
3. A failed renewal changes nothing but the pause before the next: the token stays in use until it is refused.
4. A pause after a failure is a share of the life that is left, so that an outage spreads the fleet over hours
   while it can wait, and each device hurries as its own expiry nears.
5. Every refusal leads one rung down: SAS refused, register; Registration Token refused, renew it, or its
   parent; that refused as well, provision again (see `escalation`). No state is a dead end.
6. A rung that did not help is not tried again at once: each token in a row that is refused as well costs a
   longer pause.
7. While an operator is awaited, the token that was refused is tried again now and then: the refusal may have
   been a mistake.

Lifetimes run on the boot clock from the time of receipt. After a reboot the wall clock tells the age if it
can be right; otherwise the token counts as due soon, spread over the first minute of uptime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from runtime.core import backoff
from runtime.core.identity.escalation import Task, refuses_token
from runtime.core.identity.lifetime import DOUBTED_LIFE_S, LEAST_LIFE_S, spoken
from runtime.core.identity.platform_answer import Outcome
from runtime.core.moment import Moment

MIN_GAP_S = 5.0
"""Least time between two renewals of a token."""

CLEAR_OF_EXPIRY_S = 60.0
"""A renewal comes at least so long before expiry, or CLEAR_SHARE of a short life."""
CLEAR_SHARE = 0.3

UNKNOWN_AGE_SPREAD_S = 60.0
"""A token of unknown age is renewed within so much uptime: a town whose power came back is a fleet too."""

PAUSE_SHARE = 0.125
"""Longest pause after a failure, as a share of the life that is left."""
FIRST_PAUSE_SHARE = 1 / 256
"""Ceiling of half the first pause: a device that has ten hours left need not ask again in a second."""
URGENT_PAUSE_S = 5.0
"""Longest pause while the last of the life runs out."""
EXPIRED_PAUSE_S = 300.0
"""Longest pause when there is no life left to save."""

FORMER_PAUSE_S = 300.0
"""A token that was refused is tried again after so long at first, then ever more seldom."""
FORMER_PAUSE_MAX_S = 3600.0

CLOCK_TOLD_S = 300.0
"""The operator is told of a clock that is wrong by so much."""

FIXED_SOON_S = 14 * 86_400.0
"""The operator is told so long before the end of a credential that only an operator can replace."""

REFUSAL_SERIES_S = 300.0
"""A refusal by the hub so long after the one before was answered begins a new series."""


class RegistrationState(StrEnum):
    """The state of the device's registration."""

    UNPROVISIONED = "waiting for provisioning"
    REGISTERING = "registering"
    REGISTERED = "registered"
    REFUSED = "registration token refused"
    CERTIFICATE_REFUSED = "certificate refused"
    ENROLMENT_REFUSED = "enrolment refused"
    MISSING = "a setting or a file is missing"
    EXPIRED = "sas expired"
    ON_HOLD = "another device id, held for an operator"
    LOCKED = "tokens locked: no key opens them"


@dataclass(frozen=True)
class RenewalPolicy:
    """The settings that renewal depends on."""

    fraction: float = 0.6
    jitter: float = 0.5
    retry_max_s: float = 3600.0


@dataclass(frozen=True)
class Life:
    """A token's lifetime: `lifetime_s` (None: for ever), of which `age_s` was over at `received`."""

    received: Moment
    lifetime_s: float | None
    draw: float
    """Random in [0, 1), made when the token was received and stored with it."""
    age_s: float = 0.0

    def age(self, now: Moment) -> float | None:
        """Seconds since it was issued, or None where no clock can tell."""
        since_s = now.since(self.received)
        return None if since_s is None else self.age_s + since_s

    def remaining_s(self, now: Moment) -> float | None:
        """Seconds until expiry (inf: never), or None where no clock can tell."""
        if self.lifetime_s is None:
            return math.inf
        age_s = self.age(now)
        return None if age_s is None else self.lifetime_s - age_s

    def corrected(self, remaining_s: float, now: Moment) -> Life:
        """The same life after the platform told how much of it is left.

        The lifetime is no longer than that and the known age: a `Date` that was behind made it longer, and a
        token that looks old on arrival would be renewed again and again. Nor is a token believed to be over
        as soon as it was issued: every device would ask for another one every few seconds.
        """
        told_age_s = self.age(now)
        if told_age_s is not None and max(told_age_s, 0.0) + remaining_s < LEAST_LIFE_S:
            remaining_s = DOUBTED_LIFE_S[0]
        lifetime_s = remaining_s if self.lifetime_s is None else max(self.lifetime_s, remaining_s)
        if told_age_s is not None:
            lifetime_s = min(lifetime_s, max(told_age_s, 0.0) + remaining_s)
        return replace(self, received=now, lifetime_s=lifetime_s, age_s=lifetime_s - remaining_s)


def renewal_age_s(lifetime_s: float | None, draw: float, policy: RenewalPolicy) -> float:
    """The age at which a token is renewed."""
    if lifetime_s is None:
        return math.inf
    latest_s = lifetime_s - min(CLEAR_OF_EXPIRY_S, CLEAR_SHARE * lifetime_s)
    high_s = min((policy.fraction + policy.jitter / 2) * lifetime_s, latest_s)
    low_s = min(max(0.0, policy.fraction - policy.jitter / 2) * lifetime_s, high_s)
    return max(MIN_GAP_S, low_s + draw * (high_s - low_s))


def due_in_s(life: Life, policy: RenewalPolicy, now: Moment) -> float:
    """Seconds until the renewal of a token with `life` is due; not positive when it is."""
    age_s = life.age(now)
    if age_s is not None:
        return renewal_age_s(life.lifetime_s, life.draw, policy) - age_s
    if life.lifetime_s is None:
        return math.inf
    spread_s = min(UNKNOWN_AGE_SPREAD_S, CLEAR_SHARE * life.lifetime_s)
    return life.draw * spread_s - now.boot_s


@dataclass(frozen=True)
class RetryPace:
    """The pause that the last failures of one task demand: no attempt within `pause_s` of `at`."""

    failures: int = 0
    at: Moment | None = None
    pause_s: float = 0.0
    outcome: Outcome | None = None
    reason: str = ""
    asked_s: float = 0.0
    """The part of the pause that the platform asked for: `Retry-After`."""
    refusals: int = 0
    """Those of the failures in a row that were refusals; transient failures between do not end the row."""

    def wait_s(self, now: Moment, most_s: float = math.inf) -> float:
        """Seconds until the next attempt is allowed: none after a reboot, nor once a wrong clock was set.

        `most_s`: no pause of our own is longer, though it was when it began. It comes on top of the
        platform's `Retry-After`, as it did then: a fleet must not come back in the same second.
        """
        if self.outcome is Outcome.WRONG_TIME and self.at and now.clock_set_since(self.at):
            return 0.0
        passed_s = now.since(self.at) if self.at else None
        pause_s = min(self.pause_s, self.asked_s + most_s)
        return 0.0 if passed_s is None else max(0.0, pause_s - max(0.0, passed_s))

    def after(
        self, outcome: Outcome, reason: str, pause_s: float, now: Moment, asked_s: float | None = None
    ) -> RetryPace:
        """The pace after one more failure."""
        asked_s = min(asked_s or 0.0, pause_s)
        refusals = self.refusals + outcome.refuses
        return RetryPace(self.failures + 1, now, pause_s, outcome, reason, asked_s, refusals)

    def with_another_token(self) -> RetryPace:
        """The pace of registering once the token is another one: the refusal was for the one before.

        The failures still count, and another token does not change a transient failure.
        """
        return replace(self, pause_s=0.0, asked_s=0.0) if refuses_token(self.outcome) else self


def retry_pause_s(
    life: Life | None,
    failures: int,
    draw: float,
    policy: RenewalPolicy,
    now: Moment,
    retry_after_s: float | None = None,
) -> float:
    """Seconds to wait after the failure number `failures` (from 0) to renew a token with `life`."""
    remaining_s = (life.remaining_s(now) if life else 0.0) or 0.0
    ceiling_s = EXPIRED_PAUSE_S if remaining_s <= 0 else max(URGENT_PAUSE_S, PAUSE_SHARE * remaining_s)
    first_s = max(1.0, min(FIRST_PAUSE_SHARE * remaining_s, policy.retry_max_s))
    return backoff.pause_s(
        failures,
        draw,
        base_s=first_s,
        max_s=min(ceiling_s, policy.retry_max_s),
        floor_s=1.0,
        retry_after_s=retry_after_s,
    )


def former_pause_s(failures: int, draw: float, retry_after_s: float | None = None) -> float:
    """Seconds until a token that was refused is tried again, after the failure number `failures` (from 0)."""
    return backoff.pause_s(
        failures,
        draw,
        base_s=FORMER_PAUSE_S,
        max_s=FORMER_PAUSE_MAX_S,
        floor_s=FORMER_PAUSE_S,
        retry_after_s=retry_after_s,
    )


@dataclass(frozen=True)
class Refusals:
    """The hub's refusals of a SAS in a row: the first is answered at once, further ones with back-off."""

    count: int = 0
    last: Moment | None = None
    pause_s: float = 0.0

    def record(self, now: Moment, draw: float, policy: RenewalPolicy) -> Refusals:
        """The count after one more refusal of the SAS in force."""
        apart_s = now.since(self.last) if self.last else None
        series = apart_s is not None and apart_s < self.pause_s + REFUSAL_SERIES_S
        count = self.count + 1 if series else 1
        pause_s = 0.0
        if count > 1:
            pause_s = backoff.pause_s(
                count, draw, max_s=min(EXPIRED_PAUSE_S, policy.retry_max_s), floor_s=MIN_GAP_S
            )
        return Refusals(count, now, pause_s)

    def wait_s(self, now: Moment) -> float:
        """Seconds until the answer to the last refusal is due: none once the clock for signing was set."""
        if self.last and now.clock_set_since(self.last):
            return 0.0
        passed_s = now.since(self.last) if self.last else None
        return 0.0 if passed_s is None else max(0.0, self.pause_s - passed_s)


@dataclass(frozen=True)
class CredentialState:
    """The facts that the next step is decided by."""

    registration: Life | None = None
    """Life of the Registration Token; None where there is none."""
    parent: bool = False
    """The token before it is still known."""
    sas: Life | None = None
    proven: bool = False
    """The SAS was issued under the present Registration Token, which is thereby known to work."""
    token_refused: bool = False
    """Registering with the Registration Token was refused."""
    hub_refused: Refusals | None = None
    """Set while the SAS in force is refused."""
    can_refresh: bool = True
    """There is a Provisioning Token to refresh with."""
    paces: Mapping[Task, RetryPace] = field(default_factory=dict)
    on_hold: bool = False
    """Registered under another device id than before, which an operator has yet to accept."""
    locked: str = ""
    """The reason why no token can be used or stored: they are sealed, and the key is not there."""
    missing: str | None = None
    """The settings or files that are missing, without which no call can be made."""
    refused_as: RegistrationState = RegistrationState.REFUSED
    """The state to show where registering is refused: it names the credential."""
    by_certificate: bool = False
    """The hub authenticates the device by a certificate: it does not look at what is renewed here."""
    former: bool = False
    """A token line that was in force before rests, and may be tried at this platform."""
    fixed_left_s: float | None = None
    """Seconds left of a SAS that the device cannot renew, by the wall clock; None for any other."""

    def at_stake(self, task: Task) -> Life | None:
        """The life that ends where `task` goes on failing; None for a refused token: its life has ended."""
        if task is Task.REGISTER:
            return None if self.hub_refused else self.sas
        return None if self.token_refused else self.registration


@dataclass(frozen=True)
class RenewalStep:
    """The next task and the seconds until it; no task where provisioning has to act."""

    task: Task | None
    in_s: float
    why: str


def next_step(held: CredentialState, policy: RenewalPolicy, now: Moment) -> RenewalStep:
    """The next task for the platform, and the time of it."""
    if held.locked or held.missing:
        return RenewalStep(None, math.inf, held.locked or held.missing or "")
    if held.registration is None:
        return _without_token(held, now)
    register, refresh = _register(held, policy, now), _refresh(held, held.registration, policy, now)
    # A new Registration Token is proven by registering with it, so refreshing first saves a call.
    return refresh if refresh.in_s <= max(0.0, register.in_s) else register


def _without_token(held: CredentialState, now: Moment) -> RenewalStep:
    if held.parent and held.can_refresh:
        wait_s = _paced(Task.REFRESH_PARENT, 0.0, held, None, now)
        return RenewalStep(Task.REFRESH_PARENT, wait_s, "the registration token was refused for good")
    if held.former:
        wait_s = _paced(Task.REGISTER_FORMER, 0.0, held, None, now)
        return RenewalStep(Task.REGISTER_FORMER, wait_s, "the registration token was refused, which may pass")
    return RenewalStep(None, math.inf, "there is no registration token")


def _register(held: CredentialState, policy: RenewalPolicy, now: Moment) -> RenewalStep:
    if held.sas is None:
        due_s, why = 0.0, "there is no sas yet"
    elif not held.proven:
        due_s, why = 0.0, "the registration token is new"
    elif held.hub_refused is not None:
        due_s, why = held.hub_refused.wait_s(now), "the hub refused the sas"
    else:
        due_s, why = due_in_s(held.sas, policy, now), "the sas is due for renewal"
    return RenewalStep(Task.REGISTER, _paced(Task.REGISTER, due_s, held, held.sas, now), why)


def _refresh(held: CredentialState, registration: Life, policy: RenewalPolicy, now: Moment) -> RenewalStep:
    due_s, why = due_in_s(registration, policy, now), "the registration token is due for renewal"
    if held.token_refused:
        # Its parent is still known, so it never proved itself: renewing did not help the last time.
        due_s = held.paces.get(Task.REGISTER, RetryPace()).wait_s(now) if held.parent else 0.0
        why = "the registration token was refused"
    if not held.can_refresh:
        due_s, why = math.inf, "there is no provisioning token to renew the registration token with"
    return RenewalStep(Task.REFRESH, _paced(Task.REFRESH, due_s, held, registration, now), why)


def _paced(task: Task, due_s: float, held: CredentialState, life: Life | None, now: Moment) -> float:
    """`due_s`, but not within the pause after a failure, nor within MIN_GAP_S of the last renewal.

    A pause that began while the token had life left is cut short where the token is refused meanwhile.
    """
    most_s = math.inf if held.at_stake(task) or task is Task.REGISTER_FORMER else EXPIRED_PAUSE_S
    gap_s = 0.0
    if life is not None and life.received.boot_id == now.boot_id:
        since_s = now.since(life.received)
        gap_s = 0.0 if since_s is None else MIN_GAP_S - since_s
    return max(due_s, gap_s, held.paces.get(task, RetryPace()).wait_s(now, most_s))


def registration_state(held: CredentialState, now: Moment) -> RegistrationState:
    """The state of the registration, for operators."""
    if held.locked:
        return RegistrationState.LOCKED
    if held.missing:
        return RegistrationState.MISSING
    if held.registration is None and not held.parent:
        return RegistrationState.UNPROVISIONED
    if held.token_refused or held.registration is None:
        return held.refused_as
    if held.sas is None:
        return RegistrationState.REGISTERING
    if held.on_hold:
        return RegistrationState.ON_HOLD
    remaining_s = sas_left_s(held, now)
    return (
        RegistrationState.EXPIRED
        if remaining_s is not None and remaining_s <= 0
        else RegistrationState.REGISTERED
    )


def sas_left_s(held: CredentialState, now: Moment) -> float | None:
    """Seconds until the SAS ends (inf: never), or None where no clock can tell."""
    if held.by_certificate:
        return math.inf
    if held.fixed_left_s is not None:
        return held.fixed_left_s
    return held.sas.remaining_s(now) if held.sas else None


def clock_warning(skew_s: float | None) -> str:
    """The sentence for the operator about a clock that is wrong; empty for one that is nearly right."""
    if skew_s is None or abs(skew_s) < CLOCK_TOLD_S:
        return ""
    off_s = 60.0 * round(abs(skew_s) / 60)
    where = f"{spoken(off_s)} {'behind' if skew_s > 0 else 'ahead of'} the server's"
    return f"the clock of this device is {where}: set it (timedatectl)"


def refused_as(basis: str) -> RegistrationState:
    """The name of the refusal for an identity that rests on `basis`."""
    names = {"mtls": RegistrationState.CERTIFICATE_REFUSED, "dps": RegistrationState.ENROLMENT_REFUSED}
    return names.get(basis.partition(" ")[0], RegistrationState.REFUSED)


@dataclass(frozen=True)
class FixedCredential:
    """A credential that only an operator can replace."""

    name: str
    left_s: float
    """Seconds until its end, by the wall clock."""

    def sentence(self) -> str:
        """The sentence for the operator about it; empty while its end is far."""
        if self.left_s > FIXED_SOON_S:
            return ""
        ends = f"ends in {spoken(self.left_s)}" if self.left_s > 0 else f"ended {spoken(self.left_s)}"
        return f"{self.name} {ends}: put another one in its place, nobody here can renew it"


def fixed_credential(sas_left_s: float | None, certificate_left_s: float | None) -> FixedCredential | None:
    """The credential in use: a SAS out of a connection string, or a client certificate."""
    if sas_left_s is not None:
        return FixedCredential("the SAS in the connection string", sas_left_s)
    return (
        FixedCredential("the client certificate", certificate_left_s)
        if certificate_left_s is not None
        else None
    )
