"""A year of a device's life in a moment: outages, suspends, reboots, lost answers, clocks that jump by years,
refusals by the hub, snapshots.

A simulated platform keeps its own books of which token is good; the device decides with the real functions.
What must hold, whatever happens:

* two renewals of one token are never closer than the minimum gap (within one boot),
* no attempts follow each other in a tight loop,
* neither a SAS nor a Registration Token runs out while the device was awake and the platform reachable,
* as soon as both are there again, the device is registered again, with a token that the platform knows,
  also where an operator revoked every token it had,
* no token that is good is given up for a page of anything on the way.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from runtime.core.identity import renewal
from runtime.core.identity.escalation import AnswerVerdict, Evidence, Task, judge
from runtime.core.identity.lifetime import DOUBTED_LIFE_S, left_s
from runtime.core.identity.platform_answer import Outcome
from runtime.core.identity.renewal import (
    EXPIRED_PAUSE_S,
    MIN_GAP_S,
    URGENT_PAUSE_S,
    CredentialState,
    Life,
    Refusals,
    RenewalPolicy,
    RetryPace,
)
from runtime.core.moment import Moment
from tests.support.depth import deep

EPOCH_S = 1.8e9
"""Unix time where true time is 0."""
YEAR_S = 365 * 86_400.0
MOST_STEPS = 4000
HEAL_S = 2 * EXPIRED_PAUSE_S + 600
"""An operator's approval, the longest pause of an expired device, and some."""
OPERATOR_S = 300.0
PAGES = (Outcome.BAD_REQUEST, Outcome.UNAUTHORIZED, Outcome.FORBIDDEN, Outcome.GONE, Outcome.UNEXPECTED)


@dataclass
class Sky:
    """True time and everything the device cannot choose."""

    dice: random.Random
    true_s: float = 0.0
    boot_at_s: float = 0.0
    boots: int = 1
    lives: int = 1
    """Boots, and times it was put back to a snapshot: between them no gap is kept."""
    wall_error_s: float = 0.0
    date_error_s: float = 0.0
    """The platform's `Date`, ahead of the clock by which it issues."""
    outage_until_s: float = 0.0
    last_trouble_s: float = -math.inf
    """When the platform was last out of reach, or the device last asleep or off."""
    clock_lied_s: float = -math.inf
    """When a reboot last left the device with a clock that hides how long it was off."""

    def moment(self) -> Moment:
        return Moment(self.true_s + self.wall_error_s, self.true_s - self.boot_at_s, str(self.boots))

    def put_back(self, to_s: float) -> None:
        """A virtual machine goes on from a snapshot: its boot clock too, its disk does not."""
        self.boot_at_s = min(self.true_s, self.boot_at_s + to_s)
        self.lives += 1
        self.clock_lied_s = self.true_s

    def life_s(self, lasts_s: float) -> float:
        """What the device makes of the end that the platform tells."""
        issued_s = self.true_s + EPOCH_S
        return left_s(issued_s + lasts_s, issued_s + self.date_error_s, self.moment().wall_s)

    def out(self) -> bool:
        return self.true_s < self.outage_until_s

    def weather(self, calm: bool) -> None:
        """Between two steps anything may happen."""
        if self.out():
            self.last_trouble_s = self.true_s
        if calm:
            return
        roll = self.dice.random()
        if roll < 0.02:
            self.outage_until_s = self.true_s + self.dice.expovariate(1 / self.dice.choice((60, 7200, 2e6)))
            self.last_trouble_s = self.true_s
        elif roll < 0.03:
            self.sleep(self.dice.expovariate(1 / 40_000))
        elif roll < 0.04:
            self.wall_error_s += self.dice.choice((-3.2e8, -3600, 3600, 3.2e8))
        elif roll < 0.05:
            self.reboot()

    def sleep(self, seconds: float) -> None:
        self.true_s += seconds
        self.last_trouble_s = self.true_s

    def reboot(self) -> None:
        self.sleep(self.dice.expovariate(1 / 3000))
        self.boot_at_s, self.boots, self.lives = self.true_s - 10, self.boots + 1, self.lives + 1
        if self.dice.random() < 0.5:
            self.wall_error_s = self.dice.choice((-self.true_s, -3600, 0, 3.2e8))
        self.clock_lied_s = self.true_s


