"""Read errors: a disk that is away, a part of a file that is lost, or damaged content.

SQLite reports "malformed" for all three. A disk that was pulled, reset or fell asleep comes back with
everything, and a good store set aside for it would be taken apart for nothing. So after every such error the
files are read, block by block, beside SQLite:

- Everything can be read: once, it may have been a disk that is back. Again within `PASSES_S`, it is damage.
- A part cannot be read: it is permanently lost only when the same blocks failed at each of `LOOKS` looks,
  the last `LASTING_S` after the first, while the disk was there every time: other blocks of the same files
  could be read, and a file written beside them was flushed.
- Anything else is a disk that is away, and the count of looks starts again.

Meanwhile the store is opened again after every look, and serves requests that do not need these blocks.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple

LOOKS = 5
LOOK_EVERY_S = 30.0
PASSES_S = 60.0
LASTING_S = (LOOKS - 1) * LOOK_EVERY_S


class Block(NamedTuple):
    """A part of a file that is read whole or not at all."""

    file: str
    number: int


@dataclass(frozen=True, slots=True)
class Look:
    """The findings of one look at the files."""

    unreadable: Set[Block] = frozenset()
    readable: int = 0
    """The number of blocks that could be read."""
    flushed: bool = False
    """A file written beside them reached the disk."""


class ReadVerdict(NamedTuple):
    """The conclusions that are certain now."""

    damaged: bool = False
    """The store is to be set aside, and its readable rows salvaged."""
    gone: Set[Block] = frozenset()
    """Blocks that will never be read again."""


@dataclass
class UnreadableBlocks:
    """The findings of the looks so far."""

    _blocks: Set[Block] = frozenset()
    """The blocks that failed at every look that counts."""
    _looks: int = 0
    _since_s: float = 0.0
    _last_s: float = 0.0
    _sound_s: float | None = None
    """The time of the last look, if everything could be read then."""

    def due(self, now_s: float) -> bool:
        """True if one more look would tell more."""
        return not self._looks or now_s - self._last_s >= LOOK_EVERY_S

    def add(self, look: Look, now_s: float) -> ReadVerdict:
        """Take in one more look, after one more error."""
        before_s, self._sound_s = self._sound_s, None
        self._last_s = now_s
        same = look.unreadable & self._blocks
        if not (look.unreadable and look.readable and look.flushed):
            self._blocks, self._looks = frozenset(), 0
            return self._sound(before_s, now_s) if look.readable and not look.unreadable else ReadVerdict()
        if same:
            self._blocks, self._looks = same, self._looks + 1
        else:
            self._blocks, self._looks, self._since_s = look.unreadable, 1, now_s
        lasting = self._looks >= LOOKS and now_s - self._since_s >= LASTING_S
        return ReadVerdict(True, self._blocks) if lasting else ReadVerdict()

    def _sound(self, before_s: float | None, now_s: float) -> ReadVerdict:
        again = before_s is not None and now_s - before_s <= PASSES_S
        self._sound_s = None if again else now_s
        return ReadVerdict(damaged=again)
