"""Sequences: bounded memory of the stored messages of one producer, which makes a repeat harmless.

A producer that wants this numbers its messages under a key (producer, boot, sequence). For each (producer,
boot) ingest remembers, in the commit that stores the messages,

- `seen`: the sequences that are stored, as disjoint closed intervals in ascending order. An honest
  producer has one interval, `1..n`, however long it runs.
- `recent`: the latest runs `(first sequence, last sequence, first id)`, to answer a repeat with the same
  ids.
- `floor`: sequences below it are forgotten.
- `contents`: of the latest requests `(first sequence, last sequence, checksum)`. A producer that is reset
  to a snapshot of itself (a virtual machine, a container) numbers new messages as it numbered others before:
  such a request is no repeat, though its sequences are stored.

Invariants, held by `tests/unit/test_sequences.py`:

1. A sequence is called stored only if it was added. Intervals are never merged over a gap, so a message
   that fell into a gap and comes late is stored.
2. A sequence that was added is never called new again.
3. Memory is bounded: with more than MAX_INTERVALS gaps the lowest interval goes and the floor rises above
   it. Below the floor nothing can be proven, so a sequence is called neither "stored" nor "new": such a
   message is refused, loudly.
4. A request is called another one only where the checksum of exactly its sequences is remembered and differs.

Considered and left: only the highest sequence (acknowledges a message in a gap, without storing it), and
a unique index over stored messages (forgets with the delivery, and costs a random write per message).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from enum import Enum
from itertools import chain
from zlib import crc32

MAX_INTERVALS = 64
MAX_RECENT = 8  # a REQ socket repeats its latest request only; the rest is for producers that pipeline
MAX_CONTENTS = 64  # even: they are packed in pairs
"""Requests by which a producer may be set back and still be noticed at its first one. 4 bytes each."""
CONTENT_BITS = 21
"""Bits of a checksum: one message in two million passes for another."""
_COUNT_BITS = 10
_ENTRY_BITS = CONTENT_BITS + _COUNT_BITS  # two fill a word that is not negative
_COUNT_MASK, _ENTRY_MASK = (1 << _COUNT_BITS) - 1, (1 << _ENTRY_BITS) - 1
_PADDING = -1


class Fate(Enum):
    """The memory's answer about a sequence."""

    NEW = "new"
    STORED = "stored"
    FORGOTTEN = "forgotten"