@dataclass
class Books:
    """The platform: which Registration Tokens are good, by the contract."""

    token_life_s: float
    sas_life_s: float
    ends_s: dict[int, float] = field(default_factory=dict)
    child_of: dict[int, int] = field(default_factory=dict)
    issued: int = 0

    def issue(self, true_s: float) -> int:
        self.issued += 1
        self.ends_s[self.issued] = true_s + self.token_life_s
        return self.issued

    def good(self, token: int, true_s: float) -> bool:
        return self.ends_s.get(token, -math.inf) > true_s

    def revoke(self) -> None:
        """An operator ends every Registration Token there is."""
        self.ends_s.clear()

    def refresh(self, token: int, true_s: float) -> tuple[Outcome, int]:
        """201 for the newest; 200 for one in its grace, whose child is revoked; the grandparent dies."""
        if not self.good(token, true_s):
            return Outcome.GONE, 0
        outcome = Outcome.CREATED
        if token in self.child_of:
            self.ends_s.pop(self.child_of[token], None)
            outcome = Outcome.OK
        for grandparent in [parent for parent, child in self.child_of.items() if child == token]:
            self.ends_s.pop(grandparent, None)
        child = self.issue(true_s)
        self.child_of[token] = child
        return outcome, child


@dataclass
class Device:
    """What identity.db holds, and the decisions that move it."""

    sky: Sky
    books: Books
    policy: RenewalPolicy
    registration: tuple[int, Life] | None = None
    parent: int | None = None
    sas: tuple[int, Life, float] | None = None
    """Token it came from, life, true end."""
    token_refused: bool = False
    doubted: bool = False
    refusals: Refusals = field(default_factory=Refusals)
    refused: bool = False
    paces: dict[Task, RetryPace] = field(default_factory=dict)
    wants_operator_s: float | None = None
    renewed: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    attempts: list[tuple[int, float]] = field(default_factory=list)

    def held(self) -> CredentialState:
        return CredentialState(
            self.registration[1] if self.registration else None,
            self.parent is not None,
            self.sas[1] if self.sas else None,
            not self.doubted and bool(self.registration and self.sas and self.registration[0] == self.sas[0]),
            self.token_refused,
            self.refusals if self.refused else None,
            True,
            self.paces,
        )

    def in_service(self) -> bool:
        return self.sas is not None and self.sas[2] > self.sky.true_s

    def sound(self) -> bool:
        """In service, and able to stay so."""
        token = self.registration[0] if self.registration else 0
        return self.in_service() and self.books.good(token, self.sky.true_s)

    def turn(self, most_s: float) -> None:
        """One decision: act, or let time pass until the next, at most `most_s`."""
        now = self.sky.moment()
        if self.sas and not self.in_service() and not self.refused and not self.sky.out():
            self.refused, self.refusals = True, self.refusals.record(now, self.sky.dice.random(), self.policy)
        step = renewal.next_step(self.held(), self.policy, now)
        if step.task is None:
            self.provision()
        elif step.in_s <= 0:
            self.perform(step.task)
        else:
            # upload tries a dead SAS every half minute at most, and tells
            self.sky.true_s += max(1e-3, min(step.in_s, most_s, self.until_expiry_s()))

    def until_expiry_s(self) -> float:
        left_s = self.sas[2] - self.sky.true_s if self.sas else math.inf
        return left_s + 1e-3 if left_s > 0 else 30.0

    def be_refused(self) -> None:
        """The hub does not take the SAS any more, whatever life it had."""
        if self.sas is not None:
            self.sas = (*self.sas[:2], self.sky.true_s)
            self.sky.last_trouble_s = self.sky.true_s

    def provision(self) -> None:
        self.sky.sleep(OPERATOR_S)
        if not self.sky.out():
            self.accept(self.books.issue(self.sky.true_s))
            self.parent, self.paces = None, {}

    def accept(self, token: int) -> None:
        life_s = None if math.isinf(self.books.token_life_s) else self.books.token_life_s
        self.registration = (token, Life(self.sky.moment(), life_s, self.sky.dice.random()))
        self.forget_failed_refreshes()
        self.renewed.setdefault("registration", []).append((self.sky.lives, self.sky.true_s))

    def forget_failed_refreshes(self) -> None:
        self.token_refused = self.doubted = False
        register = self.paces.get(Task.REGISTER)
        self.paces = {Task.REGISTER: register.with_another_token()} if register else {}

    def perform(self, task: Task) -> None:
        self.attempts.append((self.sky.lives, self.sky.true_s))
        asked = self.parent if task is Task.REFRESH_PARENT else self.registration and self.registration[0]
        assert asked is not None
        outcome, child, own = self.ask(task, asked)
        self.sky.true_s += 0.05
        refusals = self.paces.get(task, RetryPace()).refusals + outcome.refuses
        verdict = judge(task, outcome, Evidence(own, refusals, self.token_refused))
        if verdict is AnswerVerdict.STORE and task is Task.REGISTER:
            life = Life(self.sky.moment(), self.sky.life_s(self.books.sas_life_s), self.sky.dice.random())
            self.sas = (asked, life, self.sky.true_s + self.books.sas_life_s)
            self.parent, self.token_refused, self.refused, self.doubted = None, False, False, False
            self.paces.pop(task, None)
            self.renewed.setdefault("sas", []).append((self.sky.lives, self.sky.true_s))
        elif verdict is AnswerVerdict.STORE:
            self.parent = asked
            self.accept(child)
        elif verdict is AnswerVerdict.DROP:
            assert not self.books.good(asked, self.sky.true_s), "a good token is given up"
            self.forget_failed_refreshes()
            if task is Task.REFRESH_PARENT:
                self.parent = None
            else:
                self.registration = None
        else:
            self.pause(task, outcome, verdict)
            self.doubted = self.doubted or verdict is AnswerVerdict.DOUBT

    def ask(self, task: Task, asked: int) -> tuple[Outcome, int, bool]:
        """What the platform does, and what of it the device gets to hear, and whether it is its own word."""
        if self.sky.out():
            self.sky.last_trouble_s = self.sky.true_s
            return Outcome.TIMED_OUT, 0, True
        if self.sky.dice.random() < 0.03:  # a firewall, a gateway or a captive portal on the way
            self.sky.last_trouble_s = self.sky.true_s
            return self.sky.dice.choice(PAGES), 0, False
        if task is Task.REGISTER:
            good = self.books.good(asked, self.sky.true_s)
            return (Outcome.OK if good else Outcome.UNAUTHORIZED), 0, True
        found = self.books.refresh(asked, self.sky.true_s)
        if self.sky.dice.random() < 0.1:  # done, but the answer was lost, or we died before saving it
            self.sky.last_trouble_s = self.sky.true_s
            return Outcome.CUT, 0, True
        return *found, True

    def pause(self, task: Task, outcome: Outcome, verdict: AnswerVerdict) -> None:
        pace, now = self.paces.get(task, RetryPace()), self.sky.moment()
        life = self.held().at_stake(task)
        pause_s = renewal.retry_pause_s(life, pace.failures, self.sky.dice.random(), self.policy, now)
        self.paces = {**self.paces, task: pace.after(outcome, "", pause_s, now)}
        self.token_refused = self.token_refused or verdict is AnswerVerdict.REFUSED


