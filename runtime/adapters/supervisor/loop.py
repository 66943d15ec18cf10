"""Parts of ours in supervisord's loop: restarts at once, signals that arrive, a watchdog.

`WakeOnChildExit`: supervisord looks for dead processes once a second, and starts them again at the next look:
up to two seconds, more than a worker takes to start. Here the death of a child wakes it, and so do its
consequences.

`SignalSafeFork`: supervisord loses a signal to a child that is not yet the program, and then waits
`stopwaitsecs`.

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

from runtime.adapters.supervisor.internals import HANDLED_SIGNALS, ChildEvent, RunningSupervisord


class WakeOnChildExit:
    """Ends supervisord's wait (a second) where there is work: a child died, or was just reaped.

    A signal alone does not: Python goes on with an interrupted poll (PEP 475). So each signal leaves a byte
    in a pipe that supervisord polls with all the rest.
    """

    def __init__(self, supervisord: RunningSupervisord) -> None:
        self._supervisord = supervisord
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        supervisord.poll(self._reader, self)
        supervisord.close_at_end(self)

    def __call__(self, reaped: ChildEvent) -> None:
        """Wake, for a child was reaped. A program that may exit at any time (startsecs=0) would spin."""
        if reaped.start_s:
            self.wake()

    def wake(self) -> None:
        """Cut the next wait to none."""
        with contextlib.suppress(BlockingIOError):  # a wake-up is already waiting there
            os.write(self._writer, b"x")

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._supervisord.unpoll(self._reader)
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
        self._supervisord.critical("the pipe that wakes us cannot be read")


class SignalSafeFork:
    """A child between fork and exec: a signal for it counts as soon as it is sent.

    There it still had supervisord's handlers, which only took note, and no process group of its own yet, to
    which supervisord sends. A stop of the runtime just as it started the child waited 8 s for nothing.
    """

    def __init__(self) -> None:
        self.active = True
        """False in a worker that was forked: what it forks has its own handlers."""
        os.register_at_fork(
            before=self._block, after_in_parent=self._unblock, after_in_child=self._reset_handlers
        )

    def __call__(self, stopping: ChildEvent) -> None:
        """Give the child its process group before a signal is sent; one that is the program
        already has it.
        """
        with contextlib.suppress(OSError):
            os.setpgid(stopping.pid, stopping.pid)

    def _block(self) -> None:
        if self.active:
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)

    def _reset_handlers(self) -> None:
        """Handle signals as the program will at its start."""
        if self.active:
            signal.set_wakeup_fd(-1)
            for number in HANDLED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
        self._unblock()

    def _unblock(self) -> None:
        if self.active:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)


signal_safe_fork = functools.cache(SignalSafeFork)
"""One instance for the life of the process, which may be several runs of supervisord."""


def end_signal_safe_fork() -> None:
    """In a worker that was forked: what it forks by itself is no child of supervisord's."""
    if signal_safe_fork.cache_info().currsize:
        signal_safe_fork().active = False


class LoopWatchdog:
    """An alarm that each tick (5 s) puts off: once ticks stop coming it ends the process.

    A timer of the kernel, on a clock that does not jump. Its signal ends every wait of Python's, for a lock
    and for a reader that does not read our stdout. The stacks go to a file of their own: stderr may be what
    hangs.

    That clock also runs while none of our processes may run (a frozen container, SIGSTOP for all): so the
    first alarm only arms a second, short one. A process that was frozen ticks before that; one that hangs
    does not.
    """

    def __init__(self, supervisord: RunningSupervisord, still_s: float, again_s: float) -> None:
        self._still_s = still_s
        self._again_s = again_s
        self._suspected = False
        self._path = supervisord.home / "log" / "supervisord.stacks"
        signal.signal(signal.SIGALRM, self._expired)
        supervisord.close_at_end(self)
        self()

    def __call__(self, _tick: object = None) -> None:
        self._suspected = False
        signal.setitimer(signal.ITIMER_REAL, self._still_s)

    def close(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _expired(self, _number: int, _frame: object) -> None:
        if not self._suspected:
            self._suspected = True
            signal.setitimer(signal.ITIMER_REAL, self._again_s)
            return
        with contextlib.suppress(OSError), self._path.open("w") as out:  # a full disk: no stacks, but the end
            out.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} supervisord hung\n")
            out.flush()
            faulthandler.dump_traceback(out)
        os._exit(1)
