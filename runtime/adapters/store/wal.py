"""Makes the WAL on disk equal to the page cache's copy before a store is opened.

A flush that fails leaves them apart: the kernel marks the pages clean that it could not write, reads still
find them, the next flush does not write them, and no error is reported again. SQLite, opened again, would
take the failed commit as durable and append behind it. Then the power is cut: the frames before are not
there, and every commit behind them is lost, however often it was flushed. A process killed between writing
and flushing leaves the same, with a milder effect: a repeat of what it wrote would be acknowledged from
memory.

So every opening writes the WAL again, each byte where it stands, and flushes it. Readers do not notice.
`tests/faults/test_power_cut.py` shows the loss without it.

A flipped bit in the WAL is the other danger: SQLite ends the WAL there, silently, as if the power had been
cut while that frame was written, and ids of acknowledged messages would be given once more. But every frame
behind a commit was written after the commit's flush: `ends_early` finds that frame, so it was no power cut.

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
frame. Frames that an earlier WAL left behind have other salts."""

_Pair = tuple[int, int]


def write_again(database: Path, alive: Callable[[], None] = lambda: None) -> None:
    """Write the WAL beside `database`, and the names in its folder, to the disk. Raises StoreUnavailable.

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
    """Delete the index of a removed WAL: while upload holds it, SQLite seeks frames that are in no file."""
    with contextlib.suppress(OSError):
        index.unlink()


def _write_again(wal: Path, alive: Callable[[], None]) -> None:
    descriptor = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    try:
        at = flushed = 0
        while chunk := _read(descriptor, at):
            at += os.pwrite(descriptor, chunk, at)
            if at - flushed >= _FLUSH_BYTES:
                os.fsync(descriptor)  # one flush at the end might take longer than we may be silent
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
    """True if commits are lost behind a frame at which SQLite has stopped reading the WAL.

    Called before anything is written, which would overwrite them. The answer stays until the store is set
    aside. Raises StoreError.
    """
    wal = database.with_name(f"{database.name}-wal")
    if not cut_mark(wal).exists():
        with contextlib.suppress(sqlite3.Error):  # a full disk, say: it shows again where that matters
            ((page_bytes,),) = db.execute("PRAGMA page_size").fetchall()
            ((_, frames, _),) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if _commits_behind(wal, max(0, frames), page_bytes):
                keep_cut(wal)
    return cut_mark(wal).exists()


def cut_mark(wal: Path) -> Path:
    """The mark that commits are lost: SQLite clears the WAL away, and a salvage may have to begin again."""
    return wal.with_name(f"{wal.name}.cut")


def keep_cut(wal: Path) -> None:
    """Create that mark: for a person the WAL itself, if the file system has hard links. Raises StoreError."""
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
    """True if a commit that was flushed stands behind the first `frames` of this WAL."""
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not there; or it cannot be read, which another check finds
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
    """Bytes that the checksums cover, besides those of the frame before."""

    def follows(self, salts: _Pair, sums: _Pair) -> bool:
        """True if this frame was written behind the one with these checksums."""
        return self.salts == salts and _checksums(self.data, sums) == self.sums


class _Frames:
    """A WAL, frame by frame."""

    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self._descriptor, self._page_bytes = descriptor, page_bytes

    def begin(self) -> tuple[_Pair, _Pair] | None:
        """Salts and checksums of the header; None where it is damaged: then no frame was read."""
        header = os.pread(self._descriptor, _HEADER.size, 0).ljust(_HEADER.size, b"\0")
        magic, *_, salt_1, salt_2, one, two = _HEADER.unpack(header)
        sound = magic and _checksums(header[:-8], (0, 0)) == (one, two)  # zeros would pass
        return ((salt_1, salt_2), (one, two)) if sound else None

    def get(self, number: int) -> _Frame | None:
        """The frame; None where the file ends."""
        size = _FRAME.size + self._page_bytes
        frame = os.pread(self._descriptor, size, _HEADER.size + number * size)
        if len(frame) < size:
            return None
        _, pages, salt_1, salt_2, one, two = _FRAME.unpack_from(frame)
        return _Frame(pages > 0, (salt_1, salt_2), (one, two), frame[:8] + frame[_FRAME.size :])


def _commit_and_more(wal: _Frames, number: int) -> bool:
    """True if at this frame, where SQLite ended, or behind is a commit, and a frame written behind that."""
    begin = wal.begin()
    last = wal.get(number - 1) if number else None
    sums = last.sums if last else begin[1] if begin else None
    while begin and sums and (frame := wal.get(number)) and frame.follows(begin[0], sums):
        if frame.commits:
            return False  # sound: SQLite has reset the WAL, so far in its index only
        number, sums = number + 1, frame.sums
    commit = None
    while frame := wal.get(number):
        if commit and frame.follows(commit.salts, commit.sums):
            return True
        commit = frame if frame.commits and (begin is None or frame.salts == begin[0]) else None
        number += 1
    return False


def _checksums(data: bytes, seed: _Pair) -> _Pair:
    """SQLite's checksums, over words in this machine's byte order."""
    words = array("I", data[: len(data) // 8 * 8])
    one, two = seed
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = one + even + two & 0xFFFFFFFF
        two = two + odd + one & 0xFFFFFFFF
    return one, two