class Sequences:
    """The memory of one (producer, boot)."""

    __slots__ = ("_entries", "_highs", "_last", "_lows", "_pairs", "floor", "recent")

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        self.recent: list[tuple[int, int, int]] = []
        self._entries: list[int] = []
        """The latest requests as one chain, oldest first: checksum, and number of sequences less one."""
        self._pairs: list[int] = []
        """Each entry with the one before it, as packed: of every other one, from the latest on."""
        self._last = 0
        """The last sequence of the latest request."""
        self.floor = 0

    def copy(self) -> Sequences:
        """An independent copy, to decide on before the commit."""
        twin = Sequences()
        twin._lows, twin._highs = self._lows.copy(), self._highs.copy()
        twin.recent, twin.floor = self.recent.copy(), self.floor
        twin._entries, twin._pairs, twin._last = self._entries.copy(), self._pairs.copy(), self._last
        return twin

    @property
    def seen(self) -> list[tuple[int, int]]:
        return list(zip(self._lows, self._highs, strict=True))

    @property
    def expected(self) -> int | None:
        """The sequence after the highest one stored; None for a producer never met."""
        return self._highs[-1] + 1 if self._highs else None

    def fate(self, sequence: int) -> Fate:
        """The fate of `sequence`."""
        if sequence < self.floor:
            return Fate.FORGOTTEN
        at = bisect_right(self._lows, sequence) - 1
        return Fate.STORED if at >= 0 and sequence <= self._highs[at] else Fate.NEW

    def id_of(self, sequence: int) -> int | None:
        """The id under which a stored sequence was acknowledged, while that is remembered."""
        for first, last, first_id in reversed(self.recent):
            if first <= sequence <= last:
                return first_id + sequence - first
        return None

    def is_another(self, first: int, last: int, content: int) -> bool:
        """True if the sequences `first..last` are remembered as one request, and it had another content."""
        if first > self._last:  # nearly always
            return False
        at = self._place(first, last)
        return at is not None and self._entries[at] >> _COUNT_BITS != content

    def note_content(self, first: int, last: int, content: int) -> None:
        """Remember the content of the request with these sequences, all of them stored."""
        entry, at = content << _COUNT_BITS | last - first, None
        if first != self._last + 1:
            at = self._place(first, last)
            if at is None:  # they are one chain, which is what an honest producer's requests are
                self._entries, self._pairs = [], []
        if at is None:
            self._note(entry)
            self._last = last
            return
        noted, self._entries, self._pairs = self._entries, [], []
        for other in (*noted[:at], entry, *noted[at + 1 :]):
            self._note(other)

    def _note(self, entry: int) -> None:
        before = self._entries[-1] if self._entries else _ENTRY_MASK  # none: its checksum has all bits set
        self._entries.append(entry)
        self._pairs.append(-2 - (entry | before << _ENTRY_BITS))
        del self._entries[:-MAX_CONTENTS], self._pairs[:-MAX_CONTENTS]

    def _place(self, first: int, last: int) -> int | None:
        """The index of the request with exactly these sequences; None where it is not remembered."""
        end = self._last
        for at in range(len(self._entries) - 1, -1, -1):
            begin = end - (self._entries[at] & _COUNT_MASK)
            if end <= last:
                return at if (begin, end) == (first, last) else None
            end = begin - 1
        return None

    @property
    def contents(self) -> list[tuple[int, int, int]]:
        """The first and last sequence, and the checksum, of the latest requests."""
        contents, last = [], self._last
        for entry in reversed(self._entries):
            first = last - (entry & _COUNT_MASK)
            contents.append((first, last, entry >> _COUNT_BITS))
            last = first - 1
        return contents[::-1]

    def store_again(self, first: int, last: int, first_id: int) -> None:
        """Another request with these sequences, which are stored already, is stored under consecutive ids."""
        self._remember_ids(first, last, first_id)

    def add(self, first: int, last: int, first_id: int) -> None:
        """Remember that the new sequences `first..last` are stored under consecutive ids."""
        self._remember_ids(first, last, first_id)
        at = bisect_right(self._lows, first)
        joins_left = at > 0 and self._highs[at - 1] == first - 1
        joins_right = at < len(self._lows) and self._lows[at] == last + 1
        if joins_left and joins_right:
            self._highs[at - 1] = self._highs[at]
            del self._lows[at], self._highs[at]
        elif joins_left:
            self._highs[at - 1] = last
        elif joins_right:
            self._lows[at] = first
        else:
            self._lows.insert(at, first)
            self._highs.insert(at, last)
            self._forget_beyond_bound()

    def _remember_ids(self, first: int, last: int, first_id: int) -> None:
        if self.recent:
            run_first, run_last, run_id = self.recent[-1]
            if run_last + 1 == first and run_id + first - run_first == first_id:
                self.recent[-1] = (run_first, last, run_id)
                return
        self.recent.append((first, last, first_id))
        del self.recent[:-MAX_RECENT]

    def _forget_beyond_bound(self) -> None:
        while len(self._lows) > MAX_INTERVALS:
            self.floor = self._highs[0] + 1
            del self._lows[0], self._highs[0]

    def pack(self) -> bytes:
        """The bytes that go to disk: floor, number of intervals, intervals, contents, runs; 64 bit integers.

        The upper half of the number is a checksum: one flipped bit could call an unseen sequence stored.
        Contents are negative and come in threes: an older runtime takes them for runs without a sequence.
        """
        intervals = chain.from_iterable(zip(self._lows, self._highs, strict=True))
        runs = chain.from_iterable(self.recent)
        flat = array("q", [self.floor, len(self._lows), *intervals, *self._packed(), *runs])
        flat[1] |= _checksum(flat) << 32
        return flat.tobytes()

    def _packed(self) -> list[int]:
        """The last sequence, then two requests a word, the latest first; in threes, all of it negative."""
        if not self._entries:
            return []
        words = [-2 - self._last, *self._pairs[::-2]]
        return words + [_PADDING] * (-len(words) % 3)

    @classmethod
    def unpack(cls, packed: bytes) -> Sequences:
        """The inverse of `pack`. Raises ValueError where the bytes are not whole."""
        flat = array("q")
        flat.frombytes(packed)
        if len(flat) < 2 or flat[1] < 0:
            raise ValueError("not the memory of a producer")
        checksum, flat[1] = divmod(flat[1], 2**32)
        memory, runs_at = cls(), 2 + 2 * flat[1]
        if len(flat) < runs_at or (len(flat) - runs_at) % 3:
            raise ValueError("not the memory of a producer")
        if checksum and checksum != _checksum(flat):  # none: written before there was one
            raise ValueError("the memory of a producer was changed")
        memory.floor = flat[0]
        memory._lows, memory._highs = list(flat[2:runs_at:2]), list(flat[3:runs_at:2])
        triples = list(zip(flat[runs_at::3], flat[runs_at + 1 :: 3], flat[runs_at + 2 :: 3], strict=True))
        entries, memory._last = _unpacked([word for triple in triples if triple[0] < 0 for word in triple])
        for entry in entries:
            memory._note(entry)
        memory.recent = [triple for triple in triples if triple[0] >= 0]
        return memory


def _unpacked(words: list[int]) -> tuple[list[int], int]:
    """The inverse of `Sequences._packed`."""
    if not words:
        return [], 0
    last, *pairs = (-2 - word for word in words if word != _PADDING)
    latest = chain.from_iterable((pair & _ENTRY_MASK, pair >> _ENTRY_BITS) for pair in pairs)
    return [entry for entry in latest if entry != _ENTRY_MASK][::-1], last


def content_of(parts: Iterable[bytes]) -> int:
    """A checksum of the parts of a request, in order."""
    content = 0
    for part in parts:
        content = crc32(part, (31 * content + len(part) + 1) % 2**32)
    return content % ((1 << CONTENT_BITS) - 1)  # all bits set is no checksum, but "none"


def _checksum(flat: array[int]) -> int:
    """31 bits, never 0."""
    return crc32(flat) >> 1 or 1
