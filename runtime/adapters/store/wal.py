"""What the page cache says of the WAL, and what the disk has of it, are made the same before it is believed.

A flush that fails leaves them apart: the kernel calls the pages clean that it could not write, reading still
finds them, the next flush does not write them, and nobody mentions it again. SQLite, opened anew, would take
the commit that failed for good and append behind it. Then the power is cut: the frames before are not there,
and every commit behind them is lost, however often it was flushed. A process killed between writing and
flushing leaves the same, more mildly: a repeat of what it wrote would be acknowledged from memory.

So every opening writes the WAL again, each byte where it stands, and flushes it. Readers do not notice.
`tests/faults/test_power_cut.py` shows the loss without it.

A flipped bit in it is the other danger: SQLite ends the WAL there, without a word, as if the power had been
cut while that frame was written, and ids of acknowledged messages would be given once more. But whatever was
written behind a commit was written after its flush: `ends_early` finds that, so it was no power cut.

Left: remembering that a flush failed (the next process would not know), a checkpoint at opening (reads the
frames once more after they were checked, and the cache may have let them go in between).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.adapters.store.errors import StoreFull, StoreUnavailable, StoreUnreadable

_CHUNK_BYTES = 65_536
_FLUSH_BYTES = 8_388_608
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
"""Page number, pages of the database after a commit or 0, two salts, two checksums that go on from frame to
frame. The salts of frames that an earlier WAL left behind are others."""

_Pair = tuple[int, int]


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


def ends_early(db: sqlite3.Connection, database: Path) -> bool:
    """Whether commits are lost behind a frame at which SQLite has stopped reading the WAL.

    Asked before anything is written, which would be in its place. It stays so until the store is set aside.
    Raises StoreError.
    """
    wal = database.with_name(f"{database.name}-wal")
    if not cut_mark(wal).exists():
        with contextlib.suppress(sqlite3.Error):  # a full disk, say: it says so where that matters
            ((page_bytes,),) = db.execute("PRAGMA page_size").fetchall()
            ((_, frames, _),) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if _commits_behind(wal, max(0, frames), page_bytes):
                keep_cut(wal)
    return cut_mark(wal).exists()


def cut_mark(wal: Path) -> Path:
    """There where commits are lost: SQLite clears the WAL away, and a salvage may have to begin again."""
    return wal.with_name(f"{wal.name}.cut")


def keep_cut(wal: Path) -> None:
    """Make that mark. For a person it is the WAL itself, where the file system can. Raises StoreError."""
    mark = cut_mark(wal)
    try:
        mark.hardlink_to(wal)
    except FileExistsError:
        return
    except OSError:
        try:
            mark.touch()
        except OSError as exc:
            kind = StoreFull if exc.errno == errno.ENOSPC else StoreUnavailable
            raise kind(f"that the WAL is damaged cannot be noted: {exc.strerror}") from exc


def _commits_behind(wal: Path, frames: int, page_bytes: int) -> bool:
    """Whether a commit that was flushed stands behind the first `frames` of this WAL."""
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not there; or it cannot be read, which is for others to find
        return False
    try:
        return _commit_and_more(_Frames(descriptor, page_bytes), frames)
    except OSError:
        return False
    finally:
        os.close(descriptor)


class _Frame(NamedTuple):
    """One page in the WAL."""

    commits: bool
    salts: _Pair
    sums: _Pair
    data: bytes
    """What the checksums are of, those of the frame before apart."""

    def follows(self, salts: _Pair, sums: _Pair) -> bool:
        """Whether it was written behind the one with these."""
        return self.salts == salts and _checksums(self.data, sums) == self.sums


class _Frames:
    """A WAL, frame by frame."""

    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self._descriptor, self._page_bytes = descriptor, page_bytes

    def begin(self) -> tuple[_Pair, _Pair] | None:
        """Salts and checksums of its header; None where it is damaged: then no frame was read."""
        header = os.pread(self._descriptor, _HEADER.size, 0).ljust(_HEADER.size, b"\0")
        magic, *_, salt_1, salt_2, one, two = _HEADER.unpack(header)
        sound = magic and _checksums(header[:-8], (0, 0)) == (one, two)  # nothing but zeros would seem so
        return ((salt_1, salt_2), (one, two)) if sound else None

    def get(self, number: int) -> _Frame | None:
        """None where the file ends."""
        size = _FRAME.size + self._page_bytes
        found = os.pread(self._descriptor, size, _HEADER.size + number * size)
        if len(found) < size:
            return None
        _, pages, salt_1, salt_2, one, two = _FRAME.unpack_from(found)
        return _Frame(pages > 0, (salt_1, salt_2), (one, two), found[:8] + found[_FRAME.size :])


def _commit_and_more(wal: _Frames, number: int) -> bool:
    """Whether at this frame, where SQLite ended, or behind is a commit, and a frame written behind it."""
    begin = wal.begin()
    last = wal.get(number - 1) if number else None
    sums = last.sums if last else begin[1] if begin else None
    while begin and sums and (frame := wal.get(number)) and frame.follows(begin[0], sums):
        if frame.commits:
            return False  # sound: SQLite has begun the WAL anew, so far in its index only
        number, sums = number + 1, frame.sums
    commit = None
    while frame := wal.get(number):
        if commit and frame.follows(commit.salts, commit.sums):
            return True
        commit = frame if frame.commits and (begin is None or frame.salts == begin[0]) else None
        number += 1
    return False


def _checksums(data: bytes, seed: _Pair) -> _Pair:
    """SQLite's, over the words as this machine has them."""
    words = array("I", data[: len(data) // 8 * 8])
    one, two = seed
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = one + even + two & 0xFFFFFFFF
        two = two + odd + one & 0xFFFFFFFF
    return one, two
