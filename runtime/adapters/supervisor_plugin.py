"""Five pieces of ours inside supervisord. Three look round at every tick (5 s).

`SentinelWatch`: supervisord restarts a sentinel that died, but does not see one that hangs. Where its status
file stood still for four ticks the sentinel gets a signal to dump its stacks, and at the fifth SIGKILL.

`SocketWatch`: where somebody cleaned run/ away nobody can ask supervisord any more, and it would not notice.
The socket and the pid file are made again; no program feels it.

`LogWatch`: where somebody removed log/ supervisord starts nobody any more. The folder is made again.

`Prompt`: supervisord looks for the dead once a second, and starts them again at the next look: up to two
seconds, more than a worker takes to start. Here a death wakes it, and so does what follows from it.

`Newborn`: supervisord loses a signal to a child that is not yet the program, and then waits `stopwaitsecs`.

Named in supervisord.conf as an rpcinterface, the only door supervisord has for such a thing; it adds no call.
It must be small and never raise: it runs in supervisord's own loop.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from pathlib import Path
from typing import Any

TICKS_TO_DUMP = 4
TICKS_TO_KILL = 5
DUMP_SIGNAL = signal.SIGUSR1
WAITING_CALLS = 128


class SentinelWatch:
    """Counts ticks at which the sentinel made no progress."""

    def __init__(self, supervisord: Any, name: str = "sentinel") -> None:
        self._supervisord = supervisord
        self._name = name
        self._seen: tuple[int, int] | None = None
        self._still = 0

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        pid = self._pid()
        seen = (pid, self._beat())
        self._still = self._still + 1 if pid and seen == self._seen else 0
        self._seen = seen
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
            return (Path(self._supervisord.options.here) / "run" / f"{self._name}.status").stat().st_mtime_ns
        except OSError:
            return 0

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


class SocketWatch:
    """Sees to it that supervisord can be found. The server stays, with all it knows: it listens elsewhere."""

    def __init__(self, supervisord: Any) -> None:
        self._options = supervisord.options

    def __call__(self, _tick: object) -> None:
        """One tick (5 s)."""
        for config, server in self._options.httpservers:
            path = Path(config.get("file", "/"))
            if path.exists():
                continue
            try:
                fresh = _listening(path, config["chmod"])
                server.close()
                server.set_socket(fresh)
                server.listen(WAITING_CALLS)
                Path(self._options.pidfile).write_text(f"{os.getpid()}\n")
            except OSError as exc:  # a full disk: at the next tick
                self._options.logger.warn(f"{path} is gone, and cannot be made again: {exc}")
            else:
                self._options.logger.warn(f"{path} was gone; made again")


class LogWatch:
    """Sees to it that logs have a place. Whoever runs writes there again, not into what was removed."""

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


def _listening(path: Path, mode: int) -> socket.socket:
    """A socket that is found at `path` from now on, and takes calls."""
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


class Prompt:
    """Ends supervisord's wait (a second) where there is something to do: a child died, or was just buried.

    A signal alone does not: Python goes on with an interrupted poll (PEP 475). So each signal leaves a byte
    in a pipe that supervisord polls with all the rest.
    """

    def __init__(self, supervisord: Any) -> None:
        self._options = supervisord.options
        self._map = self._options.get_socket_map()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._map[self._reader] = self
        # supervisord closes what stands there at the end of each life: at a reload it begins another one
        self._options.httpservers.append(({"family": None}, self))

    def __call__(self, buried: Any) -> None:
        """Somebody was buried. A program that may die as soon as it likes (startsecs=0) would spin."""
        if buried.process.config.startsecs:
            self.wake()

    def wake(self) -> None:
        """The next wait is none."""
        with contextlib.suppress(BlockingIOError):  # a wake-up is already waiting there
            os.write(self._writer, b"x")

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._map.pop(self._reader, None)
        os.close(self._reader)
        os.close(self._writer)

    # what supervisord's loop asks of everything that it polls

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self._reader, 4096)

    def handle_error(self) -> None:
        self._options.logger.critical("the pipe that wakes us cannot be read")


class Newborn:
    """A child between fork and exec: a signal for it counts as soon as it is sent.

    There it still had supervisord's handlers, which only took note, and no process group of its own yet, to
    which supervisord sends. Whoever stopped the runtime just when it started it waited 8 s for nothing.
    """

    HANDLED = frozenset(
        {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2}
    )
    """What supervisord has handlers for."""

    def __init__(self) -> None:
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, self.HANDLED),
            after_in_parent=self._listen,
            after_in_child=self._as_the_program_will,
        )

    def __call__(self, stopping: Any) -> None:
        """It is about to be sent a signal; where it is the program already, the group is there, too."""
        with contextlib.suppress(OSError):
            os.setpgid(stopping.process.pid, stopping.process.pid)

    def _as_the_program_will(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in self.HANDLED:
            signal.signal(number, signal.SIG_DFL)
        self._listen()

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.HANDLED)


newborn = functools.cache(Newborn)
"""One for the life of the process, which may be several of supervisord's."""


class _NoCalls:
    """The rpcinterface that supervisord insists on."""


def make(supervisord: Any, **_settings: str) -> object:
    """supervisord calls this at every start and reload."""
    from supervisor import events

    def running(_event: object) -> None:
        """Its loop begins: signals have their handlers, and its sockets are open."""
        prompt = Prompt(supervisord)
        prompt.wake()  # or it would sit out its first wait before it starts anybody
        for buried in (events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent):
            events.subscribe(buried, prompt)

    for watch in (SentinelWatch, SocketWatch, LogWatch):
        events.subscribe(events.Tick5Event, watch(supervisord))
    events.subscribe(events.SupervisorRunningEvent, running)
    events.subscribe(events.ProcessStateStoppingEvent, newborn())
    return _NoCalls()
