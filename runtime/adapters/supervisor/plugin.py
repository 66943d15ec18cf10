"""Our plugin inside supervisord. Four watches run at every tick (5 s); see also `loop_patches.py`.

`SentinelWatch`: supervisord restarts a sentinel that died, but does not see one that hangs. Where its status
file stood still for four ticks the sentinel gets a signal to dump its stacks, and at the fifth SIGKILL.

`SocketWatch`: where run/ was cleaned away no client can reach supervisord any more, and it would not notice.
The socket and the pid file are made again; no program is disturbed.

`LogWatch`: where log/ was removed supervisord starts no program any more. The folder is made again.

`LockWatch`: where state/ was removed `edgectl down` finds no process to end, and a second `edgectl up` no
lock. The lock is taken again; where another runtime was quicker this one ends.

`logs_outlive_the_disk`: on a full disk supervisord ends, or a worker hangs, over a log due to roll over.

Named in supervisord.conf as an rpcinterface, the only hook supervisord has for a plugin; it adds no call. It
must be small and never raise: it runs in supervisord's own loop.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Sequence
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
from runtime.adapters.process.status_file import note_asked_to_end, takes_beats
from runtime.adapters.supervisor.loop_patches import (
    LoopWatchdog,
    ValidatedReload,
    WakeOnChildExit,
    newborn,
    refuse_in_words,
    try_again_soon,
)
from runtime.errors import UsageError

TICKS_TO_DUMP = 4
TICKS_TO_KILL = 5
DUMP_SIGNAL = signal.SIGUSR1
WAITING_CALLS = 128


class SentinelWatch:
    """Counts the ticks at which the sentinel made no progress."""

    def __init__(self, supervisord: Any, name: str = "sentinel") -> None:
        self._supervisord = supervisord
        self._name = name
        self._status = Path(supervisord.options.here) / "run" / f"{name}.status"
        self._seen: tuple[int, int] | None = None
        self._still = 0

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        pid = self._pid()
        seen = (pid, self._beat())
        still = pid and seen == self._seen and takes_beats(self._status.parent)
        self._still = self._still + 1 if still else 0
        self._seen = seen
        if self._still and process_state(pid) == WAITS_FOR_DISK:
            return
        if self._still == TICKS_TO_DUMP:
            self._signal(pid, DUMP_SIGNAL)
        elif self._still >= TICKS_TO_KILL:
            self._supervisord.options.logger.warn(f"{self._name} (pid {pid}) hangs: killing it with SIGKILL")
            self._signal(pid, signal.SIGKILL)
            self._still = 0

    def _pid(self) -> int:
        group = self._supervisord.process_groups.get(self._name)
        process = group.processes.get(self._name) if group else None
        return process.pid if process else 0

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

    def __init__(self, supervisord: Any) -> None:
        self._options = supervisord.options
        self._ours: dict[Path, tuple[int, int] | None] = {}

    def remember(self, _event: object) -> None:
        """Remember our files: supervisord's sockets are open, so what is at their paths now is ours."""
        paths = [Path(config["file"]) for config, _ in self._options.httpservers if "file" in config]
        self._ours = {path: _inode(path) for path in paths}

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        for config, server in self._options.httpservers:
            path = Path(config.get("file", "/"))
            found = _inode(path)
            if path not in self._ours or (found is not None and self._ours[path] == found):
                continue
            try:
                self._listen_again(path, config["chmod"], server)
            except OSError as exc:  # a full disk: at the next tick
                self._options.logger.warn(f"{path} is gone, and cannot be made again: {exc}")
            else:
                self._options.logger.warn(f"{path} was {'taken' if found else 'gone'}; made again")

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
        server.close()
        server.set_socket(fresh)
        server.listen(WAITING_CALLS)
        Path(self._options.pidfile).write_text(f"{os.getpid()}\n")


