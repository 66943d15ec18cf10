"""Settings that the cloud desires: tried, confirmed by reaching the hub again, or taken back.

Theory of operation

    desired --refused by a rule-----------------------------------------------> REFUSED
       |
       +--> [save the trial] --> reload --a worker refuses---------------------> REFUSED     [save, reload]
                                   |
                                   v
                              ON TRIAL --the hub answers a later question------> CONFIRMED   [save]
                                   +-----the time is over----------------------> TAKEN BACK  [save, reload]

The record on disk holds what was confirmed last and what is on trial beside it. `values_in_force` picks one
of the two, and every worker that starts reads its configuration by it, so no other process is needed to end a
trial: it holds in the boot in which it began, for its time. The management worker ends it on disk, and has
the workers reload.

Invariants:

1. In force is what was confirmed last or what is on trial, whatever ends when; never a part of either.
2. A trial ends: confirmed by an answer to a question that was asked after the reload, or taken back.
3. A trial that a reboot ended begins once more; one that reboots the machine does so twice at most.
4. A value that was judged is not tried again until it changes.

Considered and left: a confirmation by a connection that is merely up (a setting that cuts it off may take a
moment to do so); those settings of a value that are in order, without the others (an untested mixture).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from runtime.core.management.twin_rules import same
from runtime.core.moment import Moment

MOST_TRIALS = 2
"""A trial that a reboot ended is begun once more: the power may have failed for another reason."""
MOST_REASON_CHARACTERS = 1_000

Values = Mapping[str, Any]
"""Tables with their settings, as in edge.toml."""


class TrialOutcome(StrEnum):
    """The outcome of the value that was desired last."""

    NONE = "none"
    ON_TRIAL = "on trial"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    TAKEN_BACK = "taken back"


@dataclass(frozen=True, slots=True)
class ConfigTrial:
    """Values in force for a while."""

    values: Values
    began: Moment
    limit_s: float
    number: int = 1

    def left_s(self, now: Moment) -> float:
        """Seconds until it is over; in another boot it is."""
        passed_s = now.boot_s - self.began.boot_s if now.boot_id == self.began.boot_id else self.limit_s
        return max(0.0, self.limit_s - max(0.0, passed_s))


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """The record on disk."""

    confirmed: Values = field(default_factory=dict)
    trial: ConfigTrial | None = None
    judged: Values | None = None
    """The desired value that `outcome` is about."""
    outcome: TrialOutcome = TrialOutcome.NONE
    reason: str = ""
    reload_owed: bool = False
    """The workers may still run with other values than those in force."""


def values_in_force(record: RemoteConfig, now: Moment) -> Values:
    """The settings of the cloud that a worker reads which starts now."""
    trial = record.trial
    return trial.values if trial and trial.left_s(now) > 0.0 else record.confirmed


def described(record: RemoteConfig) -> dict[str, Any]:
    """The part of it in the twin's section `runtime`."""
    reason = {"reason": record.reason} if record.reason else {}
    return {"state": str(record.outcome), **reason}


@dataclass(frozen=True, slots=True)
class TrialPolicy:
    """The settings of trials."""

    limit_s: float = 600.0
    proof_after_s: float = 5.0
    """A question that the hub answers counts where it was asked so long after the reload: a setting that cuts
    the device off may take a moment to do so."""


@dataclass(frozen=True, slots=True)
class TrialState:
    """The record, and what this process knows besides."""

    record: RemoteConfig = RemoteConfig()
    policy: TrialPolicy = TrialPolicy()
    applied_s: float | None = None
    """Boot seconds at which the workers had taken what is on trial."""
    reloading: bool = False
    reload_again: bool = False
    """The record changed while the workers reloaded."""


# --- events ---


@dataclass(frozen=True, slots=True)
class ConfigDesired:
    """The twin desires these settings; `problems` says what is wrong with them, a sentence each."""

    values: Values
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReloadFinished:
    """The workers have read their configuration; `problems` names those that refused it, and why."""

    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class HubAnswered:
    """The hub answered a question that was asked at `asked_s` by the boot clock."""

    asked_s: float


@dataclass(frozen=True, slots=True)
class TrialTick:
    """Time has passed."""


TrialEvent = ConfigDesired | ReloadFinished | HubAnswered | TrialTick


# --- actions ---


@dataclass(frozen=True, slots=True)
class SaveRemoteConfig:
    """Have the record on disk before the next action, whole or not at all."""

    record: RemoteConfig


@dataclass(frozen=True, slots=True)
class ReloadWorkers:
    """Have every worker read its configuration; the end comes back as ReloadFinished."""


TrialAction = SaveRemoteConfig | ReloadWorkers
TrialStep = tuple[TrialState, list[TrialAction]]


