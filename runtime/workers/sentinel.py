"""sentinel: restarts every program that dies, hangs or gives up.

It is an event listener of supervisord. At each tick it looks at every program (state from supervisord,
progress from the status files), has `core/operations/health.py` judge, and carries out the measures. Events
only wake it: it queries the facts itself. It feeds the service manager's watchdog, and is itself watched from
inside supervisord (`adapters/supervisor/plugin.py`).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.home_mount import HomeGone
from runtime.adapters.process.logs import tail
from runtime.adapters.process.process import (
    DUMP_SIGNAL,
    WAITS_FOR_DISK,
    Stop,
    notify_service_manager,
    open_descriptors,
    process_state,
    process_work,
    supervised,
)
from runtime.adapters.process.status_file import (
    BUSY,
    asked_to_end,
    beat_of,
    note_asked_to_end,
    read_status,
    takes_beats,
)
from runtime.adapters.supervisor.event_listener import EventListener, SupervisorGone
from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.config import Config
from runtime.core.log_events import LogEvent
from runtime.core.operations.health import (
    LEAST_PATIENCE_S,
    Action,
    Alarm,
    Health,
    HealthLimits,
    Kill,
    KillSupervisor,
    Observation,
    RestartAll,
    StartAfresh,
    StartAgain,
    Withhold,
)
from runtime.core.operations.optional_programs import switches
from runtime.errors import Rejected, Retryable, UsageError
from runtime.layout import OPTIONAL_WORKERS, PROGRAMS, WORKERS, Layout
from runtime.settings import enabled_workers
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.sentinel_metrics import MetricsFile
from runtime.workers.sentinel_rates import ObservedRates
from runtime.workers.update_news import UpdateNews

NAME = "sentinel"
TURN_S = 1.0
"""Longest time for which a changed configuration may go unnoticed."""
JUST_NOW_S = 2.0
"""A tick that comes so soon after a look brings no other: a look takes 10 ms, with supervisord's answer."""
DUMP_TIME_S = 1.0
"""Seconds that a process gets to write its stacks before it is killed."""
LAST_LINES = 20
SELECTABLE = 1024
"""FD_SETSIZE: paho waits with select(), which takes no descriptor beyond."""


def run(config: Config, stop: Stop) -> None:
    """Look, judge, act, until asked to stop or supervisord is gone."""
    if not supervised():
        raise UsageError("the sentinel is an event listener of supervisord; `edgectl up` starts it")
    clock = SystemClock()
    sentinel, watch = SentinelLoop(config, stop), ConfigWatch(config, NAME, clock)
    listener, news = EventListener(), UpdateNews(config.settings.update.journal_folder)
    next_s, looked_s = 0.0, -math.inf
    ticks = False
    with contextlib.suppress(SupervisorGone):
        while not stop.requested():
            now_s = time.monotonic()
            if watch.changed():
                sentinel.reconfigure(watch.config)
                next_s = now_s
            if now_s >= next_s:
                news.look(clock.wall_s())
                answered = sentinel.look(now_s, ticks=ticks)
                every_s = watch.config.settings.sentinel.look_every_s
                next_s, looked_s, ticks = now_s + (every_s if answered else 1.0), now_s, False
            if listener.wait(min(next_s - time.monotonic(), TURN_S), also=[stop]) == "TICK_5":
                ticks = True
                if time.monotonic() - looked_s >= JUST_NOW_S:
                    next_s = 0.0
    # Not STOPPING=1: the sentinel alone may be restarted (`supervisorctl restart`). systemd would take it for
    # the end of the whole service, and kill every process when the time for that is over.


