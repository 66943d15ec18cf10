"""Our plugin inside supervisord. Four watches run at every tick (5 s); see also `loop.py`.

`SentinelWatch`: supervisord restarts a sentinel that died, but does not see one that hangs. Where its status
file stood still for four ticks the sentinel gets a signal to dump its stacks, and at the fifth SIGKILL.

`SocketWatch`: where run/ was cleaned away no client can reach supervisord any more, and it would not notice.
The socket and the pid file are made again; no program is disturbed.

`LogWatch`: where log/ was removed supervisord starts no program any more. The folder is made again.

`LockWatch`: where state/ was removed `edgectl down` finds no process to end, and a second `edgectl up` no
lock. The lock is taken again; where another runtime was quicker this one ends.

Named in supervisord.conf as an rpcinterface, the only hook supervisord has for a plugin; it adds no call. It
runs in supervisord's own loop, and reaches that by `internals.py` alone, which guards it: a supervisor of
another make goes without what does not fit it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.adapters.process.home_mount import STARTED_IN, home_changed, remember_home
from runtime.adapters.process.process import (
    SUPERVISOR_PID,
    WAITS_FOR_DISK,
    Lock,
    kept_lock_is_lost,
    lock_holder,
    process_state,
)
from runtime.adapters.process.run_folder import restore
from runtime.adapters.process.status_file import note_asked_to_end, takes_beats
from runtime.adapters.supervisor.internals import (
    ChildEvent,
    Feature,
    RunningSupervisord,
    bound_pause,
    difference,
    make_logs_reliable,
)
from runtime.adapters.supervisor.loop import LoopWatchdog, WakeOnChildExit, signal_safe_fork
from runtime.adapters.supervisor.worker_fork import WorkerFork
from runtime.errors import UsageError

TICKS_TO_DUMP = 4
TICKS_TO_KILL = 5
DUMP_SIGNAL = signal.SIGUSR1
WAITING_CALLS = 128


class SentinelWatch:
    """Counts the ticks at which the sentinel made no progress."""

    def __init__(self, supervisord: RunningSupervisord, name: str = "sentinel") -> None:
        self._supervisord = supervisord
        self._name = name
        self._status = supervisord.home / "run" / f"{name}.status"
        self._last: tuple[int, int] | None = None
        self._still_ticks = 0

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        pid = self._supervisord.pid(self._name)
        current = (pid, self._beat())
        still = pid and current == self._last and takes_beats(self._status.parent)
        self._still_ticks = self._still_ticks + 1 if still else 0
        self._last = current
        if self._still_ticks and process_state(pid) == WAITS_FOR_DISK:
            return
        if self._still_ticks == TICKS_TO_DUMP:
            self._signal(pid, DUMP_SIGNAL)
        elif self._still_ticks >= TICKS_TO_KILL:
            self._supervisord.warn(f"{self._name} (pid {pid}) hangs: killing it with SIGKILL")
            self._signal(pid, signal.SIGKILL)
            self._still_ticks = 0

    def _beat(self) -> int:
        try:
            return self._status.stat().st_mtime_ns
        except OSError:
            return 0

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


class SocketWatch:
    """Keeps supervisord reachable. The server stays, with all its state: it gets another listening socket.

    Also where something else stands at the path: there the sentinel no longer reached us.
    """

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._supervisord = supervisord
        self._ours: dict[Path, tuple[int, int] | None] = {}

    def remember(self, _event: object) -> None:
        """Remember our files: supervisord's sockets are open, so what is at their paths now is ours."""
        self._ours = {path: _inode(path) for path, _, _ in self._supervisord.servers()}

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        for path, mode, server in self._supervisord.servers():
            present = _inode(path)
            if path not in self._ours or (present is not None and self._ours[path] == present):
                continue
            try:
                self._listen_again(path, mode, server)
            except OSError as exc:  # a full disk: at the next tick
                self._supervisord.warn(f"{path} is gone, and cannot be made again: {exc}")
            else:
                self._supervisord.warn(f"{path} was {'taken' if present else 'gone'}; made again")

    def _listen_again(self, path: Path, mode: int, server: Any) -> None:
        beside = path.with_suffix(".new")  # renamed into place: also over a socket that another process bound
        beside.unlink(missing_ok=True)
        fresh = _listening(beside, mode)
        try:
            if path.is_dir():
                path.rename(path.with_suffix(f".folder-{os.getpid()}"))
            beside.replace(path)
        except OSError:
            fresh.close()
            raise
        self._ours[path] = _inode(path)
        self._supervisord.listen_on(server, fresh, WAITING_CALLS)


