"""Workers that are forked instead of executed: they share the memory of what all of them import.

Nine tenths of a worker's memory are imports. So supervisord imports at its start what workers share, reads a
configuration as each of them will, and a child of it that is to become `edgectl worker NAME` goes on as that,
where others call execve.

Invariants
    The worker finds a process as after an exec: no descriptor of supervisord's but 0 to 2, its own
    environment, arguments, streams, name and signal handlers, and nothing that it could close or flush of
    supervisord's. It never returns into supervisord's code.
    supervisord itself has one thread, opens nothing and listens nowhere for this.
    Whatever a fork cannot give is executed as before: another program, another user, another environment for
    the interpreter or the loader, and files of the installation that have changed since they were imported.

Considered and left: importing azure and requests as well, which upload alone uses: the more there is to
share, the more each worker writes to (110 MB in all became 113 and 115). An allocator that returns memory
sooner, one arena for all threads, the collector off while importing: nothing changed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from runtime.adapters.supervisor.internals import HANDLED_SIGNALS, ChildEvent, RunningSupervisord
from runtime.adapters.supervisor.loop import end_signal_safe_fork
from runtime.layout import PROGRAMS

SHARED = (
    "runtime.__main__",
    "runtime.cli.workers",
    "runtime.workers.ingest",
    "runtime.workers.provisioning",
    "runtime.workers.refresh",
    "runtime.workers.sentinel",
)
"""Modules that are imported before the first fork, by name: this room imports no worker."""
STARTING_VARIABLES = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "TZ")
"""Beginnings of variables that count when a program starts, and never again."""
FAILED = 1
_PR_SET_NAME = 15  # linux/prctl.h
_ARGUMENTS = 45
"""Index in /proc/self/stat, counted after the name, of the addresses at which the arguments begin and end."""


class _FileMark(NamedTuple):
    """Tells one content of a file from another."""

    inode: int
    changed_ns: int
    size_bytes: int


class WorkerFork:
    """Runs workers in supervisord's children. One for the life of the process."""

    def __init__(self) -> None:
        self.trouble = _preload()
        """The reason why no worker is forked; empty where they are."""
        self.files = _marks()
        """The files of the installation as they were imported."""
        self._ids = _ids()
        self._streams: list[TextIO] = []

    def look(self, supervisord: RunningSupervisord) -> Callable[[ChildEvent], None]:
        """The callback for a program that is about to start: sees whether it may still be forked."""

        def look(_starting: ChildEvent) -> None:
            if self.trouble:
                return
            if _threads() != 1:
                self.trouble = "supervisord has more than one thread"
            elif _marks(self.files) != self.files:
                self.trouble = (
                    "the installation has changed since supervisord started; to share memory again, restart "
                    "it: systemctl restart edge-runtime, or edgectl down and up"
                )
            if self.trouble:
                supervisord.warn(f"workers start without shared memory: {self.trouble}")

        return look

    def run(self, filename: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """In a child, before it calls execve: run the worker and end; return where it has to be executed."""
        if not self._fits(filename, argv, environment):
            return
        gc.freeze()  # what supervisord left for the collector may close a descriptor that is ours by then
        try:
            self._be_as_executed(filename, argv, environment)
        except Exception:  # an odd stream, no /proc: what has changed so far an exec changes as well
            return
        status = FAILED
        try:
            status = _ended(importlib.import_module("runtime.__main__").main)
        finally:
            os._exit(status)

    def _fits(self, filename: str, argv: Sequence[str], environment: Mapping[str, str]) -> bool:
        ours = str(Path(sys.executable).with_name("edgectl"))
        is_worker = filename == ours and len(argv) == 3 and argv[1] == "worker" and argv[2] in PROGRAMS
        same = _starting(environment) == _starting(os.environ) and _ids() == self._ids
        return is_worker and same and not self.trouble

    def _be_as_executed(self, filename: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        for number in _descriptors() - {0, 1, 2}:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(number)
        end_signal_safe_fork()
        signal.set_wakeup_fd(-1)
        for number in (*HANDLED_SIGNALS, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [filename, *argv[1:]]
        self._streams = [sys.stdin, sys.stdout, sys.stderr]  # kept: the end of one would flush it
        sys.stdin = sys.__stdin__ = _stream(0, "r", sys.stdin)  # type: ignore[misc]
        sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout)  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr)  # type: ignore[misc]
        tempfile.tempdir = None
        _set_title(filename, argv[1:])


def _preload() -> str:
    """Import what workers share. Returns the reason why a fork would not do; empty where it does."""
    before = _descriptors()
    for name in SHARED:
        importlib.import_module(name)
    importlib.import_module("runtime.cli.workers").rehearse()
    gc.collect()
    gc.freeze()  # the collector writes into what it looks at, and so each worker would get a copy
    if _threads() != 1:
        return "a thread was started by an import"
    return "" if _descriptors() == before else "a file was opened by an import"


def _marks(known: Mapping[str, _FileMark] | None = None) -> dict[str, _FileMark]:
    """The marks of the files that are imported, or of those known."""
    files = known or {str(module.__file__) for module in list(sys.modules.values()) if _file(module)}
    marks = {}
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            continue  # in the midst of an upgrade: it differs
        marks[file] = _FileMark(status.st_ino, status.st_mtime_ns, status.st_size)
    return marks


def _file(module: object) -> bool:
    return bool(getattr(module, "__file__", None))


def _descriptors() -> set[int]:
    """The open descriptors, and the one that the listing needs: the lowest that was free."""
    return set(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  # numbers, not paths


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _ids() -> tuple[int, ...]:
    return (*os.getresuid(), *os.getresgid(), *os.getgroups())


def _starting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name.startswith(STARTING_VARIABLES)}


def _stream(number: int, mode: str, before: TextIO) -> io.TextIOWrapper:
    """A standard stream as Python makes it at a start, with the choices that it made for this one."""
    assert isinstance(before, io.TextIOWrapper)
    unbuffered = isinstance(before.buffer, io.RawIOBase)  # PYTHONUNBUFFERED
    file: Any = open(number, f"{mode}b", buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    lines = not unbuffered and (number == 2 or os.isatty(number))
    return io.TextIOWrapper(
        file, before.encoding, before.errors, line_buffering=lines, write_through=before.write_through
    )


def _set_title(filename: str, words: Sequence[str]) -> None:
    """Have `ps` and /proc show the worker: its name, and its arguments in the place of supervisord's."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, Path(filename).name.encode()[:15])
    begin, end = _argument_area()
    for program in (filename, Path(filename).name):
        text = b"".join(os.fsencode(word) + b"\0" for word in (sys.executable, program, *words))
        if len(text) <= end - begin:
            ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
            return


def _argument_area() -> tuple[int, int]:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[_ARGUMENTS]), int(fields[_ARGUMENTS + 1])


def _ended(main: Callable[[], int]) -> int:
    """Run a program to its end, as the interpreter does; return its exit status."""
    try:
        status = main()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else FAILED if exc.code else 0
        if status == FAILED and not isinstance(exc.code, int):
            sys.stderr.write(f"{exc.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = FAILED
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as in the children of multiprocessing
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or FAILED
    return status
