"""The disk under the store: the space that messages may fill, and how far the WAL of messages.db may grow.

A WAL is reset when all of it was copied into the database and no process reads from it. A process that keeps
a transaction open there (`sqlite3 messages.db`, BEGIN, SELECT, left so) keeps the WAL growing, with every
message and every removal, and no limit counted it: it used up the reserve and the ballast, and then even the
copying found no room. So the space that the copying will need is never given to messages, and beyond
`WAL_MOST_BYTES` nothing is stored until the WAL can be reset, which is tried once a second. The process is
named.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.adapters.process.process import wal_readers
from runtime.adapters.store.errors import StoreHeld, StoreUnavailable
from runtime.adapters.store.vacuum import JOURNAL_LIMIT_BYTES

BALLAST_BYTES = 4_194_304
WAL_LOOK_BYTES = 8_388_608
"""An ordinary WAL is reset long before: a larger one means that a process reads from it."""
WAL_MOST_BYTES = 33_554_432
"""Copied into the database in seconds, also on slow flash: no producer is answered meanwhile."""
REMOVALS_BYTES = 33_554_432
"""Further growth in which delivered messages may still be removed, as far as there is room for it."""
ONE_COMMIT_BYTES = 1_048_576
"""Growth of the WAL by one commit, generously."""
ALARM_AFTER_S = 3.0
PREALLOCATE_FROM = 8
"""The WAL is preallocated where the disk has room for so many of its size."""
_BLOCK = bytes(4_096)


SMALL_DISK_SHARE = 10
"""Of a small disk a tenth stays free, unless the operator stated a number."""


@dataclass(frozen=True)
class DiskReserve:
    """The space on the store's disk that stays free for everything else."""

    bytes: int = 0
    inodes: int = 0
    scales: bool = False
    """Whether `bytes` is at most a tenth of the disk: 64 MiB would be all of a small state partition."""

    def bytes_of(self, disk_bytes: int) -> int:
        """The bytes that stay free on a disk of this size."""
        return min(self.bytes, disk_bytes // SMALL_DISK_SHARE) if self.scales else self.bytes


class Disk:
    """The disk under the store: the space that messages may fill, and a ballast to free when it is full."""

    def __init__(self, folder: Path, reserve: DiskReserve) -> None:
        self._folder = folder
        self._reserve = reserve
        self._ballast = folder / "ballast"

    def free_bytes(self) -> int:
        """Bytes that may still be written, beyond the reserve for other users. Raises StoreUnavailable."""
        try:
            disk = os.statvfs(self._folder)
        except OSError as exc:
            raise StoreUnavailable(f"cannot look at the disk: {exc.strerror}") from exc
        if disk.f_files and disk.f_favail < self._reserve.inodes:
            return 0
        kept_bytes = 0 if self._has_ballast() else BALLAST_BYTES  # given up for deletes, not for messages
        reserve_bytes = self._reserve.bytes_of(disk.f_blocks * disk.f_frsize)
        return max(0, disk.f_bavail * disk.f_frsize - reserve_bytes - kept_bytes)

    def left_bytes(self) -> int:
        """All bytes that are available."""
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize

    def keep_ballast(self) -> None:
        """Allocate the ballast: blocks of our own, to be given up when even deletes find no room."""
        if self._has_ballast() or self.free_bytes() < BALLAST_BYTES:
            return
        with contextlib.suppress(OSError), self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)

    def _has_ballast(self) -> bool:
        return size(self._ballast) >= BALLAST_BYTES

    def give_up_ballast(self) -> None:
        with contextlib.suppress(OSError):
            self._ballast.unlink(missing_ok=True)


def size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


class HeldStore(Protocol):
    """The calls that `WalLimit` makes to a store."""

    def wal(self) -> tuple[int, int]: ...
    def begin_wal(self) -> bool: ...
    def write_lock(self) -> AbstractContextManager[None]: ...