def started(record: RemoteConfig, policy: TrialPolicy, now: Moment) -> TrialStep:
    """The state of a new process, and what is still to be done."""
    if record.outcome is TrialOutcome.REFUSED:
        record = replace(record, judged=None)  # the rules may be others by now
    state, trial = TrialState(record, policy), record.trial
    if trial is None:
        return _reload(state) if record.reload_owed else (state, [])
    if trial.left_s(now) > 0.0:
        return _reload(state)
    if trial.began.boot_id != now.boot_id and trial.number < MOST_TRIALS:
        return _begun(state, trial.values, now, trial.number + 1)
    return _ended(state, TrialOutcome.TAKEN_BACK, _why_over(trial, now))


def needs_check(state: TrialState, values: Values) -> bool:
    """True where these desired values were not judged yet."""
    return state.record.judged is None or not same(values, state.record.judged)


def after(state: TrialState, event: TrialEvent, now: Moment) -> TrialStep:
    """The state after an event, and the actions due, in order."""
    state, actions = _over(state, now)
    match event:
        case ConfigDesired(values, problems) if needs_check(state, values):
            state, more = _desired(state, values, problems, now)
        case ReloadFinished(problems):
            state, more = _reloaded(state, problems, now)
        case HubAnswered(asked_s):
            state, more = _answered(state, asked_s)
        case _:
            more = []
    return state, [*actions, *more]


def wait_s(state: TrialState, now: Moment) -> float | None:
    """Seconds until a tick is due."""
    return state.record.trial.left_s(now) if state.record.trial else None


# --- steps ---


def _saved(state: TrialState, **changes: Any) -> TrialStep:
    record = replace(state.record, **changes)
    return replace(state, record=record), [SaveRemoteConfig(record)]


def _reload(state: TrialState) -> TrialStep:
    if state.reloading:
        return replace(state, reload_again=True, applied_s=None), []
    return replace(state, reloading=True, applied_s=None), [ReloadWorkers()]


def _begun(state: TrialState, values: Values, now: Moment, number: int = 1) -> TrialStep:
    trial = ConfigTrial(values, now, state.policy.limit_s, number)
    outcome = TrialOutcome.ON_TRIAL
    state, save = _saved(state, trial=trial, judged=values, outcome=outcome, reason="", reload_owed=True)
    state, reload = _reload(state)
    return state, [*save, *reload]


def _ended(state: TrialState, outcome: TrialOutcome, reason: str) -> TrialStep:
    """The configuration that was confirmed last holds again."""
    reason = reason[:MOST_REASON_CHARACTERS]
    state, save = _saved(state, trial=None, outcome=outcome, reason=reason, reload_owed=True)
    state, reload = _reload(state)
    return state, [*save, *reload]


def _why_over(trial: ConfigTrial, now: Moment) -> str:
    if trial.began.boot_id != now.boot_id:
        return f"the machine was restarted in each of {trial.number} trials"
    return f"the hub was not reached within {trial.limit_s:g} s"


def _over(state: TrialState, now: Moment) -> TrialStep:
    trial = state.record.trial
    if trial is None or trial.left_s(now) > 0.0:
        return state, []
    return _ended(state, TrialOutcome.TAKEN_BACK, _why_over(trial, now))


def _desired(state: TrialState, values: Values, problems: Sequence[str], now: Moment) -> TrialStep:
    """Judge a new value; one that came before it, and is on trial, ends."""
    record = replace(state.record, judged=values)
    state = replace(state, record=record)
    if problems:
        outcome, reason = TrialOutcome.REFUSED, "; ".join(problems)
    elif same(values, record.confirmed):
        outcome, reason = TrialOutcome.CONFIRMED, ""
    else:
        return _begun(state, values, now)
    if record.trial:
        return _ended(state, outcome, reason)
    return _saved(state, outcome=outcome, reason=reason[:MOST_REASON_CHARACTERS])


def _reloaded(state: TrialState, problems: Sequence[str], now: Moment) -> TrialStep:
    again = state.reload_again
    state = replace(state, reloading=False, reload_again=False)
    if again:
        return _reload(state)
    if state.record.trial is None:
        return _saved(state, reload_owed=False)  # who refused keeps what it had, and says so in its log
    if problems:
        return _ended(state, TrialOutcome.REFUSED, "; ".join(problems))
    return replace(state, applied_s=now.boot_s), []


def _answered(state: TrialState, asked_s: float) -> TrialStep:
    trial, applied_s = state.record.trial, state.applied_s
    if trial is None or applied_s is None or asked_s < applied_s + state.policy.proof_after_s:
        return state, []
    return _saved(
        state, confirmed=trial.values, trial=None, outcome=TrialOutcome.CONFIRMED, reload_owed=False
    )
