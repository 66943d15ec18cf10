"""Settings that the cloud desires: whatever ends when, the old or the confirmed ones are left."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from runtime.core.management import config_trial
from runtime.core.management.config_trial import (
    ConfigDesired,
    HubAnswered,
    ReloadFinished,
    ReloadWorkers,
    RemoteConfig,
    SaveRemoteConfig,
    TrialAction,
    TrialEvent,
    TrialOutcome,
    TrialPolicy,
    TrialState,
    TrialTick,
    after,
    described,
    needs_check,
    started,
    values_in_force,
    wait_s,
)
from runtime.core.moment import Moment

OLD = {"link": {"hours": ""}}
GOOD = {"link": {"messages_per_s": 5}}
CUT_OFF = {"upload": {"https_port": 1}}
"""With these the hub cannot be reached."""
BAD = {"upload": {"window": -1}}
"""These break a rule."""
PROBLEM = "upload.window = -1 must be at least 1"
FRESH = {"link": {"messages_per_s": 9}}
POLICY = TrialPolicy(limit_s=600.0, proof_after_s=5.0)


class Cut(Exception):
    """SIGKILL, or the power is gone."""


@dataclass
class Device:
    """A machine with the record on its disk, workers that run with some values, and a hub."""

    record: RemoteConfig = field(default_factory=lambda: RemoteConfig(confirmed=OLD))
    boot: int = 1
    boot_s: float = 100.0
    running: Any = field(default_factory=lambda: OLD)
    """The values that the workers run with."""
    refuses: bool = False
    cut: int | None = None
    history: list[Any] = field(default_factory=list)
    reload_left: bool = False

    def __post_init__(self) -> None:
        self.start()

    @property
    def now(self) -> Moment:
        return Moment(1e9 + self.boot_s, self.boot_s, f"boot{self.boot}")

    def start(self) -> None:
        self.reload_left = False
        self.state, actions = started(self.record, POLICY, self.now)
        self.act(actions)

    def step(self, event: TrialEvent) -> None:
        self.state, actions = after(self.state, event, self.now)
        self.act(actions)

    def act(self, actions: list[TrialAction]) -> None:
        for action in actions:
            if self.cut is not None:
                self.cut -= 1
                if self.cut < 0:
                    self.cut = None
                    raise Cut
            if isinstance(action, SaveRemoteConfig):
                self.record = action.record
                self.history.append(action.record.outcome)
            else:
                self.reload_left = True

    def desire(self, values: Any) -> None:
        if needs_check(self.state, values):
            self.step(
                ConfigDesired(values, ["upload.window = -1 must be at least 1"] if values == BAD else [])
            )

    def reload(self) -> None:
        """The workers finish to read what is in force."""
        if self.reload_left:
            self.reload_left = False
            values = values_in_force(self.record, self.now)
            refused = self.refuses and values not in (OLD, {})
            self.running = self.running if refused else values
            self.step(ReloadFinished(["upload: no"] if refused else []))

    def pass_s(self, seconds: float) -> None:
        self.boot_s += seconds
        self.step(TrialTick())
        if self.running != CUT_OFF:
            self.step(HubAnswered(self.boot_s))

    def kill(self) -> None:
        """The management worker ends and is started again; the others run on."""
        self.start()

    def power_cut(self) -> None:
        self.boot, self.boot_s = self.boot + 1, 20.0
        self.running = values_in_force(self.record, self.now)
        self.start()

    def quiet(self, desired: Any) -> None:
        for _ in range(8):
            self.desire(desired)
            self.reload()
            self.pass_s(200.0)


def run(device: Device, desired: Any, cut: str, at: int) -> None:
    """Desire a value, be cut short at an action, and go on until all is quiet."""
    device.cut = at
    try:
        device.quiet(desired)
    except Cut:
        device.kill() if cut == "kill" else device.power_cut()
        assert values_in_force(device.record, device.now) in (OLD, desired)
        device.quiet(desired)


@pytest.mark.parametrize("cut", ["kill", "power cut"])
@pytest.mark.parametrize(
    ("desired", "left", "outcome"),
    [
        (GOOD, GOOD, TrialOutcome.CONFIRMED),
        (CUT_OFF, OLD, TrialOutcome.TAKEN_BACK),
        (BAD, OLD, TrialOutcome.REFUSED),
        (OLD, OLD, TrialOutcome.CONFIRMED),
        ({}, {}, TrialOutcome.CONFIRMED),
    ],
)
@pytest.mark.parametrize("at", range(8))
def test_a_cut_at_every_step_leaves_the_old_or_the_confirmed_configuration(
    desired: Any, left: Any, outcome: TrialOutcome, cut: str, at: int
) -> None:
    device = Device()
    run(device, desired, cut, at)
    assert (device.record.confirmed, device.running, device.record.trial) == (left, left, None)
    assert device.record.outcome is outcome and not device.record.reload_owed


@pytest.mark.parametrize("seed", range(40))
def test_random_lives_end_with_what_was_confirmed_last(seed: int) -> None:
    rng = random.Random(seed)
    device = Device()
    for _ in range(60):
        what = rng.choice(["desire", "reload", "reload", "time", "time", "kill", "power", "cut"])
        try:
            if what == "desire":
                device.desire(rng.choice([GOOD, CUT_OFF, BAD, OLD, {}]))
            elif what == "time":
                device.pass_s(rng.choice([1.0, 6.0, 400.0]))
            elif what == "cut":
                device.cut = rng.randrange(3)
            else:
                {"reload": device.reload, "kill": device.kill, "power": device.power_cut}[what]()
        except Cut:
            device.kill() if rng.random() < 0.5 else device.power_cut()
        assert device.record.confirmed in (OLD, GOOD, {})
        assert values_in_force(device.record, device.now) in (OLD, GOOD, CUT_OFF, {})
    device.cut = None
    device.quiet(FRESH)
    device.quiet(CUT_OFF)
    assert device.running == device.record.confirmed == FRESH


def test_a_worker_that_refuses_ends_the_trial() -> None:
    device = Device(refuses=True)
    device.quiet(GOOD)
    assert described(device.record) == {"state": "refused", "reason": "upload: no"}
    assert device.running == OLD and not device.record.reload_owed
    device.refuses = False
    device.quiet(GOOD)
    assert device.record.outcome is TrialOutcome.REFUSED, "what was judged is not tried again"
    device.kill()
    device.quiet(GOOD)
    assert device.running == GOOD, "but a new process asks the rules again"


def test_what_breaks_a_rule_is_refused_without_a_reload() -> None:
    device = Device()
    device.desire(BAD)
    assert not device.reload_left
    assert described(device.record)["reason"] == PROBLEM


def test_an_answer_from_before_the_reload_confirms_nothing() -> None:
    device = Device()
    device.desire(GOOD)
    device.step(HubAnswered(device.boot_s + 100.0))
    device.reload()
    applied_s = device.boot_s
    device.boot_s += 50.0
    device.step(HubAnswered(applied_s + 4.9))
    assert described(device.record) == {"state": "on trial"}
    device.step(HubAnswered(applied_s + 5.0))
    assert device.record.outcome is TrialOutcome.CONFIRMED and device.record.confirmed == GOOD


def test_an_answer_after_the_time_is_too_late() -> None:
    device = Device()
    device.desire(GOOD)
    device.reload()
    device.boot_s += 600.0
    device.step(HubAnswered(device.boot_s))
    assert described(device.record) == {
        "state": "taken back",
        "reason": "the hub was not reached within 600 s",
    }


def test_without_the_management_worker_a_trial_ends_for_all_that_start() -> None:
    device = Device()
    device.desire(CUT_OFF)
    assert values_in_force(device.record, device.now) == CUT_OFF
    assert wait_s(device.state, device.now) == 600.0
    device.boot_s += 600.0
    assert values_in_force(device.record, device.now) == OLD


def test_settings_that_reboot_the_machine_do_so_twice() -> None:
    device = Device()
    device.desire(CUT_OFF)
    device.power_cut()
    assert values_in_force(device.record, device.now) == CUT_OFF, "the power may fail by chance"
    device.power_cut()
    device.desire(CUT_OFF)
    assert values_in_force(device.record, device.now) == OLD
    assert device.record.reason == "the machine was restarted in each of 2 trials"


def test_a_new_value_ends_the_trial_of_the_one_before() -> None:
    device = Device()
    device.desire(CUT_OFF)
    device.desire(GOOD)
    device.quiet(GOOD)
    assert device.running == GOOD
    device.desire(CUT_OFF)
    device.quiet(GOOD)
    assert device.history[-1] is TrialOutcome.CONFIRMED and device.running == GOOD


# -- wrong rules are found out --


def never_over(state: TrialState, now: Moment) -> tuple[TrialState, list[TrialAction]]:
    return state, []


def reload_first(state: TrialState, values: Any, now: Moment, number: int = 1) -> Any:
    """Takes what is on trial for confirmed at once."""
    record = replace(state.record, confirmed=values, trial=None, judged=values, reload_owed=True)
    return replace(state, record=record, reloading=True), [SaveRemoteConfig(record), ReloadWorkers()]


def any_answer(state: TrialState, asked_s: float) -> Any:
    trial = state.record.trial
    if trial is None:
        return state, []
    record = replace(state.record, confirmed=trial.values, trial=None)
    return replace(state, record=record), [SaveRemoteConfig(record)]


@pytest.mark.parametrize(
    ("rule", "wrong"), [("_over", never_over), ("_begun", reload_first), ("_answered", any_answer)]
)
def test_a_wrong_rule_of_trials_is_found_out(rule: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_trial, rule, wrong)
    with pytest.raises(AssertionError):
        for seed in range(40):
            test_random_lives_end_with_what_was_confirmed_last(seed)