def check_expiry(device: Device, was_in_service: bool) -> None:
    """A SAS that ran out must have had an excuse within the last pause before it."""
    sky = device.sky
    if not was_in_service or device.in_service() or device.sas is None or device.registration is None:
        return
    _, life, ended_s = device.sas
    lived_from_s = ended_s - (life.lifetime_s or 0)
    excuse_s = max(sky.last_trouble_s, sky.outage_until_s)
    assert (
        excuse_s >= ended_s - URGENT_PAUSE_S - 1
        or sky.clock_lied_s >= lived_from_s - 1e-3
        or device.token_refused
    ), f"the sas ran out at {ended_s} though nothing stood in the way since {excuse_s}"


def check_token(device: Device, before: tuple[int, Life] | None) -> None:
    """The same for a Registration Token that ran out; one that was revoked is nobody's fault here."""
    sky = device.sky
    ended_s = device.books.ends_s.get(before[0], math.inf) if before else math.inf
    if before is None or device.registration is not before or ended_s > sky.true_s:
        return
    excuse_s = max(sky.last_trouble_s, sky.outage_until_s)
    lived_from_s = ended_s - (before[1].lifetime_s or 0)
    assert excuse_s >= ended_s - URGENT_PAUSE_S - 1 or sky.clock_lied_s >= lived_from_s - 1e-3, (
        f"the registration token ran out at {ended_s} though nothing stood in the way since {excuse_s}"
    )


def check_gaps(device: Device) -> None:
    for what, times in device.renewed.items():
        for (boot, one_s), (next_boot, other_s) in pairwise(times):
            assert boot != next_boot or other_s - one_s >= MIN_GAP_S, (
                f"{what} renewed after {other_s - one_s} s"
            )
    for (boot, one_s), (next_boot, fourth_s) in zip(device.attempts, device.attempts[6:], strict=False):
        assert boot != next_boot or fourth_s - one_s >= 1.0, "seven attempts within a second"


