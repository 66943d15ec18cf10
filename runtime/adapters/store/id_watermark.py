"""How far ids were given: kept beside messages.db, for what an older copy of it cannot know.

Such a copy, brought back, would give ids a second time, to other messages. A report of what was delivered,
on its way meanwhile, would take one away that nobody has, and the cloud would take it for a repeat: its
message id is made of the store's uuid and this one. So the store goes on under a new uuid.

What the file says can be old, never ahead of the store.
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
        said = checksummed_line.read(path)
        self._uuid, self._next_id = self._saved = tuple(said) if said else ("", 0)

    def missing(self, uuid: str, next_id: int) -> range:
        """Ids that this store gave, and does not know of."""
        return range(next_id, max(next_id, self._next_id if uuid == self._uuid else 0))

    def remember(self, uuid: str, next_id: int) -> None:
        """What the store has, after its commit."""
        self._uuid, self._next_id = uuid, next_id

    def save(self) -> None:
        """Keep it, where it has changed."""
        said = self._uuid, self._next_id
        if said != self._saved:
            with contextlib.suppress(OSError):  # a full disk: an older copy would not be known for one
                checksummed_line.write(self._path, said)
                self._saved = said
