"""Health: which program hangs, gave up or dies too often, and the measures, from observations. Pure.

Invariants
    Only a program that an operator stopped (STOPPED) stays down.
    A worker is judged by *observed* idleness: looks at which it lived and its beat stood still. Suspend, a
    clock that jumps or a sentinel that was away add at most one look's worth, and so make no worker count as
    hung. One look never decides: a worker that was frozen with the sentinel gets the time to the next one.
    Every measure has a limit, and above the last limit stands the service manager.
    One worker that hangs again and again costs the others nothing: all start afresh where none progresses.
    A process that waits for a disk (state D) is not killed for it: the kill would bring only a restart.

The ladder
    hung worker                     -> Kill (supervisord restarts it at once)
    FATAL or EXITED                 -> StartAgain after 2, 4, 8, ... 30 s (BACKOFF is supervisord's own)
    the same worker hung 3 times in 15 min, and
        others progress             -> patience with it doubles each time, and an alarm
        no other progresses         -> RestartAll, at most twice an hour
        and again                   -> Withhold: the service manager's watchdog is fed no longer
    nine tenths of its descriptors used up -> StartAfresh, then Kill, and an alarm
    supervisord silent for 20 s     -> KillSupervisor; its children die with it, its manager starts it again.
                                       One that cannot be asked but still sends its ticks is not silent

Considered and left: judging by events (supervisord's buffer drops the oldest), by wall clock (it jumps), by
CPU time (a busy loop is no progress; but a worker that uses none before its first beat does not start: it
hangs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

ALIVE = frozenset({"RUNNING", "STARTING"})
GIVEN_UP = frozenset({"FATAL", "EXITED", "UNKNOWN"})
_SILENT_LOOK_S = 10.0  # a call to a silent supervisord takes its whole deadline, 5 s
PROVEN_AFTER_S = 60.0
"""The restart attempts of a program that stood for so long, and makes progress, are forgotten."""
LEAST_PATIENCE_S = 4.0
"""A worker with nothing to do reports every 2 s: with less patience the healthy would be killed."""
LONGEST_PATIENCE_S = 300.0
"""Longest patience with a worker that hangs again and again while others work."""
LOOKS_TO_DECIDE = 2
SPENT = 0.9
"""Share of the descriptors that a process may open: beyond it the next connections would fail."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The ends of patience, in seconds."""

    look_every_s: float = 5.0
    hang_after_s: float = 15.0
    start_grace_s: float = 60.0
    """Patience with a program that has not reported at all yet, or is busy with long work: slow disks,
    long recoveries. It holds as long as the program works."""
    retry_first_s: float = 2.0
    retry_max_s: float = 30.0
    restarts_to_alarm: int = 5
    restarts_window_s: float = 600.0
    hangs_to_escalate: int = 3
    hangs_window_s: float = 900.0
    restart_all_max: int = 2
    restart_all_window_s: float = 3600.0
    supervisor_silent_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Observation:
    """One program as one look sees it."""

    state: str
    pid: int
    beat: object = None
    """Differs from one progress to the next; None while this process has reported nothing."""
    work: object = None
    """Before the first beat, and where it reports long work: differs from look to look while it uses the
    CPU or waits for a disk. Else None."""
    started: int = 0
    """Its last start by supervisord's clock: it reveals a process that lived and died between two looks."""
    waits_for_disk: bool = False
    """The kernel cannot end it before its disk answers (state D)."""
    descriptors: float = 0.0
    """The share that it uses of the descriptors it may open."""
    asked: frozenset[int] = frozenset()
    """Processes of this program that an operator asked to end: no crash."""


@dataclass(frozen=True, slots=True)
class StartAfresh:
    """Ask this process to end: supervisord starts it again."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Dump the stacks of this process, then SIGKILL it."""

    worker: str
    pid: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start a program again that supervisord gave up."""

    worker: str
    state: str


@dataclass(frozen=True, slots=True)
class RestartAll:
    """Start all programs afresh: killing one worker does not help."""

    reason: str


@dataclass(frozen=True, slots=True)
class Withhold:
    """Stop feeding the service manager's watchdog: no measure helped."""

    reason: str


