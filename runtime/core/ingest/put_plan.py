"""Put plan: what of a request would be kept, and under which names, before room is made for it.

A request is split into runs of payloads that share a description; its repeats are left out; its messages are
named by its numbering, whose oddities are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from runtime.core.ingest.message_fields import NO_DETAILS, Description
from runtime.core.ingest.protocol import WARNING_BACKWARDS, WARNING_GAP, WARNING_REUSED, Put
from runtime.core.ingest.quota import Amount
from runtime.core.ingest.sequences import Sequences, content_of
from runtime.core.ingest.taken_files import TakenFile, WantedFile
from runtime.core.message import Kind, StreamName


class Run(NamedTuple):
    """Payloads of a request that share a description: the common part is worked out once."""

    described: Description
    indexes: Sequence[int]
    sizes: Sequence[int]
    """The bytes that each of them counts for."""
    amount: Amount


class PutPlan(NamedTuple):
    """The part of a request that would be kept, ready to be stored."""

    put: Put
    memory: Sequences | None
    """The sequences of its producer; None where it gave no key."""
    content: int
    """The checksum of what it carries."""
    collides: bool
    """Its sequences are stored with another content."""
    fresh: Sequence[int]
    """The indexes of the payloads that are not stored yet."""
    runs: Sequence[Run]
    prefix: str | None
    """The prefix of the names of its messages; None where its producer gave none."""
    file_indexes: Sequence[int]
    """The indexes of the payloads that are files."""

    def files(self) -> list[WantedFile]:
        """The files that stand for payloads, each with the name of its message."""
        details = {index: run.described.details for run in self.runs for index in run.indexes}
        first = self.put.first_sequence
        return [
            WantedFile(details[index].file or "", f"{self.prefix}{first + index}")
            for index in self.file_indexes
        ]

    def with_sizes(self, sizes: Sequence[int]) -> PutPlan:
        """The plan with the sizes of its files."""
        file_sizes = dict(zip(self.file_indexes, sizes, strict=True))
        return self._replace(runs=[with_file_sizes(run, file_sizes) for run in self.runs])

    def with_files(self, taken: Sequence[TakenFile]) -> PutPlan:
        """The plan with the record of each taken file as the payload of its row."""
        payloads = list(self.put.payloads)
        for index, file in zip(self.file_indexes, taken, strict=True):
            payloads[index] = file.pack()
        return self._replace(put=self.put._replace(payloads=payloads))


def file_indexes(runs: Sequence[Run]) -> Sequence[int]:
    """The indexes of the payloads that are files."""
    return [index for run in runs if run.described.details.file for index in run.indexes]


def runs_of(put: Put, fresh: Sequence[int]) -> list[Run]:
    """The runs of `fresh` that share a description: mostly it is one run."""
    descriptions, payloads = put.descriptions, put.payloads
    runs, start, end = [], 0, len(fresh)
    alike = descriptions.count(descriptions[0]) == len(descriptions)  # most have but one
    while start < end:
        described, at = descriptions[fresh[start]], end if alike else start + 1
        while at < end and descriptions[fresh[at]] is described:
            at += 1
        indexes, text_bytes = fresh[start:at], described.text_bytes
        sizes = [len(payloads[index]) + text_bytes for index in indexes]
        runs.append(Run(described, indexes, sizes, Amount(len(indexes), sum(sizes))))
        start = at
    return runs


def with_file_sizes(run: Run, file_sizes: Mapping[int, int]) -> Run:
    """The run with the sizes of its files."""
    sizes = [size + file_sizes.get(index, 0) for index, size in zip(run.indexes, run.sizes, strict=True)]
    return run._replace(sizes=sizes, amount=Amount(len(sizes), sum(sizes)))


def amounts_of(runs: Sequence[Run]) -> dict[StreamName, Amount]:
    """The amounts that a request adds to each stream."""
    amounts: dict[StreamName, Amount] = {}
    for described, _, _, amount in runs:
        before = amounts.get(described.name)
        amounts[described.name] = amount if before is None else before.plus(amount)
    return amounts


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
    names = [
        name
        for d in put.descriptions
        if d.details is not NO_DETAILS
        for name in _distinguishing_texts(put, d)
    ]
    return content_of([bytes([put.kind]), *put.payloads, *map(str.encode, names)])


def _distinguishing_texts(put: Put, described: Description) -> Iterator[str]:
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
