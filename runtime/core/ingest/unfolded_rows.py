"""Unfolded rows: what their rows alone tell of the latest messages, which no counter knows yet.

An ordinary commit of the store inserts rows and writes nothing else (`adapters/store/fold.py`). So the rows
have to carry what the next fold writes: by stream, priority and size the counters; by id the next one; and by
two columns

- `request`, in the last row of a request with a key, the memory of its producer: the number of messages, the
  checksum of the content, and a checksum over both, the key, its owner and the ids.
- `gone`, in the first row of a commit, the earlier messages that were delivered: as ranges of ids, behind a
  checksum over them and the row's own id.

Invariants, held by `tests/unit/test_unfolded_rows.py`:

1. What its checksum does not prove counts for nothing: the sequences of such a request are not remembered
   (a repeat is stored again), the messages of such a note are delivered again. No sequence is called stored
   that is not, and no message gone that nothing delivered.
2. A note names only messages that were stored before its own row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from runtime.core.ingest.ownership import key_prefix
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.sequences import CONTENT_BITS
from runtime.core.settlement import to_ranges

MOST_NOTED = 64
"""Deliveries that one row notes. More are removed at once: then their pages are worth it."""
MOST_NAMED = 10_000
"""No note names so many messages."""
_COUNT_BITS = 10
_ENTRY_BITS = CONTENT_BITS + _COUNT_BITS
_COUNT_MASK, _ENTRY_MASK = (1 << _COUNT_BITS) - 1, (1 << _ENTRY_BITS) - 1
_KEY = re.compile(r"([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)(@[0-9a-f]+)?/([0-9]+)", re.ASCII)
_NOTE = re.compile(r"([0-9a-f]{8})((?: [0-9]{1,16}(?:-[0-9]{1,16})?)+)", re.ASCII)


class StoredRequest(NamedTuple):
    """A request with a key as its rows tell of it: all of its messages are stored, under consecutive ids."""

    key: ProducerKey
    apart: bool
    """Its names carry the mark of its owner."""
    first: int
    last: int
    """Its sequences."""
    first_id: int
    content: int
    """The checksum of its content."""

    def pack(self) -> int:
        """The number for the column `request` of its last row."""
        entry = self.content << _COUNT_BITS | self.last - self.first
        return self._checksum() << _ENTRY_BITS | entry

    def _checksum(self) -> int:
        """31 bits over all of it. The text is part of the schema, whatever its classes are called."""
        (producer, boot, owner), apart, first, last, first_id, content = self
        key = f"ProducerKey(producer={producer!r}, boot={boot!r}, owner={owner!r})"
        text = f"({key}, {apart}, {first}, {last}, {first_id}, {content})"
        return crc32(text.encode()) >> 1


def unpack_requests(
    rows: Sequence[tuple[int, object, object]], owner_of: Callable[[int], str]
) -> list[StoredRequest]:
    """The requests that these rows (id, key, request) prove, in the order of their ids."""
    keys = {number: key for number, key, _ in rows}
    requests = (_unpacked(number, packed, keys, owner_of) for number, _, packed in rows)
    return [request for request in requests if request is not None]


def _unpacked(
    number: int, packed: object, keys: dict[int, object], owner_of: Callable[[int], str]
) -> StoredRequest | None:
    """The request whose last row has this id; None where its rows do not prove it."""
    if type(packed) is not int or packed < 0:
        return None
    entry = packed & _ENTRY_MASK
    count, content = entry & _COUNT_MASK, entry >> _COUNT_BITS
    first_id = number - count
    name = _KEY.fullmatch(key) if isinstance(key := keys.get(first_id), str) else None
    if name is None:
        return None
    producer, boot, mark, sequence = name.groups()
    first, key_of = int(sequence), ProducerKey(producer, boot, owner_of(number))
    prefix = key_prefix(key_of, apart=mark is not None)
    if any(keys.get(first_id + at) != f"{prefix}{first + at}" for at in range(count + 1)):
        return None
    request = StoredRequest(key_of, mark is not None, first, first + count, first_id, content)
    return request if request.pack() == packed else None


def pack_gone(number: int, ids: Iterable[int]) -> str:
    """The text for the column `gone` of the row with this id: messages that are delivered."""
    ranges = "".join(f" {one}" if one == two else f" {one}-{two}" for one, two in to_ranges(ids))
    return f"{_gone_checksum(number, ranges):08x}{ranges}"


def unpack_gone(number: int, gone: object) -> list[int]:
    """The messages that the row with this id says are delivered; none where it does not prove it."""
    note = _NOTE.fullmatch(gone) if isinstance(gone, str) else None
    if note is None or int(note[1], 16) != _gone_checksum(number, note[2]):
        return []
    ids: list[int] = []
    for part in note[2].split():
        first, _, last = part.partition("-")
        named = range(int(first), int(last or first) + 1)
        if not named or named.stop > number or len(ids) + len(named) > MOST_NAMED:
            return []
        ids += named
    return ids


def _gone_checksum(number: int, ranges: str) -> int:
    return crc32(f"{number}{ranges}".encode())