@dataclass(frozen=True, slots=True)
class KillSupervisor:
    """Kill supervisord, which is hung itself."""

    silent_s: float


Action: TypeAlias = Kill | StartAfresh | StartAgain | RestartAll | Withhold | KillSupervisor


@dataclass(frozen=True, slots=True)
class Alarm:
    """A condition that the operator should know of, for as long as it holds."""

    worker: str
    text: str
    kind: str = ""
    """The kind of trouble: it stays the same while the figures in the text change."""


@dataclass(slots=True)
class _Watch:
    """The memory of one program."""

    pid: int = 0
    started: int = 0
    beat: object = None
    work: object = None
    idle_s: float = 0.0
    looks: int = 0
    """Looks without progress in a row."""
    still_s: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    state: str = ""
    attempts: int = 0
    restarts: int = 0
    restarted_at_s: list[float] = field(default_factory=list)
    hung_at_s: list[float] = field(default_factory=list)
    helpless: bool = False
    """No measure helped; this ends where the worker stands and makes progress for a while."""
    spared: int = 0
    """Hangs after which not all programs started afresh, since it last stood for a while."""
    proven_s: float | None = None
    """The last progress of a process that had stood for longer than a hang takes to show."""
    disk_s: float = 0.0
    """Seconds that it has waited for a disk."""
    spent_s: float | None = None
    """The time at which it was asked to end because its descriptors were used up."""
    spent_at_s: list[float] = field(default_factory=list)


_REMEMBERED = (
    *("pid", "started", "attempts", "restarts", "restarted_at_s", "hung_at_s"),
    *("spared", "spent_at_s"),
)


