"""High-water mark of ids: kept beside messages.db, for ids that an older copy of the store does not know.

Such a copy, brought back, would give ids a second time, to other messages. A delivery report that is on its
way meanwhile would remove a message that is delivered nowhere, and the cloud would take the message for a
repeat: its message id is made of the store's uuid and its id. So the store goes on under a new uuid.

The mark in the file can be old, never ahead of the store.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from runtime.adapters.process import checksummed_line

SAVE_EVERY_S = 60.0


class IdWatermark:
    """The file `state/ids-given`, and what this process knows beyond it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        saved = checksummed_line.read(path)
        self._uuid, self._next_id = self._saved = tuple(saved) if saved else ("", 0)

    @property
    def highest(self) -> int:
        """The mark, of whichever store it is; 0 where there is none."""
        return int(self._next_id)

    def missing(self, uuid: str, next_id: int) -> range:
        """Ids that this store gave, and does not know of."""
        return range(next_id, max(next_id, self._next_id if uuid == self._uuid else 0))

    def remember(self, uuid: str, next_id: int) -> None:
        """Set the mark to what the store has after its commit."""
        self._uuid, self._next_id = uuid, next_id

    def save(self) -> None:
        """Write the file if the mark has changed."""
        mark = self._uuid, self._next_id
        if mark != self._saved:
            with contextlib.suppress(OSError):  # a full disk: an older copy would not be recognised
                checksummed_line.write(self._path, mark)
                self._saved = mark
