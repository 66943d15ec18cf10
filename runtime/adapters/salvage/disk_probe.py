"""Probes the files of a store that could not be read: block by block, without SQLite.

Only while the store is closed: closing a file here would release the locks that SQLite holds on it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.core.ingest.read_errors import Block, Look, ReadVerdict, UnreadableBlocks
from runtime.core.log_events import LogEvent
from runtime.core.settlement import to_ranges

BLOCK_BYTES = 4_096
CHUNK_BYTES = 1_048_576
CHUNKS_AT_ONCE = 8
"""Chunks read in one turn of ingest, which answers producers between turns."""


class DiskProbe:
    """Probe of one store, wherever its files are: in their place, or set aside for a salvage."""

    def __init__(self, files: Sequence[Path], clock: Clock) -> None:
        self._clock = clock
        self._files = files
        self._seen = UnreadableBlocks()
        self._look: Iterator[Look | None] | None = None

    @property
    def under_way(self) -> bool:
        return self._look is not None

    def due(self) -> bool:
        return self._look is None and self._seen.due(self._clock.boot_s())

    def begin(self) -> None:
        """Begin to probe, if another probe is due."""
        if self.due():
            self._look = read_files(self._files)

    def advance(self) -> ReadVerdict:
        """Probe one slice; after the last one the verdict."""
        assert self._look is not None
        look = next(self._look)
        if look is None:
            return ReadVerdict()
        self._look = None
        if look.unreadable:
            logger.bind(
                event=LogEvent.STORE_BLOCKS_UNREADABLE,
                blocks=block_ranges(look.unreadable),
                readable=look.readable,
            ).error("a part of messages.db cannot be read")
        return self._seen.add(look, self._clock.boot_s())


def read_files(files: Sequence[Path]) -> Iterator[Look | None]:
    """Read all files, a slice for each `next`; the result comes last."""
    unreadable: set[Block] = set()
    readable = 0
    for file in files:
        for number, chunk in enumerate(_chunks(file)):
            unreadable |= {Block(str(file), block) for block, sound in chunk if not sound}
            readable += sum(sound for _, sound in chunk)
            if number % CHUNKS_AT_ONCE == 0:
                yield None
    yield Look(frozenset(unreadable), readable, _flushes(files[0].with_name("probe")))


def _chunks(file: Path) -> Iterator[list[tuple[int, bool]]]:
    """The blocks of a file, each with True if it can be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not there, or the disk is away: no block is unreadable, none was read
        return
    try:
        for start in range(0, os.fstat(descriptor).st_size, CHUNK_BYTES):
            size = min(CHUNK_BYTES, os.fstat(descriptor).st_size - start)
            whole = _reads(descriptor, start, size)
            yield [
                (at // BLOCK_BYTES, whole or _reads(descriptor, at, BLOCK_BYTES))
                for at in range(start, start + size, BLOCK_BYTES)
            ]
    finally:
        os.close(descriptor)


def _reads(descriptor: int, at: int, size: int) -> bool:
    try:
        os.pread(descriptor, size, at)
    except OSError:
        return False
    return True


def _flushes(probe: Path) -> bool:
    """True if the disk accepts writes; an error that says it is full counts as accepting."""
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(BLOCK_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as exc:
        return exc.errno == errno.ENOSPC
    return True


def block_ranges(blocks: Iterable[Block]) -> list[str]:
    """For a person: files, and closed ranges of blocks in them."""
    files = sorted({block.file for block in blocks})
    return [
        f"{file}: blocks of {BLOCK_BYTES} bytes {to_ranges(b.number for b in blocks if b.file == file)}"
        for file in files
    ]
