"""A worker's status file: one small JSON file in run/, replaced where figures changed, at most once a second.

It is a heartbeat that proves progress: only the worker's own loop calls `progress()`. A beat is the file's
time of change alone, and costs no write. Its loss costs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.home_mount import check_home, home_changed
from runtime.adapters.process.run_folder import restore

WRITE_EVERY_S = 1.0
UNCHANGED_WRITE_EVERY_S = 5.0
"""A record whose figures stay the same is written so often, for its `progress_boot_s`."""
ASKED_KEPT = 20
BUSY = "busy"
"""Key that a worker sets to true while it is at something that may take long between two reports."""


class StatusFile:
    """The status file's writer, one per worker."""

    def __init__(self, path: Path, worker: str, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._next_s = 0.0
        self._written = ""
        """The figures in the file, as JSON; empty where they are not ours."""
        self._written_s = 0.0
        self._fixed = {"worker": worker, "pid": os.getpid(), "started_boot_s": self._clock.boot_s()}

    def progress(
        self, figures: Mapping[str, Any] | Callable[[], Mapping[str, Any]], *, now: bool = False
    ) -> None:
        """Report that the loop came round, with the worker's figures. Cheap: beats at most once a second.

        Raises HomeGone where the home is another one than at the start: the worker has to end.
        """
        at = self._clock.boot_s()
        if at < self._next_s and not now:
            return
        if callable(figures):
            figures = figures()
        check_home(self._path.parent.parent)
        self._next_s = at + WRITE_EVERY_S
        text = json.dumps({"boot_id": self._clock.boot_id(), **figures})
        if text == self._written and at < self._written_s + UNCHANGED_WRITE_EVERY_S and self._beat():
            return
        record = {**self._fixed, "progress_boot_s": at}
        self._replace(f"{json.dumps(record)[:-1]}, {text[1:]}")
        self._written, self._written_s = text, at

    def _beat(self) -> bool:
        """Mark progress in the file's time of change; False where the file is gone."""
        try:
            os.utime(self._path)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a disk that is read-only now, or has gone: see `takes_beats`
        return True

    def _replace(self, text: str) -> None:
        try:
            self._write(text)
        except FileNotFoundError:  # run/ was cleaned away under us
            with contextlib.suppress(OSError):
                restore(self._path.parent)
                self._write(text)
        except OSError:  # a full disk: the figures stay old, but the heart still beats (see `beat_of`)
            self._touch()

    def _write(self, text: str) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        try:
            fresh.replace(self._path)
        except IsADirectoryError:  # without a beat we would be killed for it, again and again
            self._path.rename(self._path.with_suffix(f".folder-{os.getpid()}"))
            fresh.replace(self._path)

    def _touch(self) -> None:
        """Beat without using a single block. A predecessor's record is emptied first: it
        names the predecessor's pid.
        """
        with contextlib.suppress(OSError):
            if self._written:
                self._path.touch()
            else:
                self._path.write_bytes(b"")


def takes_beats(folder: Path) -> bool:
    """True if its owner could beat there: not on a disk that is read-only now, or that has gone."""
    if home_changed(folder.parent):
        return False
    try:
        os.utime(folder)
    except OSError as exc:
        return exc.errno not in (errno.EROFS, errno.EIO)
    return True


def beat_of(path: Path, pid: int) -> object:
    """A value that differs from one progress of process `pid` to the next; None where it has made none."""
    try:
        touched_ns = path.stat().st_mtime_ns
    except OSError:
        return None
    status = read_status(path)
    if status is not None and status.get("pid") != pid:
        return None  # its predecessor's
    return touched_ns


def note_asked_to_end(folder: Path, worker: str, pid: int) -> None:
    """Note that this process was asked to end, most likely by a person: that it ends is no crash."""
    known = [each for each in asked_to_end(folder, worker) if each != pid]
    with contextlib.suppress(OSError):  # a full disk: at worst a false alarm
        (folder / f"{worker}.asked").write_text(json.dumps([*known[1 - ASKED_KEPT :], pid]))


def asked_to_end(folder: Path, worker: str) -> list[int]:
    """The last processes of this worker that were asked to end."""
    try:
        pids = json.loads((folder / f"{worker}.asked").read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [pid for pid in pids if type(pid) is int] if isinstance(pids, list) else []


def read_status(path: Path) -> dict[str, Any] | None:
    """The last record of a worker, or None where none can be read."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # gone, or anything at all
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """A worker's status record, for display: what is missing or has the wrong type is None or empty."""

    values: Mapping[str, Any]
    same_boot: bool = False
    """True if its times can be compared with the present ones."""

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> float | None:
        """Any number; a time (`..._boot_s`) only of this boot."""
        value = self.values.get(name)
        sound = isinstance(value, int | float) and math.isfinite(value)
        return value if sound and (self.same_boot or not name.endswith("_boot_s")) else None

    def counts(self, name: str) -> dict[str, int]:
        value = self.values.get(name)
        pairs = value.items() if isinstance(value, dict) else ()
        return {key: number for key, number in pairs if isinstance(number, int)}

    def parts(self, name: str) -> list[Mapping[str, Any]]:
        """The objects in a list."""
        value = self.values.get(name)
        return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []

    def part(self, values: Mapping[str, Any]) -> StatusRecord:
        """One object, of the same boot."""
        return StatusRecord(values, self.same_boot)

    def age_s(self, name: str, now_boot_s: float) -> float | None:
        """Seconds since that time."""
        moment = self.number(name)
        return None if moment is None else max(0.0, round(now_boot_s - moment, 1))


def last_record(path: Path, boot_id: str) -> StatusRecord:
    """The record in a status file, of any process."""
    values = read_status(path) or {}
    return StatusRecord(values, values.get("boot_id") == boot_id)
