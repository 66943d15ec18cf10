"""Taken files: the name under which a producer's file waits for its upload, and its state when taken."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

HASHED_BYTES = 1_048_576
"""Files up to this size are known by their content, too."""


class WantedFile(NamedTuple):
    """A file that a producer names instead of sending a payload."""

    name: str
    """Its name in the drop folder."""
    key: str
    """The name of its message."""


class TakenFile(NamedTuple):
    """The state of a file when it was taken: its producer may have kept it open, and write to it later.

    It is stored as the payload of the message whose payload the file is.
    """

    size_bytes: int
    mtime_ns: int
    sha256: str | None = None
    """The hash of a file of at most `HASHED_BYTES`."""

    def pack(self) -> bytes:
        return json.dumps(self._asdict(), separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> TakenFile | None:
        """The inverse of `pack`; None where nothing was noted, as in older stores."""
        try:
            record = json.loads(packed)
            return cls(int(record["size_bytes"]), int(record["mtime_ns"]), record.get("sha256"))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None

    def contradiction(self, now: TakenFile) -> str | None:
        """The evidence that the file `now` has another content than this one; None where there is none."""
        if now.size_bytes != self.size_bytes:
            return f"it had {self.size_bytes} bytes when it was taken, and has {now.size_bytes}"
        if self.sha256 and now.sha256:  # says more than the time: a backup that is brought back has another
            return None if now.sha256 == self.sha256 else "its content is another than when it was taken"
        return None if now.mtime_ns == self.mtime_ns else "it was written to after it was taken"


class NotTaken(NamedTuple):
    """The reason why a file was not taken."""

    reason: str
    passing: bool = False
    """The same request may find it later: the disk was full, or the drop folder not there."""
    full: bool = False
    """The cause is want of room."""


def spool_name(key: str, file: str) -> str:
    """The same name for the same message and file: under one key other files may come until one is stored."""
    return hashlib.sha256(f"{key}\0{file}".encode()).hexdigest()[:40]
