"""The numbering of a request: the names of its messages, its repeats, and its oddities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.core.ingest.message_fields import NO_DETAILS, Description
from runtime.core.ingest.protocol import WARNING_BACKWARDS, WARNING_GAP, WARNING_REUSED, Put
from runtime.core.ingest.sequences import Sequences, content_of
from runtime.core.message import Kind


def keys_of(put: Put, indexes: Sequence[int], prefix: str | None) -> Sequence[str | None]:
    """The names of these messages, the same in every repeat; None where their producer gave none."""
    if prefix is None:
        return [None] * len(indexes)
    first = put.first_sequence
    return [f"{prefix}{first + index}" for index in indexes]


def remember(memory: Sequences, first_sequence: int, fresh: Sequence[int], first_id: int) -> None:
    """Add the fresh sequences as runs."""
    if isinstance(fresh, range):
        memory.add(first_sequence + fresh[0], first_sequence + fresh[-1], first_id)
        return
    start = 0
    for at in range(1, len(fresh) + 1):
        if at == len(fresh) or fresh[at] != fresh[at - 1] + 1:
            memory.add(first_sequence + fresh[start], first_sequence + fresh[at - 1], first_id + start)
            start = at


REUSED = [
    (
        WARNING_REUSED,
        "these sequences are stored with another content: stored again under names of their own (was the "
        "producer put back to a snapshot?)",
    )
]


def sequences_of(put: Put) -> tuple[int, int]:
    """The first and the last sequence of a request."""
    return put.first_sequence, put.first_sequence + len(put.payloads) - 1


def content_of_put(put: Put) -> int:
    """The checksum that tells a repeat from another request under the same sequences."""
    names = [name for d in put.descriptions if d.details is not NO_DETAILS for name in _told_apart_by(put, d)]
    return content_of([bytes([put.kind]), *put.payloads, *map(str.encode, names)])


def _told_apart_by(put: Put, described: Description) -> Iterator[str]:
    """The texts that stand for a payload: of the file, or of the completed batch or message."""
    details = described.details
    completed = () if put.kind is Kind.MESSAGE else (details.batch_id, details.message_id)
    return filter(None, (details.file, *completed))


def warnings_of(put: Put, memory: Sequences | None, fresh: Sequence[int]) -> list[tuple[str, str]]:
    """The oddities of the numbering: they are reported, and the messages are stored all the same."""
    expected = memory.expected if memory is not None else None
    first = put.first_sequence + fresh[0]
    if expected is None or first == expected:
        return []
    if first > expected:
        return [
            (WARNING_GAP, f"expected sequence {expected}, got {first}: {first - expected} never came so far")
        ]
    return [(WARNING_BACKWARDS, f"sequence {first} came after {expected - 1}")]
