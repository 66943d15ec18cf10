"""The payload of a file upload, block by block: from memory, or from its file in the spool.

Invariants:

1. A block is full, or it is the last one. A read that ends early (a passing EIO) is continued; an error that
   remains is `Unreadable`, and nothing of that block is sent. Else the file would arrive with a hole.
2. Before the block list is sent, the sent blocks are proven to be the file: its length is that of the blocks,
   its time of change is that before the first one, and a small one is read again and its hash compared.
   A process that kept the file open can still write to it; a mixture is never called delivered.
3. A file is the one that was acknowledged (`TakenFile`), or it is `Replaced`, and not sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.adapters.store.spool import file_state
from runtime.core.delivery.envelope import FileParcel
from runtime.core.ingest.taken_files import TakenFile

SECOND_NS = 1_000_000_000
PROVEN_BYTES = 67_108_864
"""Files up to this size are read once more before they count as uploaded."""


class Unreadable(Exception):
    """The file in the spool cannot be read."""

    def __init__(self, name: str, why: OSError) -> None:
        self.gone = isinstance(why, FileNotFoundError)
        super().__init__(
            f"the file is gone: {name}" if self.gone else f"file {name} cannot be read: {why.strerror}"
        )


class Replaced(Exception):
    """The file in the spool is another one than when its message was acknowledged."""


class Payload:
    """An open payload."""

    def __init__(self, name: str, source: Any, state: os.stat_result | None) -> None:
        self._name = name
        self._source = source
        self.mark = "" if state is None else f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"
        """A changed mark means that the file was changed. Payloads in memory do not change."""
        self.size_bytes = source.seek(0, io.SEEK_END)

    def blocks(self, step_bytes: int, number: int = 0) -> Iterator[bytes]:
        """All blocks from this number on; an empty payload has none."""
        with _reading(self._name):
            self._source.seek(number * step_bytes)
        while block := self._block(step_bytes):
            yield block

    def _block(self, step_bytes: int) -> bytes:
        parts, missing = [], step_bytes
        with _reading(self._name):
            while missing and (part := self._source.read(missing)):
                parts.append(part)
                missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def digest_with(digest: str, block: bytes) -> str:
    """Hash of all blocks so far, which can be stored and continued in another process."""
    hashed = hashlib.sha256(digest.encode())
    hashed.update(block)
    return hashed.hexdigest()


def difference(
    parcel: FileParcel, spool: Path, mark: str, sent_bytes: int, step_bytes: int, digest: str
) -> str:
    """The difference of the payload, opened again, from the blocks that were sent; empty: none."""
    with opened(parcel, spool) as payload:
        if payload.mark != mark:
            return "the file was changed while it was uploaded"
        if payload.size_bytes != sent_bytes:
            return f"{sent_bytes} of {payload.size_bytes} bytes were sent"
        if payload.size_bytes > PROVEN_BYTES:
            return ""
        hashed = ""
        for block in payload.blocks(step_bytes):
            hashed = digest_with(hashed, block)
        return "" if hashed == digest else "the file does not hold what was sent"


@contextlib.contextmanager
def opened(parcel: FileParcel, spool: Path) -> Iterator[Payload]:
    """The open payload. Raises Unreadable or Replaced."""
    if parcel.file is None:
        yield Payload(parcel.blob_name, io.BytesIO(parcel.payload), None)
        return
    with _reading(parcel.file):
        file = io.FileIO(os.open(spool / parcel.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    with file:
        with _reading(parcel.file):
            payload = Payload(parcel.file, file, os.fstat(file.fileno()))
            now = file_state(file.fileno())
        if (taken := TakenFile.unpack(parcel.payload)) and (wrong := taken.contradiction(_at(now, taken))):
            raise Replaced(f"file {parcel.file}: {wrong}")
        yield payload


def _at(now: TakenFile, taken: TakenFile) -> TakenFile:
    """`now` with `taken`'s time, where only that was cut off to whole seconds, as some archives do."""
    cut_off = now.mtime_ns == taken.mtime_ns // SECOND_NS * SECOND_NS
    return now._replace(mtime_ns=taken.mtime_ns) if cut_off else now


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Distinguishes errors of the spool from those of the network and of the journal."""
    try:
        yield
    except OSError as exc:
        raise Unreadable(name, exc) from exc