def _inode(path: Path) -> tuple[int, int] | None:
    """The inode, which tells one file at a path from the next; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class HomeWatch:
    """Has the other watches restore what is gone, unless the home itself is another one."""

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._supervisord = supervisord
        self._home = supervisord.home
        self._gone = False
        if STARTED_IN not in os.environ:  # at a reload it is known already
            remember_home(self._home)

    def unless_gone(self, watch: Callable[[object], None]) -> Callable[[object], None]:
        """The watch as it is to be called at each tick."""

        def look(tick: object) -> None:
            if not self._is_gone():
                watch(tick)

        return look

    def _is_gone(self) -> bool:
        before, self._gone = self._gone, home_changed(self._home)
        if self._gone > before:
            self._supervisord.critical(f"{self._home} is another folder than at the start: its mount is gone")
        elif before and not self._gone:
            self._supervisord.warn(f"{self._home} is back")
        return self._gone


class StopsOnRequest:
    """Notes the processes that supervisord stops: a person asked for it, so the
    sentinel takes it for no crash.
    """

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._run = supervisord.home / "run"

    def __call__(self, stopping: ChildEvent) -> None:
        note_asked_to_end(self._run, stopping.program, stopping.pid)


class LogWatch:
    """Keeps a folder for the logs. Running programs write there again, not into the files that were
    removed.
    """

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._supervisord = supervisord

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        folder = self._supervisord.home / "log"
        if folder.exists():
            return
        try:
            folder.mkdir(mode=0o700)
            self._supervisord.reopen_logs()
        except OSError as exc:  # a full disk: at the next tick
            self._supervisord.warn(f"{folder} is gone, and cannot be made again: {exc}")
        else:
            self._supervisord.warn(f"{folder} was gone; made again")


class LockWatch:
    """Keeps the lock of `edgectl up`, which we hold, the one that other processes find."""

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._supervisord = supervisord
        self._path = supervisord.home / "state" / "supervisor.lock"

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        try:
            if not kept_lock_is_lost(self._path):
                return
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            Lock(self._path).keep_over_exec()
        except (OSError, UsageError) as exc:
            self._report(exc)
        else:
            self._supervisord.warn(f"{self._path} was gone; made again")

    def _report(self, exc: Exception) -> None:
        if lock_holder(self._path) is None:  # a full disk: at the next tick
            self._supervisord.warn(f"{self._path} is gone, and cannot be made again: {exc}")
            return
        self._supervisord.critical(f"ending, for there would be two of us: {exc}")
        self._supervisord.shut_down()


def _listening(path: Path, mode: int) -> socket.socket:
    """A listening socket that is found at `path` from now on."""
    restore(path.parent)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(mode)
        listening.listen(WAITING_CALLS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


class _NoCalls:
    """The rpcinterface that supervisord insists on."""


def make(supervisord: Any, still_s: str = "35", again_s: str = "12", fork: str = "on") -> object:
    """Build the plugin. supervisord calls this at every start and reload, with what its
    file says beside the factory.
    """
    running = RunningSupervisord(supervisord)
    if sentence := difference():
        running.critical(sentence)
    running.install(Feature.RELIABLE_LOGS, make_logs_reliable)
    running.install(Feature.CHECKED_RELOAD, running.check_reloads)
    _subscribe_watches(running)
    _subscribe_loop(running, float(still_s), float(again_s))
    running.subscribe_child(Feature.STOPS_ON_REQUEST, "ProcessStateStopping", StopsOnRequest(running))
    running.subscribe(Feature.BOUNDED_PAUSES, "ProcessStateBackoff", bound_pause)
    if fork == "on":
        running.install(Feature.SHARED_MEMORY, lambda: _fork_workers(running))
    return _NoCalls()


@functools.cache
def _worker_fork() -> WorkerFork:
    """One for the life of the process, which may be several runs of supervisord."""
    return WorkerFork()


def _fork_workers(running: RunningSupervisord) -> None:
    forks = _worker_fork()
    if forks.trouble:
        running.warn(f"workers start without shared memory: {forks.trouble}")
    running.run_before_exec(forks.run)
    running.subscribe_child(Feature.SHARED_MEMORY, "ProcessStateStarting", forks.look(running))


def _subscribe_watches(running: RunningSupervisord) -> None:
    sockets, home = SocketWatch(running), HomeWatch(running)
    running.subscribe(Feature.SENTINEL_WATCH, "Tick5", SentinelWatch(running))
    running.subscribe(Feature.SOCKET_WATCH, "SupervisorRunning", sockets.remember)
    for feature, watch in (
        (Feature.SOCKET_WATCH, sockets),
        (Feature.LOG_WATCH, LogWatch(running)),
        (Feature.LOCK_WATCH, LockWatch(running)),
    ):
        running.subscribe(feature, "Tick5", home.unless_gone(watch))


def _subscribe_loop(running: RunningSupervisord, still_s: float, again_s: float) -> None:
    """Have what works in the loop start with it: signals have their handlers, the sockets are open, and no
    program is started yet.
    """

    def wake_on_child_exit(_event: object) -> None:
        prompt = WakeOnChildExit(running)
        prompt.wake()  # or it would sit out its first wait before it starts a program
        for reaped in ("ProcessStateExited", "ProcessStateStopped"):
            running.subscribe_child(Feature.PROMPT_RESTARTS, reaped, prompt)

    def watch_loop(_event: object) -> None:
        running.subscribe(Feature.LOOP_WATCHDOG, "Tick5", LoopWatchdog(running, still_s, again_s))

    def name_parent(_event: object) -> None:
        os.environ[SUPERVISOR_PID] = str(os.getpid())  # here: a daemon is another process before this

    running.subscribe(Feature.PARENT, "SupervisorRunning", name_parent)
    running.subscribe(Feature.PROMPT_RESTARTS, "SupervisorRunning", wake_on_child_exit)
    running.subscribe(Feature.LOOP_WATCHDOG, "SupervisorRunning", watch_loop)
    running.install(Feature.SIGNALS_TO_CHILDREN, signal_safe_fork)
    running.subscribe_child(
        Feature.SIGNALS_TO_CHILDREN, "ProcessStateStopping", lambda child: signal_safe_fork()(child)
    )
