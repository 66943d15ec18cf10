"""Small files that are written whole or not at all, and that other users cannot read even for an instant."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace `path`; a SIGKILL leaves the old content or the new."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchmod(file.fileno(), mode)  # independent of the umask
        file.write(content)
    fresh.replace(path)