class Health:
    """The judge of all programs. `now_s` is any clock that only goes forward within one boot."""

    def __init__(self, limits: HealthLimits, memory: Mapping[str, Any] | None = None) -> None:
        self._limits = limits
        self._last_s: float | None = None
        self._silent_s = 0.0
        self._watches: dict[str, _Watch] = {}
        self._restarted_all_at_s: list[float] = []
        self._recall(memory or {})

    def set_limits(self, limits: HealthLimits) -> None:
        """Judge by these limits from the next look on."""
        self._limits = limits

    def look(self, now_s: float, sights: Mapping[str, Observation]) -> list[Action]:
        """Take in one look at every program. Returns the measures to carry out."""
        elapsed_s = self._elapsed(now_s, at_most_s=2 * self._limits.look_every_s)
        self._silent_s = 0.0
        actions: list[Action] = []
        for worker, sight in sights.items():
            watch = self._watches.setdefault(worker, _Watch())
            self._notice(watch, sight, elapsed_s, now_s)
            if sight.state in ALIVE and sight.pid:
                actions += self._judge_descriptors(worker, watch, sight, now_s)
                actions += self._judge_living(worker, watch, now_s)
            elif sight.state in GIVEN_UP:
                actions += self._judge_fallen(worker, watch)
        return actions

    def silence(self, now_s: float, *, ticks: bool = False) -> list[Action]:
        """Take in that supervisord did not answer. `ticks`: it lives all the same, and cannot be asked."""
        self._silent_s += self._elapsed(now_s, at_most_s=_SILENT_LOOK_S)
        if ticks:
            self._silent_s = 0.0
        if self._silent_s <= self._limits.supervisor_silent_s:
            return []
        return [KillSupervisor(self._silent_s)]

    def alarms(self, now_s: float) -> list[Alarm]:
        """The conditions that the operator should know of now."""
        return [a for worker, watch in self._watches.items() for a in self._alarms_of(worker, watch, now_s)]

    def _alarms_of(self, worker: str, watch: _Watch, now_s: float) -> Iterator[Alarm]:
        window_s = self._limits.restarts_window_s
        often = _within(watch.restarted_at_s, now_s, window_s)
        if len(often) >= self._limits.restarts_to_alarm:
            text = f"restarted {len(often)} times within {window_s / 60:.0f} min"
            yield Alarm(worker, text, "restarts")
        if _within(watch.hung_at_s, now_s, self._limits.hangs_window_s):
            text = f"hung and was killed, {len(watch.hung_at_s)} times of late"
            if watch.spared:
                text += f"; others work, so it is now killed after {self._stretched_s(0, watch):.0f} s only"
            yield Alarm(worker, text, "hung")
        if watch.disk_s >= self._limits.hang_after_s:
            text = f"has waited {watch.disk_s:.0f} s for a disk, and nothing can end it before that answers"
            yield Alarm(worker, text, "disk")
        if spent := _within(watch.spent_at_s, now_s, self._limits.hangs_window_s):
            text = f"used up its file descriptors and was started afresh, {len(spent)} times of late"
            yield Alarm(worker, text, "descriptors")
        if watch.helpless:
            yield Alarm(worker, "nothing helped; it is left to the service manager", "helpless")
        if watch.state == "FATAL":
            yield Alarm(worker, "supervisord gave it up; it is being started again and again", "fatal")

    def helpless(self) -> bool:
        """True if the service manager is to act: the sentinel's own measures are used up."""
        return any(watch.helpless for watch in self._watches.values())

    def restarts(self) -> dict[str, int]:
        """The number of restarts of each program."""
        return {worker: watch.restarts for worker, watch in self._watches.items()}

    def memory(self) -> dict[str, Any]:
        """The memory for the next sentinel (JSON); times are only valid within the same boot."""
        return {
            "restarted_all_at_s": self._restarted_all_at_s,
            "watches": {
                worker: {name: getattr(watch, name) for name in _REMEMBERED}
                for worker, watch in self._watches.items()
            },
        }

    def _recall(self, memory: Mapping[str, Any]) -> None:
        """Restore the memory. A value of another type comes from another program, and counts as nothing."""
        self._restarted_all_at_s = _moments(memory.get("restarted_all_at_s"))
        watches = memory.get("watches")
        for worker, kept in watches.items() if isinstance(watches, dict) else ():
            if isinstance(kept, dict):
                self._watches[worker] = _watch_of(kept)

    def _elapsed(self, now_s: float, at_most_s: float) -> float:
        """Seconds since the last look; after a long gap, in which no sentinel watched, only `at_most_s`."""
        last_s, self._last_s = self._last_s, now_s
        return 0.0 if last_s is None else min(max(0.0, now_s - last_s), at_most_s)

    def _notice(self, watch: _Watch, sight: Observation, elapsed_s: float, now_s: float) -> None:
        """Bring the memory of a program up to date with an observation."""
        another = sight.pid and sight.pid != watch.pid
        unseen = sight.started and not sight.pid and watch.started not in (0, sight.started)
        if (another and watch.pid) or unseen:
            watch.restarts += 1
        if unseen or (another and watch.pid and watch.pid not in sight.asked):
            watch.restarted_at_s = [*_within(watch.restarted_at_s, now_s, 3600.0), now_s]
        watch.started = sight.started
        if another:
            watch.pid, watch.beat, watch.work = sight.pid, None, None
            watch.idle_s = watch.still_s = watch.up_s = watch.disk_s = 0.0
            watch.spent_s = None
            watch.looks = 0
        moved = sight.beat != watch.beat
        watch.looks = 0 if moved else watch.looks + 1
        watch.disk_s = watch.disk_s + elapsed_s if sight.waits_for_disk and not moved else 0.0
        if moved or not sight.waits_for_disk:
            watch.idle_s = 0.0 if moved else watch.idle_s + elapsed_s
        still = not moved and sight.work is not None and sight.work == watch.work
        watch.still_s = watch.still_s + elapsed_s if still else 0.0
        watch.up_s = watch.up_s + elapsed_s if sight.state in ALIVE else 0.0
        watch.down_s = watch.down_s + elapsed_s if sight.state == watch.state else 0.0
        watch.beat, watch.work, watch.state = sight.beat, sight.work, sight.state
        if moved and watch.up_s >= self._limits.hang_after_s:
            watch.proven_s = now_s
        if watch.up_s > PROVEN_AFTER_S and watch.idle_s == 0:
            watch.attempts, watch.helpless, watch.spared = 0, False, 0

    def _judge_descriptors(
        self, worker: str, watch: _Watch, sight: Observation, now_s: float
    ) -> list[Action]:
        if sight.descriptors < SPENT:
            watch.spent_s = None
            return []
        if watch.spent_s is None:
            watch.spent_s = now_s
            watch.spent_at_s = [*_within(watch.spent_at_s, now_s, self._limits.hangs_window_s), now_s]
            return [StartAfresh(worker, f"{sight.descriptors:.0%} of its file descriptors are used up")]
        if now_s - watch.spent_s < self._limits.hang_after_s:
            return []
        return [Kill(worker, watch.pid, now_s - watch.spent_s)]

    def _judge_living(self, worker: str, watch: _Watch, now_s: float) -> list[Action]:
        busy = watch.beat is None or watch.work is not None
        limit_s = self._limits.start_grace_s if busy else self._limits.hang_after_s
        still_too_long = watch.still_s >= self._stretched_s(self._limits.hang_after_s, watch)
        if watch.looks < LOOKS_TO_DECIDE:
            return []
        if watch.idle_s < self._stretched_s(limit_s, watch) and not still_too_long:
            return []
        idle_s = watch.idle_s
        watch.idle_s = watch.still_s = 0.0  # it gets as long again before it is killed again
        watch.hung_at_s = [*_within(watch.hung_at_s, now_s, self._limits.hangs_window_s), now_s]
        if len(watch.hung_at_s) < self._limits.hangs_to_escalate:
            return [Kill(worker, watch.pid, idle_s)]
        if self._another_progresses(watch, now_s):
            watch.spared += 1
            return [Kill(worker, watch.pid, idle_s)]
        return [Kill(worker, watch.pid, idle_s), self._escalate(worker, watch, now_s)]

    def _stretched_s(self, limit_s: float, watch: _Watch) -> float:
        """Patience with the program: twice as long after each hang after which not all started afresh."""
        stretched_s = self._limits.hang_after_s * 2.0 ** min(watch.spared, 16)
        return max(limit_s, min(stretched_s, LONGEST_PATIENCE_S)) if watch.spared else limit_s

    def _another_progresses(self, watch: _Watch, now_s: float) -> bool:
        """True if another worker progresses. A new process's first report is none: it may hang after it."""
        since_s = now_s - 2 * (self._limits.hang_after_s + self._limits.look_every_s)
        others = (other for other in self._watches.values() if other is not watch)
        return any(other.proven_s is not None and other.proven_s > since_s for other in others)

    def _escalate(self, worker: str, watch: _Watch, now_s: float) -> Action:
        reason = (
            f"{worker} hung {len(watch.hung_at_s)} times within {self._limits.hangs_window_s / 60:.0f} min"
        )
        past = _within(self._restarted_all_at_s, now_s, self._limits.restart_all_window_s)
        if len(past) >= self._limits.restart_all_max:
            watch.helpless = True
            return Withhold(reason)
        self._restarted_all_at_s = [*past, now_s]
        watch.hung_at_s = []
        return RestartAll(reason)

    def _judge_fallen(self, worker: str, watch: _Watch) -> list[Action]:
        pause_s = min(self._limits.retry_max_s, self._limits.retry_first_s * 2 ** min(watch.attempts, 16))
        if watch.down_s < pause_s:
            return []
        watch.attempts += 1
        watch.down_s = 0.0
        return [StartAgain(worker, watch.state)]


def _within(moments_s: list[float], now_s: float, window_s: float) -> list[float]:
    """The moments of the last `window_s`; one from the future is of another boot."""
    return [at_s for at_s in moments_s if now_s - window_s <= at_s <= now_s]


def _moments(value: object) -> list[float]:
    """The numbers in a list."""
    listed = value if isinstance(value, list) else []
    return [moment for moment in listed if type(moment) in (int, float) and math.isfinite(moment)]


def _watch_of(kept: Mapping[str, Any]) -> _Watch:
    watch = _Watch()
    for name in _REMEMBERED:
        value = kept.get(name)
        if isinstance(getattr(watch, name), list):
            setattr(watch, name, _moments(value))
        elif type(value) is int:
            setattr(watch, name, value)
    return watch
