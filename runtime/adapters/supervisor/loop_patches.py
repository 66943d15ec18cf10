"""Patches of supervisord's own loop, for the plugin: prompt restarts, signals that arrive, checked reloads, a
watchdog.

`WakeOnChildExit`: supervisord looks for dead processes once a second, and starts them again at the next look:
up to two seconds, more than a worker takes to start. Here the death of a child wakes it, and so do its
consequences.

`try_again_soon`: supervisord waits ever longer before it restarts a program that died at once.

`SignalSafeFork`: supervisord loses a signal to a child that is not yet the program, and then waits
`stopwaitsecs`.

`ValidatedReload`: supervisord reloads by stopping all programs, reading its file then, and ending where it
cannot.
`refuse_in_words`: the caller of such a reload is told why it is refused.

`LoopWatchdog`: a supervisord that hangs ends itself. The sentinel kills a hung one sooner, if it can: it
cannot where supervisord is process 1 of a container (there a signal from inside does nothing), nor where it
hangs as well.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

TRY_AGAIN_S = 30
"""Longest pause before supervisord tries again to start a program."""


class WakeOnChildExit:
    """Ends supervisord's wait (a second) where there is work: a child died, or was just reaped.

    A signal alone does not: Python goes on with an interrupted poll (PEP 475). So each signal leaves a byte
    in a pipe that supervisord polls with all the rest.
    """

    def __init__(self, supervisord: Any) -> None:
        self._options = supervisord.options
        self._map = self._options.get_socket_map()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._map[self._reader] = self
        # supervisord closes its servers at the end of each run: at a reload another run begins
        self._options.httpservers.append(({"family": None}, self))

    def __call__(self, buried: Any) -> None:
        """Wake, for a child was reaped. A program that may exit at any time (startsecs=0) would spin."""
        if buried.process.config.startsecs:
            self.wake()

    def wake(self) -> None:
        """Cut the next wait to none."""
        with contextlib.suppress(BlockingIOError):  # a wake-up is already waiting there
            os.write(self._writer, b"x")

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._map.pop(self._reader, None)
        os.close(self._reader)
        os.close(self._writer)

    # the interface that supervisord's loop expects of everything that it polls

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self._reader, 4096)

    def handle_error(self) -> None:
        self._options.logger.critical("the pipe that wakes us cannot be read")


def try_again_soon(failed: Any) -> None:
    """Bound the pause before a restart: 1, 2, 3, ... 30 s and no more. From outside the program could only be
    stopped and started: by the time the stop arrives it may be up, and then it would stay stopped.
    """
    process = failed.process
    process.backoff = min(process.backoff, TRY_AGAIN_S)
    process.delay = min(process.delay, time.time() + TRY_AGAIN_S)


class SignalSafeFork:
    """A child between fork and exec: a signal for it counts as soon as it is sent.

    There it still had supervisord's handlers, which only took note, and no process group of its own yet, to
    which supervisord sends. A stop of the runtime just as it started the child waited 8 s for nothing.
    """

    HANDLED = frozenset(
        {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2}
    )
    """The signals that supervisord has handlers for."""

    def __init__(self) -> None:
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, self.HANDLED),
            after_in_parent=self._listen,
            after_in_child=self._as_the_program_will,
        )

    def __call__(self, stopping: Any) -> None:
        """Give the child its process group before a signal is sent; one that is the program
        already has it.
        """
        with contextlib.suppress(OSError):
            os.setpgid(stopping.process.pid, stopping.process.pid)

    def _as_the_program_will(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in self.HANDLED:
            signal.signal(number, signal.SIG_DFL)
        self._listen()

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.HANDLED)


newborn = functools.cache(SignalSafeFork)
"""One instance for the life of the process, which may be several runs of supervisord."""


class ValidatedReload:
    """Reads the file before a reload: one that supervisord would reject is refused, and no program stops.

    Each way to ask for a reload, SIGHUP, `supervisorctl reload` or the sentinel, sets supervisord's mood; it
    looks at that in its next round, and `handle_signal` is the end of this one.
    """

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._handle_signal = supervisord.handle_signal
        supervisord.handle_signal = self

    def __call__(self) -> None:
        from supervisor.states import SupervisorStates

        self._handle_signal()
        options = self._supervisord.options
        if options.mood != SupervisorStates.RESTARTING or self._supervisord.stopping:
            return
        if _refused(options.logger):
            options.mood = SupervisorStates.RUNNING


@functools.cache
def refuse_in_words() -> None:
    """Answer a refused reload with the reason. supervisord answers before it acts, so by itself
    `supervisorctl reload` said Restarted in any case.
    """
    from supervisor.rpcinterface import SupervisorNamespaceRPCInterface as Calls
    from supervisor.xmlrpc import Faults, RPCError

    restart = Calls.restart

    @functools.wraps(restart)  # supervisord shows its docstring as help
    def if_it_can(calls: Any) -> Any:
        if wrong := _refused(calls.supervisord.options.logger):
            raise RPCError(Faults.CANT_REREAD, wrong)
        return restart(calls)

    Calls.restart = if_it_can


def _refused(log: Any) -> str:
    """The reason to refuse a reload, logged; empty where it may go on."""
    if wrong := wrong_configuration():
        log.critical(f"reload refused, everything goes on as before: {wrong}")
    return wrong


def wrong_configuration(arguments: list[str] | None = None) -> str:
    """The reason why supervisord would end over its file, or be ended, in one line; empty where it would not.

    `arguments`: its command line; None: of this process, which is supervisord.
    """
    from supervisor.options import ServerOptions

    def refuse(reason: object) -> None:
        raise ValueError(reason)

    options = ServerOptions()
    options.usage = refuse  # supervisord's own prints to stderr, and ends the process
    try:
        options.realize(arguments)
    except Exception as exc:  # any exception would end supervisord
        return " ".join(str(exc).split()) or type(exc).__name__
    sockets = [config.get("file") for config in options.server_configs]
    if str(Path(options.here) / "run" / "supervisor.sock") in sockets:
        return ""
    # with another path the sentinel saw a hang, and killed supervisord every 20 s
    return "[unix_http_server] must say file=%(here)s/run/supervisor.sock: the sentinel and edgectl ask there"


class LoopWatchdog:
    """An alarm that each tick (5 s) puts off: once ticks stop coming it ends the process.

    A timer of the kernel, on a clock that does not jump. Its signal ends every wait of Python's, for a lock
    and for a reader that does not read our stdout. The stacks go to a file of their own: stderr may be what
    hangs.

    That clock also runs while none of our processes may run (a frozen container, SIGSTOP for all): so the
    first alarm only arms a second, short one. A process that was frozen ticks before that; one that hangs
    does not.
    """

    def __init__(self, supervisord: Any, still_s: float, again_s: float) -> None:
        self._still_s = still_s
        self._again_s = again_s
        self._doubt = False
        self._path = Path(supervisord.options.here) / "log" / "supervisord.stacks"
        signal.signal(signal.SIGALRM, self._expired)
        supervisord.options.httpservers.append(({"family": None}, self))
        self()

    def __call__(self, _tick: object = None) -> None:
        self._doubt = False
        signal.setitimer(signal.ITIMER_REAL, self._still_s)

    def close(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _expired(self, _number: int, _frame: object) -> None:
        if not self._doubt:
            self._doubt = True
            signal.setitimer(signal.ITIMER_REAL, self._again_s)
            return
        with contextlib.suppress(OSError), self._path.open("w") as out:  # a full disk: no stacks, but the end
            out.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} supervisord hung\n")
            out.flush()
            faulthandler.dump_traceback(out)
        os._exit(1)
