"""Log files: reads what supervisord wrote for every program, rotated files first, and follows it.

What looks like a credential is taken out once more: the interpreter writes its own tracebacks past the
logger.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from runtime.adapters.process.logs import redact

LONGEST_LINE_BYTES = 65_536
"""A longer line is read in pieces: a log may hold anything."""
MOST_ROTATED = 9


def programs(folder: Path) -> list[str]:
    """The names of the programs that have a log in `folder`, sorted. Raises OSError."""
    return sorted(path.name.removesuffix(".log") for path in folder.iterdir() if path.name.endswith(".log"))


def lines(folder: Path, program: str) -> Iterator[str]:
    """All lines of a program, oldest first: the rotated files, then the present one. Raises OSError."""
    for path in reversed(files(folder, program)):
        yield from lines_of(path)


def files(folder: Path, program: str) -> list[Path]:
    """Where the log of a program may lie, newest first: the present file, then the rotated ones."""
    rotated = [folder / f"{program}.log.{number}" for number in range(1, MOST_ROTATED + 1)]
    return [folder / f"{program}.log", *rotated]


def lines_of(path: Path, *, clean: bool = True) -> Iterator[str]:
    """The lines of one log file; none where it is not there. Raises OSError.

    Without `clean` what looks like a credential is not taken out: the caller does that.
    """
    with contextlib.suppress(FileNotFoundError), _opened(path) as log:
        while line := log.readline(LONGEST_LINE_BYTES):
            yield _text(line) if clean else _decoded(line)


def written_s(folder: Path, program: str) -> float:
    """Unix time at which the log was last written; 0 where there is none."""
    try:
        return (folder / f"{program}.log").lstat().st_mtime
    except OSError:
        return 0.0


class LogFollower:
    """Follows the logs of several programs, each from its present end, over rotation and removal."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._logs: dict[str, BinaryIO | None] = dict.fromkeys(names)
        self._parts: dict[str, bytes] = {}
        """The beginning of a line whose end is not written yet."""
        for name in self._logs:
            with contextlib.suppress(OSError):
                self._logs[name] = log = _opened(self._path(name))
                log.seek(0, os.SEEK_END)

    def new_lines(self) -> dict[str, list[str]]:
        """The whole lines that were written since the last call, by program."""
        lines: dict[str, list[str]] = {}
        for name in self._logs:
            if written := self._read(name):
                lines[name] = written
        return lines

    def close(self) -> None:
        for log in self._logs.values():
            if log is not None:
                log.close()

    def _read(self, name: str) -> list[str]:
        written = self._rest(name)
        if self._replaced(name):
            if log := self._logs[name]:
                log.close()
            self._logs[name] = None
            with contextlib.suppress(OSError):
                self._logs[name] = _opened(self._path(name))
            written += self._rest(name)
        return written

    def _rest(self, name: str) -> list[str]:
        log = self._logs[name]
        if log is None:
            return []
        *whole, rest = (self._parts.pop(name, b"") + log.read()).split(b"\n")
        if rest:
            self._parts[name] = rest
        return [_text(line) for line in whole]

    def _replaced(self, name: str) -> bool:
        """True if the path leads to another file than the open one, or to one that was cut."""
        log = self._logs[name]
        try:
            there = self._path(name).lstat()
        except OSError:
            return False
        if log is None:
            return True
        ours = os.fstat(log.fileno())
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or there.st_size < log.tell()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _opened(path: Path) -> BinaryIO:
    """The file, which is regular, and no link to another. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file")
    return os.fdopen(descriptor, "rb")


def _text(line: bytes) -> str:
    return redact(_decoded(line))


def _decoded(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="replace")
