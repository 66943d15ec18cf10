"""Whatever a platform answers, call by call, for a day: it is not stormed, and the device finds its way on.

Both workers' decisions in one small model of their disk, and a platform that follows a script: a few answers
for each call, over and over. What must hold, for every script:

* calls a day are bounded, those by which an approval is awaited aside,
* there is no state in which nothing is asked any more,
* once the platform is in order again, the device is registered within hours, and nobody restarted anything,
* a token that worked is not thrown away before another one has registered.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from runtime.core.identity import enrolment, renewal
from runtime.core.identity.enrolment import Call, Enrolment, Wish
from runtime.core.identity.escalation import AnswerVerdict, Evidence, Task, judge
from runtime.core.identity.platform_answer import (
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
)
from runtime.core.identity.renewal import (
    FORMER_PAUSE_S,
    MIN_GAP_S,
    CredentialState,
    Life,
    RenewalPolicy,
    RetryPace,
)
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from tests.support.depth import deep

DAY_S = 86_400.0
HEAL_S = 3 * 3600.0
"""The longest pause of a cancelled operation with its jitter, and some."""
POLL_S = 5.0
"""`provisioning.poll_s` by default."""
MOST_A_DAY = 4320
"""One every 20 s. Without the polls, which come at the pace that the operator of a device has set."""
BEGAN = Moment(1.8e9, 1000.0, "boot")
WISH = Wish("platform", "mark", "dev-1")


@dataclass(frozen=True)
class Said:
    """One answer of a script."""

    outcome: Outcome
    own: bool = True
    retry_after_s: float | None = None
    told_s: float | None = None
    """A good one to `register`: what is left of the Registration Token, by the platform."""

    def __str__(self) -> str:
        more = "" if self.own else " of a gateway"
        return f"{self.outcome.name}{more}"


OK = Said(Outcome.OK)
Script = dict[str, Sequence[Said]]
REFUSALS = [Said(outcome, own) for outcome in Outcome if outcome.refuses for own in (True, False)]
BAD = [Said(outcome) for outcome in Outcome if not (outcome.good or outcome.refuses)]
BAD = [*REFUSALS, *(said for said in BAD if said.outcome is not Outcome.ABANDONED)]
HASTY = [replace(said, retry_after_s=asked_s) for said in BAD[::3] for asked_s in (0.0, 1.0)]
SHORT = [replace(OK, told_s=told_s) for told_s in (0.0, 1.0, 5.0)]


@dataclass
class Line:
    """A Registration Token and its parent, as in identity.db."""

    token: int
    life: Life
    parent: int | None = None


@dataclass
class Device:
    """What identity.db holds, moved by the real decisions as both workers move it."""

    script: Script
    dice: random.Random
    now: Moment = BEGAN
    record: Enrolment = field(default_factory=Enrolment)
    line: Line | None = None
    refused: bool = False
    doubted: bool = False
    former: Line | None = None
    sas: tuple[int, Life] | None = None
    paces: dict[Task, RetryPace] = field(default_factory=dict)
    issued: int = 0
    calls: list[tuple[float, str]] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)

    def says(self, call: str) -> Said:
        """The next line of the script."""
        said = self.script[call]
        number = self.asked[call] = self.asked.get(call, -1) + 1
        self.calls.append((self.now.boot_s, call))
        self.pass_(0.05)
        return said[number % len(said)]

    def pass_(self, seconds: float) -> None:
        self.now = Moment(self.now.wall_s + seconds, self.now.boot_s + seconds, self.now.boot_id)

    def issue(self) -> tuple[int, Life]:
        self.issued += 1
        return self.issued, Life(self.now, None, self.dice.random())

    def proven(self) -> bool:
        same = self.line is not None and self.sas is not None and self.line.token == self.sas[0]
        return same and not self.doubted

    def registered(self) -> bool:
        return self.proven() and not self.refused

    def turn(self) -> None:
        """Both workers do what is due, or time passes."""
        has_token = self.line is not None
        self.record = enrolment.settled(self.record, WISH, has_token, WISH.basis() if has_token else None)
        asks = enrolment.next_step(self.record, WISH, has_token, self.now)
        step = renewal.next_step(self.held(), RenewalPolicy(), self.now)
        if asks.call is not None and asks.in_s <= 0:
            self.provision(asks.call)
        elif step.task is not None and step.in_s <= 0:
            self.perform(step.task)
        else:
            waits = [asks.in_s] * (asks.call is not None) + [step.in_s] * (step.task is not None)
            assert waits, "nothing will ever be asked again"
            self.pass_(max(0.01, min(waits)))

    def provision(self, call: Call) -> None:
        said = self.says(call.value)
        value = (
            ProvisioningOperation("op", "AB") if call is Call.INIT else PlatformResult(Secret("token"), None)
        )
        answer: PlatformAnswer[Any] = PlatformAnswer(
            said.outcome,
            value if said.outcome.good else None,
            "",
            said.retry_after_s,
            own=said.own,
        )
        policy = enrolment.EnrolmentPolicy(poll_s=POLL_S)
        self.record = enrolment.after(self.record, call, answer, policy, self.now, self.dice.random())
        if call is Call.COMPLETE and said.outcome.good:
            self.rest()
            self.paces = {t: p for t, p in self.paces.items() if t is Task.REGISTER_FORMER}
            self.line, self.refused, self.doubted = Line(*self.issue()), False, False

    def rest(self) -> None:
        """The line in force rests, unless it never registered and there is one at rest that did."""
        if self.line is None or (self.former and not self.worked()):
            return
        self.former = self.line
        self.paces.pop(Task.REGISTER_FORMER, None)
        if self.refused:
            self.paces[Task.REGISTER_FORMER] = RetryPace(1, self.now, FORMER_PAUSE_S, Outcome.UNAUTHORIZED)

    def worked(self) -> bool:
        line = self.line
        return line is not None and (line.parent is not None or bool(self.sas and self.sas[0] == line.token))

    def held(self) -> CredentialState:
        line = self.line
        alive = line is not None and line.token != 0
        return CredentialState(
            line.life if line and alive else None,
            line is not None and line.parent is not None,
            self.sas[1] if self.sas else None,
            self.proven(),
            self.refused,
            paces=self.paces,
            former=self.former is not None,
        )

    def perform(self, task: Task) -> None:
        call = "register" if task in (Task.REGISTER, Task.REGISTER_FORMER) else "refresh"
        said = self.says(call)
        pace = self.paces.get(task, RetryPace())
        beside = self.former is not None and Task.REGISTER_FORMER not in self.paces
        verdict = judge(
            task,
            said.outcome,
            Evidence(
                said.own,
                pace.refusals + said.outcome.refuses,
                self.refused,
                beside and not (self.proven() or (self.line and self.line.parent)),
            ),
        )
        if verdict is AnswerVerdict.STORE and call == "register":
            self.save_registered(task, said)
        elif verdict is AnswerVerdict.STORE:
            assert self.line is not None
            parent = self.line.token or self.line.parent
            self.line = Line(*self.issue(), parent)
            self.forget_failed_refreshes()
        elif verdict is AnswerVerdict.DROP:
            self.drop(task)
        else:
            self.pause(task, pace, said)
            self.refused = self.refused or verdict is AnswerVerdict.REFUSED
            self.doubted = self.doubted or verdict is AnswerVerdict.DOUBT

    def save_registered(self, task: Task, said: Said) -> None:
        if task is Task.REGISTER_FORMER:
            self.line = self.former
            self.paces.pop(task, None)
            self.record = enrolment.restored(self.record, WISH.basis())
        assert self.line is not None
        self.sas = self.line.token, Life(self.now, DAY_S, self.dice.random())
        self.paces.pop(Task.REGISTER, None)
        self.former, self.refused, self.doubted = None, False, False
        self.line = replace(self.line, parent=None)
        self.record = replace(self.record, begun=0)
        if said.told_s is not None:
            self.line.life = self.line.life.corrected(said.told_s, self.now)

    def drop(self, task: Task) -> None:
        assert self.line is not None
        self.forget_failed_refreshes(refused=True)
        if task is Task.REFRESH and self.line.parent is not None:
            self.line = replace(self.line, token=0)
        else:
            if self.line.token == 0:
                self.line = replace(self.line, token=self.line.parent or 0)
            self.rest()
            self.line = None
            if self.former and Task.REGISTER_FORMER not in self.paces:
                self.line, self.former = self.former, None
                self.record = enrolment.restored(self.record, WISH.basis())
        self.refused = False

    def forget_failed_refreshes(self, *, refused: bool = False) -> None:
        self.refused, self.doubted = refused, False
        kept: dict[Task, RetryPace] = {t: p for t, p in self.paces.items() if t is Task.REGISTER_FORMER}
        if register := self.paces.get(Task.REGISTER):
            kept[Task.REGISTER] = register.with_another_token()
        self.paces = kept

    def pause(self, task: Task, pace: RetryPace, said: Said) -> None:
        draw, asked_s = self.dice.random(), said.retry_after_s
        if task is Task.REGISTER_FORMER:
            pause_s = renewal.former_pause_s(pace.failures, draw, asked_s)
        else:
            life = self.held().at_stake(task)
            pause_s = renewal.retry_pause_s(life, pace.failures, draw, RenewalPolicy(), self.now, asked_s)
        self.paces = {**self.paces, task: pace.after(said.outcome, "", pause_s, self.now, asked_s)}

    def run(self, seconds: float, until_registered: bool = False) -> None:
        ends_s = self.now.boot_s + seconds
        while self.now.boot_s < ends_s and not (until_registered and self.registered()):
            kept = self.former or self.line
            self.turn()
            tokens = {line.token for line in (self.line, self.former) if line}
            parents = {line.parent for line in (self.line, self.former) if line}
            if kept and self.sas and kept.token == self.sas[0]:
                assert kept.token in tokens | parents, "a token that worked is thrown away"


def established(script: Script, seed: int) -> Device:
    """A device that has been in service for a while."""
    device = Device({name: [OK] for name in script}, random.Random(seed))
    device.run(DAY_S, until_registered=True)
    device.run(60)
    device.script, device.calls, device.asked = script, [], {}
    return device


def check_for_a_day(script: Script, device: Device) -> None:
    device.run(DAY_S)
    polled = len([call for _, call in device.calls if call == "complete"])
    others = len(device.calls) - polled
    assert others <= MOST_A_DAY, f"{others} calls a day"
    assert polled <= DAY_S / POLL_S + MOST_A_DAY
    times = [at_s for at_s, _ in device.calls] or [device.now.boot_s]
    if not device.registered():
        assert device.now.boot_s - times[-1] <= 2 * 3600, "nothing is asked any more"
    device.script = {name: [OK] for name in script}
    device.run(HEAL_S, until_registered=True)
    assert device.registered(), "the platform is in order again, and the device is not"


def scripts(*good: Said) -> st.SearchStrategy[Script]:
    of_each = st.lists(st.sampled_from([*BAD, *HASTY, *good, OK]), min_size=1, max_size=3)
    return st.fixed_dictionaries(dict.fromkeys(("init", "complete", "register", "refresh"), of_each))


def constant(init: Said, complete: Said, register: Said, refresh: Said) -> Script:
    return {"init": [init], "complete": [complete], "register": [register], "refresh": [refresh]}


REFUSED, NAMELESS, GONE = Said(Outcome.UNAUTHORIZED), Said(Outcome.UNEXPECTED), Said(Outcome.GONE)
PAGE = Said(Outcome.FORBIDDEN, own=False)


@given(script=scripts(*SHORT), seed=st.integers(0, 2**32), known=st.booleans())
@example(constant(OK, GONE, REFUSED, GONE), 1, False)
@example(constant(OK, OK, REFUSED, GONE), 2, True)
@example(constant(OK, OK, REFUSED, OK), 3, True)
@example(constant(REFUSED, GONE, REFUSED, NAMELESS), 4, True)
@example(constant(OK, OK, SHORT[1], OK), 5, True)
@example(constant(Said(Outcome.BAD_REQUEST), OK, REFUSED, GONE), 6, False)
@example(constant(OK, OK, OK, GONE), 7, True)
@example(constant(*[Said(Outcome.THROTTLED, retry_after_s=0.0)] * 4), 8, False)
@example(constant(*[PAGE] * 4), 9, True)
@example(constant(OK, REFUSED, REFUSED, REFUSED), 10, True)
@rules(max_examples=deep(40))
def test_no_script_of_answers_storms_a_platform_or_leaves_the_device_stuck(
    script: Script, seed: int, known: bool
) -> None:
    device = established(script, seed) if known else Device(script, random.Random(seed))
    if known:  # its SAS is refused, or over
        device.sas = None if seed % 2 else device.sas
    check_for_a_day(script, device)


@pytest.mark.parametrize("refresh", REFUSALS, ids=str)
@pytest.mark.parametrize("register", [REFUSED, PAGE, NAMELESS], ids=str)
def test_whatever_refuses_a_token_for_ever_provisioning_is_asked_again(register: Said, refresh: Said) -> None:
    """401 to register, then 404, 405, 409 or 422 to refresh: 30 days of calls, and never provisioned."""
    device = established(constant(OK, Said(Outcome.NOT_YET), register, refresh), 1)
    device.sas, began_s = None, device.now.boot_s
    while "init" not in {call for _, call in device.calls}:
        device.turn()
        assert device.now.boot_s - began_s < 12 * 3600, "no way on"
    assert device.former is not None, "what worked rests"


def test_the_model_finds_a_platform_that_is_stormed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: without the pause between operations it is."""
    monkeypatch.setattr(enrolment, "_between_operations_s", lambda begun, policy, draw: MIN_GAP_S)
    script = constant(OK, GONE, OK, OK)
    with pytest.raises(AssertionError, match="calls a day"):
        check_for_a_day(script, Device(script, random.Random(1)))


def test_the_model_finds_a_device_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: where a status without a name never counts, nothing leads back to provisioning."""
    monkeypatch.setattr("runtime.core.identity.escalation.NAMELESS_TIMES", 10**9)
    monkeypatch.setattr("runtime.core.identity.escalation.HOPELESS_TIMES", 10**9)
    with pytest.raises(AssertionError, match="no way on"):
        test_whatever_refuses_a_token_for_ever_provisioning_is_asked_again(REFUSED, NAMELESS)