LIVES_S = (20.0, 30.0, 60.0, 3600.0, 86_400.0, 30 * 86_400.0, math.inf)


@given(
    seed=st.integers(0, 2**32),
    token_life_s=st.sampled_from(LIVES_S),
    sas_life_s=st.sampled_from(LIVES_S[:-1]),
)
@example(seed=1, token_life_s=20.0, sas_life_s=20.0)
@example(seed=2, token_life_s=30 * 86_400.0, sas_life_s=86_400.0)
@example(seed=7976193, token_life_s=30 * 86_400.0, sas_life_s=20.0)
@example(seed=3523, token_life_s=math.inf, sas_life_s=60.0)
@rules(max_examples=deep(40))
def test_a_year_of_outages_jumps_and_reboots_never_leaves_the_device_stuck(
    seed: int, token_life_s: float, sas_life_s: float
) -> None:
    sky = Sky(random.Random(seed), wall_error_s=EPOCH_S)
    device, whims = Device(sky, Books(token_life_s, sas_life_s), RenewalPolicy()), random.Random(seed + 1)
    for _ in range(MOST_STEPS):
        was_in_service, token = device.in_service(), device.registration
        device.turn(6 * 3600.0)
        check_token(device, token)
        sky.weather(calm=False)
        check_expiry(device, was_in_service)
        if sky.dice.random() < 0.002:
            device.books.revoke()
        if whims.random() < 0.002:
            sky.put_back(whims.expovariate(1 / 1e6))
        if whims.random() < 0.005:
            device.be_refused()
        if sky.true_s > YEAR_S:
            break
    check_gaps(device)
    sky.outage_until_s = sky.true_s
    if seed % 2:
        device.books.revoke()  # found out at the next renewal of the SAS
    if seed % 3 == 0:
        device.be_refused()
    heal_by_s = sky.true_s + HEAL_S + sas_life_s * (1 if device.in_service() else 0)
    while sky.true_s < heal_by_s and not device.sound():
        device.turn(6 * 3600.0)
    assert device.sound(), "not registered though the platform is there"


@pytest.mark.parametrize("clock_wrong_by_s", [0.0, -EPOCH_S, -7200.0, 3.2e8])
@pytest.mark.parametrize("date_ahead_s", [86_400.0, 2 * 86_400.0, 3.2e8])
@pytest.mark.parametrize("token_life_s", [math.inf, 30 * 86_400.0])
def test_a_platform_whose_date_runs_ahead_by_the_life_of_a_sas_is_not_asked_in_a_tight_loop(
    token_life_s: float, date_ahead_s: float, clock_wrong_by_s: float
) -> None:
    sky = Sky(random.Random(3), wall_error_s=EPOCH_S + clock_wrong_by_s, date_error_s=date_ahead_s)
    device = Device(sky, Books(token_life_s, 86_400.0), RenewalPolicy())
    while sky.true_s < 2 * 86_400:
        device.turn(6 * 3600.0)
        assert device.in_service() or not device.sas
    least_s = RenewalPolicy().fraction - RenewalPolicy().jitter / 2
    assert len(device.attempts) < 2 * 86_400 / (least_s * DOUBTED_LIFE_S[0]), "every few seconds"
    sky.date_error_s = 0.0
    device.turn(DOUBTED_LIFE_S[1])
    began_s, asked = sky.true_s, len(device.attempts)
    while sky.true_s < began_s + 2 * 86_400:
        device.turn(6 * 3600.0)
    assert len(device.attempts) - asked < 10, "a clock that was set is believed"


def test_the_simulation_notices_a_device_that_renews_too_late() -> None:
    """The invariants above bite: a device that is wrong about the life of its SAS is caught."""
    sky = Sky(random.Random(7), wall_error_s=EPOCH_S)
    device = Device(sky, Books(math.inf, 86_400.0), RenewalPolicy())
    while not device.in_service():
        device.turn(600.0)
    token, life, end_s = device.sas or (0, Life(sky.moment(), None, 0), 0.0)
    device.sas = (token, replace(life, lifetime_s=4 * 86_400.0), end_s)  # it believes in four times the life
    caught = False
    for _ in range(400):
        was = device.in_service()
        device.turn(600.0)
        try:
            check_expiry(device, was)
        except AssertionError:
            caught = True
    assert caught
