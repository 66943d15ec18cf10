"""Resume journal: how far upload is with messages sent in parts or packs, so that a crash repeats little.

The state in `state/under-way` can be old, never ahead of the hub; a torn file, or another device's, is
ignored. Then a message in chunks begins with its first one, whose repeats are known by their ids.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from runtime.adapters.process import checksummed_line
from runtime.core.delivery.pack_notes import PackNotes
from runtime.core.delivery.packings import Packings
from runtime.core.message import StreamName

MOST_CHUNKED = 256
"""Messages whose chunks are remembered: twice as many as are sent at a time (`send_queue.MOST_IN_PIECES`)."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """Progress of a message that the hub has in part."""

    chunk_bytes: int
    """Size to which its payload was cut: the rest is cut the same way, whatever is configured meanwhile."""
    reached: int
    """Number of the first piece that the hub does not have."""


def same_destination(before: str, now: str) -> bool:
    """True if `before`, which an earlier version wrote without the hub, is the destination `now`."""
    return f"/{now}".endswith(f"/{before}")


class ResumeJournal:
    """The journal file and its content."""

    def __init__(self, path: Path) -> None:
        self._path = path
        fields = checksummed_line.read(path) or {}
        self.destination: str | None = fields.get("device")
        """The hub and the device whose chunks these are; of an earlier version only the device."""
        self.batches = {
            StreamName(*name): batch
            for *name, batch in (*fields.get("batches", ()), *fields.get("leaf_batches", ()))
        }
        chunked = fields.get("chunked", {})
        self._chunked = OrderedDict((key, Chunked(*progress)) for key, progress in chunked.items())
        self.packings = Packings.of_json(fields.get("packings"))
        self.packs = PackNotes.of_json(fields.get("packs"))
        self._changed = False

    def chunked(self, key: str) -> Chunked | None:
        """The part of the message with this key that the hub has; None for no part."""
        return self._chunked.get(key)

    def reached(self, key: str, chunked: Chunked) -> None:
        """Record that the hub has more of the message."""
        self._chunked.pop(key, None)
        self._chunked[key] = chunked
        while len(self._chunked) > MOST_CHUNKED:
            del self._chunked[next(iter(self._chunked))]
        self._changed = True

    def whole(self, key: str) -> None:
        """The hub has all of the message: it is the first to be forgotten where there is no room."""
        if key in self._chunked:
            self._chunked.move_to_end(key, last=False)

    def left(self, key: str) -> None:
        """The message is settled: forget it."""
        self._changed |= self._chunked.pop(key, None) is not None

    def goes_to(self, destination: str) -> bool:
        """Set the chunks' destination. True if it was another hub or device before: the new one has none."""
        before, self.destination = self.destination, destination
        another = before is not None and not same_destination(before, destination)
        if another:
            self._chunked.clear()
        self._changed |= before != destination
        return another

    def save(self, batches: dict[StreamName, str]) -> None:
        """Write the file if its content has changed."""
        if not (self._changed or self.packings.changed or self.packs.changed) and batches == self.batches:
            return
        self.batches = dict(batches)
        self._changed = False
        fields = {
            "device": self.destination,
            "batches": [(*name[:2], batch) for name, batch in batches.items() if name.leaf is None],
            "leaf_batches": [(*name, batch) for name, batch in batches.items() if name.leaf is not None],
            "chunked": {
                key: (progress.chunk_bytes, progress.reached) for key, progress in self._chunked.items()
            },
            "packings": self.packings.to_json(),
            "packs": self.packs.to_json(),
        }
        with contextlib.suppress(OSError):  # a full disk: a crash would repeat more
            checksummed_line.write(self._path, fields)
