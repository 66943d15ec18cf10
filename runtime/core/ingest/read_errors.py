"""Whether a disk is away, a part of a file is gone for good, or what it says is damaged.

SQLite says "malformed" of all three. A disk that was pulled, reset or fell asleep comes back with everything,
and a good store set aside for it would be taken apart for nothing. So after every such error the files are
looked at, block by block, beside SQLite:

- Everything can be read: once, it may have been a disk that is back. Again within `PASSES_S`, it is damage.
- A part cannot be read: it is gone for good only when the same blocks failed at each of `LOOKS` looks, the
  last `LASTING_S` after the first, while the disk was there every time: other blocks of the same files could
  be read, and what was written beside them was flushed.
- Anything else is a disk that is away, and begins anew.

Meanwhile the store is opened again after every look, and serves whoever does not need these blocks.
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
    """What one look at the files found."""

    unreadable: Set[Block] = frozenset()
    readable: int = 0
    """Blocks that could be read."""
    flushed: bool = False
    """A file written beside them came to the disk."""


class ReadVerdict(NamedTuple):
    """What is certain now."""

    damaged: bool = False
    """Set the store aside, and salvage what can be read."""
    gone: Set[Block] = frozenset()
    """What nobody will read again."""


@dataclass
class UnreadableBlocks:
    """What was seen so far."""

    _blocks: Set[Block] = frozenset()
    """Those that failed at every look that counts."""
    _looks: int = 0
    _since_s: float = 0.0
    _last_s: float = 0.0
    _sound_s: float | None = None
    """When everything could be read, if that was so at the last look."""

    def due(self, now_s: float) -> bool:
        """Whether looking once more would say more."""
        return not self._looks or now_s - self._last_s >= LOOK_EVERY_S

    def saw(self, look: Look, now_s: float) -> ReadVerdict:
        """One more look, after one more error."""
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