def _inode(path: Path) -> tuple[int, int] | None:
    """The inode, which tells one file at a path from the next; None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class HomeWatch:
    """Has the other watches restore what is gone, unless the home itself is another one."""

    def __init__(self, supervisord: Any, watches: Sequence[Callable[[object], None]]) -> None:
        self._options = supervisord.options
        self._home = Path(supervisord.options.here)
        self._watches = watches
        self._gone = False
        if STARTED_IN not in os.environ:  # at a reload it is known already
            remember_home(self._home)

    def __call__(self, tick: object) -> None:
        """One tick (5 s)."""
        before, self._gone = self._gone, home_changed(self._home)
        if self._gone > before:
            self._options.logger.critical(
                f"{self._home} is another folder than at the start: its mount is gone"
            )
        elif before and not self._gone:
            self._options.logger.warn(f"{self._home} is back")
        for watch in self._watches if not self._gone else ():
            watch(tick)


class AskedToEnd:
    """Notes the processes that supervisord stops: a person asked for it, so the
    sentinel takes it for no crash.
    """

    def __init__(self, supervisord: Any) -> None:
        self._run = Path(supervisord.options.here) / "run"

    def __call__(self, stopping: Any) -> None:
        note_asked_to_end(self._run, stopping.process.config.name, stopping.process.pid)


class LogWatch:
    """Keeps a folder for the logs. Running programs write there again, not into the files that were
    removed.
    """

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        options = self._supervisord.options
        folder = Path(options.here) / "log"
        if folder.exists():
            return
        try:
            folder.mkdir(mode=0o700)
            options.reopenlogs()
            for group in self._supervisord.process_groups.values():
                group.reopenlogs()
        except OSError as exc:  # a full disk: at the next tick
            options.logger.warn(f"{folder} is gone, and cannot be made again: {exc}")
        else:
            options.logger.warn(f"{folder} was gone; made again")


class LockWatch:
    """Keeps the lock of `edgectl up`, which we hold, the one that other processes find."""

    def __init__(self, supervisord: Any) -> None:
        self._options = supervisord.options
        self._path = Path(supervisord.options.here) / "state" / "supervisor.lock"

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        try:
            if not kept_lock_is_lost(self._path):
                return
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            Lock(self._path).keep_over_exec()
        except (OSError, UsageError) as exc:
            self._without(exc)
        else:
            self._options.logger.warn(f"{self._path} was gone; made again")

    def _without(self, exc: Exception) -> None:
        from supervisor.states import SupervisorStates

        if lock_holder(self._path) is None:  # a full disk: at the next tick
            self._options.logger.warn(f"{self._path} is gone, and cannot be made again: {exc}")
            return
        self._options.logger.critical(f"ending, for there would be two of us: {exc}")
        self._options.mood = SupervisorStates.SHUTDOWN


@functools.cache
def logs_outlive_the_disk() -> None:
    """Have logs survive a full disk. A log that could not roll over, or a message about it that found no
    room on stderr, raised wherever code logged: in supervisord's loop, which ended, or where it reads
    from a worker, to which it then listened no more. And the log stayed closed. Now a line is lost, and
    the next one tries again.
    """
    from supervisor.loggers import Handler, RotatingFileHandler

    roll_over, complain = RotatingFileHandler.doRollover, Handler.handleError

    def or_go_on(handler: Any) -> None:
        try:
            roll_over(handler)
        except (OSError, ValueError):  # ValueError: the last attempt has closed it
            with contextlib.suppress(OSError):
                handler.stream = Path(handler.baseFilename).open("ab")  # noqa: SIM115

    def if_heard(handler: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            complain(handler)

    RotatingFileHandler.doRollover, Handler.handleError = or_go_on, if_heard


def _listening(path: Path, mode: int) -> socket.socket:
    """A listening socket that is found at `path` from now on."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.bind(str(path))
        path.chmod(mode)
        found.listen(WAITING_CALLS)
        found.setblocking(False)
    except BaseException:
        found.close()
        raise
    return found


class _NoCalls:
    """The rpcinterface that supervisord insists on."""


def make(supervisord: Any, still_s: str = "35", again_s: str = "12") -> object:
    """Build the plugin. supervisord calls this at every start and reload, with what its
    file says beside the factory.
    """
    from supervisor import events

    def running(_event: object) -> None:
        """Start the watches: signals have their handlers, the sockets are open, and
        no program is started yet.
        """
        os.environ[SUPERVISOR_PID] = str(os.getpid())  # here: a daemon is another process before this
        prompt = WakeOnChildExit(supervisord)
        prompt.wake()  # or it would sit out its first wait before it starts a program
        for buried in (events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent):
            events.subscribe(buried, prompt)
        events.subscribe(events.Tick5Event, LoopWatchdog(supervisord, float(still_s), float(again_s)))

    logs_outlive_the_disk()
    sockets = SocketWatch(supervisord)
    home = HomeWatch(supervisord, (sockets, LogWatch(supervisord), LockWatch(supervisord)))
    for watch in (SentinelWatch(supervisord), home):
        events.subscribe(events.Tick5Event, watch)
    events.subscribe(events.SupervisorRunningEvent, sockets.remember)
    ValidatedReload(supervisord)
    refuse_in_words()
    events.subscribe(events.SupervisorRunningEvent, running)
    events.subscribe(events.ProcessStateStoppingEvent, newborn())
    events.subscribe(events.ProcessStateStoppingEvent, AskedToEnd(supervisord))
    events.subscribe(events.ProcessStateBackoffEvent, try_again_soon)
    return _NoCalls()