class WalLimit:
    """The growth of the WAL, and the processes that keep it from being reset."""

    def __init__(self, database: Path, disk: Disk) -> None:
        self._index = database.with_name(f"{database.name}-shm")
        self._wal = database.with_name(f"{database.name}-wal")
        self._disk = disk
        self._stuck_since_s: float | None = None
        self._stuck_s = self._size_bytes = self._growth_bytes = 0.0

    @property
    def stuck(self) -> bool:
        """True if the WAL could not be reset at the last look."""
        return self._stuck_since_s is not None

    @property
    def alarm(self) -> str | None:
        """For a person: the process that holds the WAL, and for longer than an ordinary read takes."""
        return self._reason() if self._stuck_s >= ALARM_AFTER_S else None

    def measure(self, store: HeldStore, spare_bytes: int, now_s: float) -> int:
        """Bytes that may still be stored; `spare_bytes` are free inside the database. Raises StoreError."""
        self._size_bytes, self._growth_bytes = store.wal()
        free_bytes = self._disk.free_bytes() - int(self._growth_bytes)
        left_bytes = self._disk.left_bytes() - self._growth_bytes
        ordinary = self._size_bytes <= min(WAL_LOOK_BYTES, left_bytes)
        if ordinary or store.begin_wal():
            self._stuck_since_s, self._stuck_s = None, 0.0
            return (free_bytes if ordinary else self._disk.free_bytes()) + spare_bytes
        self._stuck_since_s = now_s if self._stuck_since_s is None else self._stuck_since_s
        self._stuck_s = now_s - self._stuck_since_s
        # pages free inside would be written to the WAL first; and delivered messages are still to leave
        return free_bytes - BALLAST_BYTES

    def preallocate(self, store: HeldStore) -> None:
        """Lengthen the WAL with zeros to the size at which SQLite resets it, where the disk has the room.

        Else every commit that lengthens the file makes the file system write the new size to its journal,
        too: twice as much is written, until the WAL has its size, and again after every clean close, which
        removes it. Zeros that are written, not space that is reserved: its first use is written down as well.
        SQLite ends its reading at zeros, as at the end of the file. Another process may write to the WAL too
        (a sqlite3 shell, say), and zeros over its commit would end the WAL there: it is measured and filled
        under SQLite's write lock, and at a later look where that is held. Called between commits.
        """
        if (
            size(self._wal) >= JOURNAL_LIMIT_BYTES
            or self._disk.free_bytes() < PREALLOCATE_FROM * JOURNAL_LIMIT_BYTES
        ):
            return
        with contextlib.suppress(OSError, StoreUnavailable), store.write_lock():
            with self._wal.open("r+b", buffering=0) as wal:
                _fill(wal.fileno(), os.fstat(wal.fileno()).st_size, JOURNAL_LIMIT_BYTES)

    def check(self, room_bytes: int, *, removals: bool = False) -> None:
        """Called before a commit. Raises StoreHeld."""
        if self._stuck_since_s is None:
            return
        most_bytes = WAL_MOST_BYTES + (REMOVALS_BYTES if removals else 0)
        if self._size_bytes > most_bytes or self._is_cramped(room_bytes, removals):
            raise StoreHeld(self._reason())

    def _is_cramped(self, room_bytes: int, removals: bool) -> bool:
        """True without room: for messages it is used up; for removals hardly any is left for the copying."""
        if not removals:
            return room_bytes < ONE_COMMIT_BYTES
        return self._disk.left_bytes() < self._growth_bytes + ONE_COMMIT_BYTES

    def _reason(self) -> str:
        who = " and ".join(wal_readers(self._index)) or "another process"
        return (
            f"{who} keeps a transaction open on messages.db, whose WAL has grown to "
            f"{self._size_bytes / 1e6:.0f} MB: end it, else nothing more is stored"
        )


def _fill(descriptor: int, begin: int, end: int) -> None:
    """Fill a file with zeros, block by block: after one large write the kernel counts later ones wrongly."""
    try:
        for at in range(begin, end, len(_BLOCK)):
            os.pwrite(descriptor, _BLOCK[: end - at], at)
        os.fdatasync(descriptor)
    except OSError:
        os.ftruncate(descriptor, begin)
        raise
