"""What the page cache says of the WAL, and what the disk has of it, are made the same before it is believed.

A flush that fails leaves them apart: the kernel calls the pages clean that it could not write, reading still
finds them, the next flush does not write them, and nobody mentions it again. SQLite, opened anew, would take
the commit that failed for good and append behind it. Then the power is cut: the frames before are not there,
and every commit behind them is lost, however often it was flushed. A process killed between writing and
flushing leaves the same, more mildly: a repeat of what it wrote would be acknowledged from memory.

So every opening writes the WAL again, each byte where it stands, and flushes it. Readers do not notice.
`tests/faults/test_power_cut.py` shows the loss without it.

Left: remembering that a flush failed (the next process would not know), a checkpoint at opening (reads the
frames once more after they were checked, and the cache may have let them go in between).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from runtime.adapters.store_errors import StoreUnavailable, StoreUnreadable

_CHUNK_BYTES = 65_536
_FLUSH_BYTES = 8_388_608


def write_again(database: Path, alive: Callable[[], None] = lambda: None) -> None:
    """Bring the WAL beside `database`, and the names in its folder, to the disk. Raises StoreUnavailable.

    `alive` is called every now and then: after a migration the WAL may be as large as the store.
    """
    try:
        _write_again(database.with_name(f"{database.name}-wal"), alive)
        _flush_names(database.parent)
    except FileNotFoundError:  # no WAL: everything is in the database, and was flushed before the WAL went
        _forget_index(database.with_name(f"{database.name}-shm"))
    except OSError as exc:
        raise StoreUnavailable(f"the WAL cannot be written: {exc.strerror}") from exc


def _forget_index(index: Path) -> None:
    """Of a WAL that somebody removed: as long as upload holds it, SQLite looks for what is in no file."""
    with contextlib.suppress(OSError):
        index.unlink()


def _write_again(wal: Path, alive: Callable[[], None]) -> None:
    descriptor = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    try:
        at = flushed = 0
        while chunk := _read(descriptor, at):
            at += os.pwrite(descriptor, chunk, at)
            if at - flushed >= _FLUSH_BYTES:
                os.fsync(descriptor)  # all at once at the end might take longer than we may be silent
                flushed = at
                alive()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int, at: int) -> bytes:
    try:
        return os.pread(descriptor, _CHUNK_BYTES, at)
    except OSError as exc:
        raise StoreUnreadable(f"the WAL cannot be read: {exc.strerror}") from exc


def _flush_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
