"""Processes of programs: each has a name that no other process gets, and its end is seen at once.

The kernel makes a pidfd readable when its process ends. Where a process cannot be watched (it is in another
PID namespace) its leases end by their time alone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST_PROCESSES = 256
"""Each that is watched takes a descriptor."""
_STARTED = 19
"""The place of `starttime` in /proc/PID/stat, counted from the field behind the name."""


class ProgramWatch:
    """The processes that spoke to us, and that did not end yet."""

    def __init__(self) -> None:
        self._descriptors: dict[int, tuple[str, int]] = {}
        """By pid: the holder's name, and the pidfd."""

    def holder(self, pid: int | None, uid: int | None) -> str | None:
        """The name of this process for leases; None where too many are watched.

        Raises ProcessLookupError where it has ended: nothing that it asked for may be handed to it.
        """
        if pid is None:
            return f"user-{uid}"
        known = self._descriptors.get(pid)
        if known is not None:
            return known[0]
        if len(self._descriptors) >= MOST_PROCESSES:
            return None
        name = holder_of(pid)
        try:
            self._descriptors[pid] = name, os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:  # no descriptor is left: its leases end by their time
            return name
        return name

    def watch(self, holder: str) -> bool:
        """Watch a holder that a lease on disk names; False where its process is gone."""
        pid = pid_of(holder)
        if pid is None:
            return True
        try:
            return holder_of(pid) == holder and self.holder(pid, None) == holder
        except ProcessLookupError:
            return False

    def descriptors(self) -> list[int]:
        """To be polled: one is readable when its process has ended."""
        return [descriptor for _, descriptor in self._descriptors.values()]

    def ended(self, readable: list[object]) -> list[str]:
        """The holders that have ended, given what a poll found readable. They are watched no more."""
        gone = [pid for pid, (_, descriptor) in self._descriptors.items() if descriptor in readable]
        return [self._forget(pid) for pid in gone]

    def _forget(self, pid: int) -> str:
        name, descriptor = self._descriptors.pop(pid)
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return name

    def close(self) -> None:
        for pid in list(self._descriptors):
            self._forget(pid)


def holder_of(pid: int) -> str:
    """`PID-START`: a later process with the same number started at another time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{pid}-{fields[_STARTED]}"
    except (OSError, IndexError):
        return f"{pid}-0"


def pid_of(holder: str) -> int | None:
    pid = holder.partition("-")[0]
    return int(pid) if pid.isdigit() else None
