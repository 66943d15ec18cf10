"""Read a file that a user named, without ever waiting for it.

A named pipe that is never written to holds its reader up for ever, and a device may have no end. So a file is
opened without blocking, and is read where it is a regular one.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most_bytes: int = 16_777_216) -> bytes:
    """The whole file, or its first `most_bytes`. Raises OSError, also where it is no regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            words = os.strerror(number) if stat.S_ISDIR(mode) else "not a regular file"
            raise OSError(number, words, str(path))
        return file.read(most_bytes)