class SentinelLoop:
    """The observations and the actions around the judge."""

    def __init__(self, config: Config, stop: Stop) -> None:
        self._layout = config.layout
        self._supervisor = Supervisor(config.layout.supervisor_socket)
        self._heart = Heartbeat(self._layout, NAME, SystemClock(), stop)
        self._health = Health(_limits(config), memory_of(self._layout))
        self._rates = ObservedRates(self._layout)
        self._alarms_logged: frozenset[tuple[str, str]] = frozenset()
        self._rpc_trouble = ""
        """The reason why supervisord cannot be asked, while its ticks show that it lives."""
        self._ready = False
        self._programs: Mapping[str, Program] = {}
        self._settings = config.settings
        self._metrics = MetricsFile(self._layout, SystemClock())
        self._withheld = _withheld(self._layout)
        """The optional workers that were off by their setting at the last look."""
        self._blind = False
        """No beat can be written: a missing beat means nothing then."""

    def reconfigure(self, config: Config) -> None:
        """Judge by the limits of this configuration from now on."""
        self._health.set_limits(_limits(config))
        self._settings = config.settings

    def look(self, now_s: float, *, ticks: bool = False) -> bool:
        """Look at every program once, and carry out the measures. Returns true if supervisord answered.

        `ticks`: true if a tick of supervisord came since the last look.
        """
        try:
            sights = self._observations()
            actions = self._health.look(now_s, sights)
            self._rpc_trouble = ""
        except Rejected:  # it is shutting down, or restarting: not the moment to start anything
            actions, sights = [], {}
        except Retryable as exc:
            logger.bind(event=LogEvent.SUPERVISOR_SILENT).warning("{}", exc)
            actions, sights = self._health.silence(now_s, ticks=ticks), None
            if ticks:
                self._rpc_trouble = str(exc)
        for action in actions:
            self._perform(action)
        self._report(now_s, sights)
        if sights:
            self._metrics.write(self._programs, self._settings)
        return sights is not None

    def _observations(self) -> dict[str, Observation]:
        programs = self._programs = self._supervisor.programs()
        self._switch(programs)
        before, self._blind = self._blind, not takes_beats(self._layout.run)
        if self._blind > before:
            logger.bind(event=LogEvent.RUN_NOT_WRITABLE).error(
                "{} cannot be written: nobody can show progress, and nobody is killed", self._layout.run
            )
        watched = [p for name, p in programs.items() if name in PROGRAMS and name != NAME]
        return {program.name: self._observation(program) for program in watched}

    def _switch(self, programs: Mapping[str, Program]) -> None:
        """Start and stop the optional workers, as their settings say."""
        enabled = enabled_workers(self._settings)
        there = {n: (p.state, p.started > 0) for n, p in programs.items() if n in OPTIONAL_WORKERS}
        for switch in switches(enabled, there, self._withheld):
            logger.info("{} is switched {}", switch.program, "on" if switch.on else "off")
            if switch.on:
                self._start_again(switch.program)
            else:
                note_asked_to_end(self._layout.run, switch.program, programs[switch.program].pid)
                self._supervisor.stop(switch.program)
        self._withheld = frozenset(OPTIONAL_WORKERS) - enabled

    def _observation(self, program: Program) -> Observation:
        if self._blind:
            return Observation(program.state, program.pid, time.monotonic(), started=program.started)
        file = self._layout.status_file(program.name)
        beat = beat_of(file, program.pid)
        busy = beat is None or (read_status(file) or {}).get(BUSY)
        work = process_work(program.pid) if busy else None
        return Observation(
            program.state,
            program.pid,
            beat,
            work,
            program.started,
            waits_for_disk=process_state(program.pid) == WAITS_FOR_DISK,
            descriptors=descriptors_of(program),
            asked=frozenset(asked_to_end(self._layout.run, program.name)),
        )

    def _report(self, now_s: float, sights: dict[str, Observation] | None) -> None:
        """Write the status file, log what is new, and tell the service manager that the sentinel runs."""
        alarms = self._health.alarms(now_s)
        if self._rpc_trouble:
            text = f"lives, but cannot be asked ({self._rpc_trouble}): hung workers are not seen"
            alarms.append(Alarm("supervisord", text, "unheard"))
        for alarm in alarms:
            if (alarm.worker, alarm.kind) not in self._alarms_logged:
                last = tail(self._layout.log / f"{alarm.worker}.log", LAST_LINES)
                logger.bind(event=LogEvent.WORKER_ALARM, alarm=alarm.worker).error(
                    "{}: {}\n{}", alarm.worker, alarm.text, last
                )
        self._alarms_logged = frozenset((alarm.worker, alarm.kind) for alarm in alarms)
        running = sum(s.state == "RUNNING" for s in (sights or {}).values())
        with contextlib.suppress(HomeGone):  # we stay: the workers come back with the disk
            self._heart.publish(
                {
                    "restarts": self._health.restarts(),
                    "alarms": [{"worker": a.worker, "text": a.text} for a in alarms],
                    **self._rates.look(
                        now_s, [os.getpid(), *(s.pid for s in (sights or {}).values() if s.pid)]
                    ),
                    "supervisor_pid": os.getppid(),
                    "memory": self._health.memory(),
                    "withheld": sorted(self._withheld),
                },
                now=True,
            )
        if (sights is not None or self._rpc_trouble) and not self._health.helpless():
            ready = "" if self._ready else "READY=1\n"
            notify_service_manager(f"{ready}WATCHDOG=1\nSTATUS={running} of {len(WORKERS)} workers running")
            self._ready = True

    def _perform(self, action: Action) -> None:
        match action:
            case Kill(worker, pid, idle_s):
                self._kill(worker, pid, idle_s)
            case StartAfresh(worker, reason):
                logger.bind(event=LogEvent.WORKER_STARTS_AFRESH).error(
                    "{}: {}, so it starts afresh", worker, reason
                )
                with contextlib.suppress(Rejected, Retryable):
                    self._supervisor.signal(worker, "TERM")
            case StartAgain(worker, state):
                logger.bind(event=LogEvent.WORKER_STARTED_AGAIN).warning(
                    "{} is {}: starting it again", worker, state
                )
                self._start_again(worker)
            case RestartAll(reason):
                logger.bind(event=LogEvent.EVERYTHING_RESTARTED).error("{}: restarting everything", reason)
                with contextlib.suppress(Rejected, Retryable):
                    self._supervisor.restart_all()
            case Withhold(reason):
                logger.bind(event=LogEvent.WATCHDOG_WITHHELD).critical(
                    "{}, and restarting everything did not help: the watchdog gets no more", reason
                )
            case KillSupervisor(silent_s):
                logger.bind(event=LogEvent.SUPERVISOR_KILLED).critical(
                    "supervisord has been silent for {:.0f} s: killing it", silent_s
                )
                os.kill(os.getppid(), signal.SIGKILL)  # and the kernel kills us with it

    def _kill(self, worker: str, pid: int, idle_s: float) -> None:
        """Kill a worker. Its stacks go into its log first: SIGKILL leaves no other trace."""
        doing = process_state(pid)
        logger.bind(event=LogEvent.WORKER_KILLED).error(
            "{} (pid {}, {}) made no progress for {:.0f} s: killing it", worker, pid, doing, idle_s
        )
        try:
            handle = os.pidfd_open(pid)  # from here on the number cannot mean another process
        except ProcessLookupError:
            return
        try:
            if doing != "stopped":  # one that is stopped cannot answer
                signal.pidfd_send_signal(handle, DUMP_SIGNAL)
                time.sleep(DUMP_TIME_S)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it died by itself meanwhile
        finally:
            os.close(handle)

    def _start_again(self, worker: str) -> None:
        try:
            self._supervisor.start(worker)
        except (Rejected, Retryable) as exc:
            logger.bind(event=LogEvent.WORKER_NOT_STARTED).warning("{} could not be started: {}", worker, exc)


