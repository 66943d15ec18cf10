"""The payloads of a request in runs that share a description, and the amounts of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runtime.core.ingest.protocol import Description, Put
from runtime.core.ingest.quota import Amount
from runtime.core.message import StreamName


class Run(NamedTuple):
    """Payloads of a request that share a description: the common part is worked out once."""

    described: Description
    indexes: Sequence[int]
    sizes: Sequence[int]
    """The bytes that each of them counts for."""
    amount: Amount


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


def weighed(run: Run, weights: Mapping[int, int]) -> Run:
    """The run with the sizes of its files."""
    sizes = [size + weights.get(index, 0) for index, size in zip(run.indexes, run.sizes, strict=True)]
    return run._replace(sizes=sizes, amount=Amount(len(sizes), sum(sizes)))


def amounts_of(runs: Sequence[Run]) -> dict[StreamName, Amount]:
    """The amounts that a request adds to each stream."""
    amounts: dict[StreamName, Amount] = {}
    for described, _, _, amount in runs:
        before = amounts.get(described.name)
        amounts[described.name] = amount if before is None else before.plus(amount)
    return amounts
