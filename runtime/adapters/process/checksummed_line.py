"""A small file of one line, written in place: a checksum and JSON.

There is no fsync, and no new file for each change: flash would wear. After a power cut the line can be old or
torn; a torn one counts as absent. So it is for values that may be old.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any


def write(path: Path, value: Any) -> None:
    """Write the line. Raises OSError."""
    text = json.dumps(value).encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, b"%08x %s\n" % (zlib.crc32(text), text), 0)
    finally:
        os.close(fd)


def read(path: Path) -> Any:
    """The value in the file; None where the line is torn or missing."""
    try:
        check, _, text = path.read_bytes().partition(b"\n")[0].partition(b" ")
        return json.loads(text) if int(check, 16) == zlib.crc32(text) else None
    except (OSError, ValueError):
        return None
