"""Whether the files that SQLite holds open are still those that whoever opens the store next will find.

Somebody may remove messages.db, or bring back an older one, while it is in use. SQLite goes on writing to
what has no name any more, and every commit succeeds; with the process all of it is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.adapters.store_errors import StoreUnavailable


class Place:
    """The database and its WAL, as they are now."""

    def __init__(self, path: Path) -> None:
        self._found = {str(file): _identity(str(file)) for file in (path, path.with_name(f"{path.name}-wal"))}

    def check(self) -> None:
        """Raises StoreUnavailable where one of them is another. Two calls of the system, 3 us."""
        for file, found in self._found.items():
            if _identity(file) != found:
                raise StoreUnavailable(
                    f"{file} was removed or replaced while in use: what it held goes with it"
                )


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  # on the hot path
    except OSError:
        return None
    return found.st_dev, found.st_ino