def _limits(config: Config) -> HealthLimits:
    settings = config.settings.sentinel
    return HealthLimits(
        look_every_s=settings.look_every_s,
        hang_after_s=max(settings.hang_after_s, LEAST_PATIENCE_S),
        start_grace_s=settings.start_grace_s,
        restarts_to_alarm=settings.alarm_restarts,
    )


def descriptors_of(program: Program) -> float:
    """The share used of the descriptors that it may open; but for ingest, of those that select() can take."""
    opened = open_descriptors(program.pid) if program.pid else None
    if opened is None:
        return 0.0
    count, limit = opened
    return count / (limit if program.name == "ingest" else min(limit, SELECTABLE))


def memory_of(layout: Layout) -> dict[str, Any]:
    """The memory of the sentinel before, as far as it still holds."""
    last = read_status(layout.status_file(NAME)) or {}
    memory = last.get("memory")
    if last.get("boot_id") != SystemClock().boot_id() or not isinstance(memory, dict):
        return {}
    if last.get("supervisor_pid") != os.getppid():  # other processes; only the ladder's limits go on
        return {"restarted_all_at_s": memory.get("restarted_all_at_s", [])}
    return memory


def _withheld(layout: Layout) -> frozenset[str]:
    """The optional workers that the sentinel before kept off; all, where it left no word."""
    found = (read_status(layout.status_file(NAME)) or {}).get("withheld")
    return frozenset(found) if isinstance(found, list) else frozenset(OPTIONAL_WORKERS)
