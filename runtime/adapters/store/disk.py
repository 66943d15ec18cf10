"""The disk under the store: what of it is ours to fill, and how far the WAL of messages.db may grow.

A WAL begins again when all of it was copied into the database and no process reads from it. One that keeps a
transaction open there (`sqlite3 messages.db`, BEGIN, SELECT, left so) keeps it growing, with every message
and every removal, and no limit counted it: it ate the reserve and the ballast, and then even the copying
found no room. So what the copying will need is never given to messages, and beyond `WAL_MOST_BYTES` nothing
is stored until the WAL can begin again, which is tried once a second. The process is named.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from runtime.adapters.process.process import wal_readers
from runtime.adapters.store.errors import StoreHeld, StoreUnavailable
from runtime.settings import StoreSettings as StoreSettings

BALLAST_BYTES = 4_194_304
WAL_LOOK_BYTES = 8_388_608
"""An ordinary WAL begins again long before: a process reads from it."""
WAL_MOST_BYTES = 33_554_432
"""Copied into the database in seconds, also on slow flash: no producer is answered meanwhile."""
REMOVALS_BYTES = 33_554_432
"""What was delivered may leave for so much longer, as far as there is room for it."""
ONE_COMMIT_BYTES = 1_048_576
"""What one commit adds to the WAL, generously."""
ALARM_AFTER_S = 3.0


class Disk:
    """The disk under the store: what of it is ours to fill, and a ballast to throw off when it is full."""

    def __init__(self, folder: Path, settings: StoreSettings) -> None:
        self._folder = folder
        self._reserve_bytes = settings.min_free_bytes
        self._reserve_inodes = settings.min_free_inodes
        self._ballast = folder / "ballast"

    def free_bytes(self) -> int:
        """What may still be written, beyond the reserve for everybody else. Raises StoreUnavailable."""
        try:
            found = os.statvfs(self._folder)
        except OSError as exc:
            raise StoreUnavailable(f"cannot look at the disk: {exc.strerror}") from exc
        if found.f_files and found.f_favail < self._reserve_inodes:
            return 0
        kept_bytes = 0 if self._has_ballast() else BALLAST_BYTES  # thrown off for deletes, not for us to fill
        return max(0, found.f_bavail * found.f_frsize - self._reserve_bytes - kept_bytes)

    def left_bytes(self) -> int:
        """What there is at all."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def keep_ballast(self) -> None:
        """Have blocks of our own, to be given up when even deletes find no room."""
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
    """What is asked of a store here."""

    def wal(self) -> tuple[int, int]: ...
    def begin_wal(self) -> bool: ...


class WalLimit:
    """How far the WAL has grown, and who keeps it from beginning again."""

    def __init__(self, database: Path, disk: Disk) -> None:
        self._index = database.with_name(f"{database.name}-shm")
        self._disk = disk
        self._stuck_since_s: float | None = None
        self._stuck_s = self._size_bytes = self._growth_bytes = 0.0

    @property
    def stuck(self) -> bool:
        """Whether it could not begin again when it was looked at."""
        return self._stuck_since_s is not None

    @property
    def alarm(self) -> str | None:
        """For a person: who keeps it from that, and not only for the length of an ordinary read."""
        return self._words() if self._stuck_s >= ALARM_AFTER_S else None

    def look(self, store: HeldStore, spare_bytes: int, now_s: float) -> int:
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
        # what is free inside would be written to the WAL first; and what is delivered is still to leave
        return free_bytes - BALLAST_BYTES

    def check(self, room_bytes: int, *, removals: bool = False) -> None:
        """Before a commit. Raises StoreHeld."""
        if self._stuck_since_s is None:
            return
        most_bytes = WAL_MOST_BYTES + (REMOVALS_BYTES if removals else 0)
        if self._size_bytes > most_bytes or self._is_cramped(room_bytes, removals):
            raise StoreHeld(self._words())

    def _is_cramped(self, room_bytes: int, removals: bool) -> bool:
        """For messages the room is used up; for removals there is hardly any for the copying."""
        if not removals:
            return room_bytes < ONE_COMMIT_BYTES
        return self._disk.left_bytes() < self._growth_bytes + ONE_COMMIT_BYTES

    def _words(self) -> str:
        who = " and ".join(wal_readers(self._index)) or "another process"
        return (
            f"{who} keeps a transaction open on messages.db, whose WAL has grown to "
            f"{self._size_bytes / 1e6:.0f} MB: end it, else nothing more is stored"
        )
