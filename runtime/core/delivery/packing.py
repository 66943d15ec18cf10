"""Packing: several messages of a stream joined to one message of the hub, and taken apart again.

The hub bills 4 KiB steps and throttles sends of any size: many small messages go cheaper and faster as one.
Laws, each held by a property in tests/unit/test_packing.py:

1. `unpack(join(members)) == members`, with the ids that each has when it goes alone.
2. The payload of joined packs is the joined payload of all their members (`lines`: with a newline between
   them, `concat`: with nothing): a file that the platform concatenates is the same, byte for byte.
3. The name of a pack says all its members: equal names, equal members. So a platform that drops repeats by
   name never drops a message that it does not have.

Nothing that would lose its name is packed: a message with a message id or chunk id of its own goes alone, and
so does one whose payload, content type or properties would be ambiguous in a pack.

The name is the first member's, `#`, and the runs of sequence numbers: `p:b:101#+20` are twenty in a row,
`#+5-2+15` five, two left out, fifteen, `#+20*3` every third number, twenty of them. `#` is in no key's name,
and the `~` that would read better is not allowed in the hub's message ids.

Considered and left: to name a pack after its first member only (a pack cut otherwise after a crash would be
dropped as a repeat); a JSON array (the device would have to parse, and concatenated files would change).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby, pairwise

from runtime.core.delivery.envelope import Compression, Telemetry, compressed, decompressed

MOST_NAME_CHARACTERS = 120
"""The hub allows 128 in a message id."""
MOST_MEMBERS = 1_000
"""Most messages of one pack."""
MOST_DESCRIBED_BYTES = 2_048
"""A message with larger properties goes alone: they cost more than the rest."""
PACK, LENGTHS, ENCODING = "pack", "pack-lengths", "content-encoding"
JSON, JSON_LINES = "application/json", "application/x-ndjson"
_ALONE = frozenset((PACK, LENGTHS, ENCODING, "message-id", "chunk-id"))
"""Application properties of a message that goes alone: a pack would take them away, or be taken for one."""
_COUNTED = re.compile(r"(.*:)(0|[1-9][0-9]{0,18})", re.DOTALL)
_RUN = re.compile(r"\+([1-9]\d*)(?:\*([1-9]\d*))?(?:-(0|[1-9]\d*)(?=\+))?", re.ASCII)
_LEAST_STEPPED = 3
"""A run of every n-th number is worth its step from so many members on."""


class PackFormat(StrEnum):
    """The form of a pack."""

    NONE = "none"
    LINES = "lines"
    CONCAT = "concat"


@dataclass(frozen=True, slots=True)
class PackRule:
    """The settings of one stream's packs."""

    format: PackFormat
    linger_s: float = 0.0
    """Most seconds that a message waits after it was stored for others to join it."""
    units: int = 16
    """Most units of a pack; more than one only where more waits."""
    as_message_id: bool = False
    """The pack's name also goes as its message id, for streams that need one."""
    compression: Compression = Compression.NONE


@dataclass(frozen=True, slots=True)
class PackPart:
    """A message that may go in a pack: its telemetry before compression, and the rule of its stream."""

    rule: PackRule
    telemetry: Telemetry


class NotAPack(ValueError):
    """A message that claims to be a pack, and cannot be taken apart without guessing."""


# -- what may be packed -----------------------------------------------------------------------------------


def may_pack(telemetry: Telemetry, format: PackFormat) -> bool:
    """True if a message may be packed with its like, and loses nothing by it."""
    if _COUNTED.fullmatch(telemetry.mid) is None:
        return False
    described_bytes = 0
    for name, text in telemetry.properties:
        if name in _ALONE:
            return False
        described_bytes += len(name) + len(text)
    if described_bytes > MOST_DESCRIBED_BYTES:
        return False
    if format is PackFormat.LINES:
        return b"\n" not in telemetry.payload and telemetry.content_type != JSON_LINES
    return format is PackFormat.CONCAT


def alike(one: Telemetry, other: Telemetry) -> bool:
    """True if two messages differ in nothing but id and payload, whatever is sent with them."""
    return (
        one.properties == other.properties
        and one.content_type == other.content_type
        and one.passed == other.passed
    )


def counted(mid: str) -> tuple[str, int]:
    """A message id as what all of its producer's life share, and the number. Raises NotAPack."""
    match = _COUNTED.fullmatch(mid)
    if match is None:
        raise NotAPack(f"the message id {mid!r} has no number")
    return match[1], int(match[2])


# -- names ------------------------------------------------------------------------------------------------


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The runs of ascending numbers: of each the number of members up to its end, and its text."""
    at = 0
    while at < len(numbers):
        count, step = _run(numbers, at)
        left_out = f"-{numbers[at] - numbers[at - 1] - 1}" if at else ""
        at += count
        yield at, f"{left_out}+{count}" + (f"*{step}" if step > 1 else "")


def _run(numbers: Sequence[int], at: int) -> tuple[int, int]:
    """The number of members of the run that begins there, and its step."""
    if at + 1 == len(numbers):
        return 1, 1
    step = numbers[at + 1] - numbers[at]
    end = at + 1
    while end + 1 < len(numbers) and numbers[end + 1] - numbers[end] == step:
        end += 1
    count = end - at + 1
    return (count, step) if step == 1 or count >= _LEAST_STEPPED else (1, 1)


def numbers_of(first: int, text: str) -> list[int]:
    """The numbers that `runs` has written. Raises NotAPack for any other text."""
    numbers: list[int] = []
    at, next_number = 0, first
    while at < len(text):
        match = _RUN.match(text, at)
        if match is None or len(numbers) + int(match[1]) > MOST_MEMBERS:
            raise NotAPack(f"{text!r} does not count the members of a pack")
        count, step = int(match[1]), int(match[2] or 1)
        numbers += range(next_number, next_number + count * step, step)
        next_number = numbers[-1] + int(match[3] or 0) + 1
        at = match.end()
    if "".join(run for _, run in runs(numbers)) != text:
        raise NotAPack(f"{text!r} is not the one way to write the members of a pack")
    return numbers


def named(first: str, numbers: Sequence[int]) -> tuple[str, int]:
    """The name of a pack whose first member is named `first`, and how many members fit into a name."""
    name, fitting = f"{first}#", 0
    for members, run in runs(numbers):
        if len(name) + len(run) > MOST_NAME_CHARACTERS:
            break
        name, fitting = name + run, members
    return name, fitting


def member_ids(name: str) -> list[str]:
    """The ids of a pack's members, by its name. Raises NotAPack."""
    first, separator, text = name.partition("#")
    if not separator:
        raise NotAPack(f"{name!r} is not the name of a pack")
    prefix, number = counted(first)
    numbers = numbers_of(number, text)
    if len(numbers) < 2:
        raise NotAPack(f"{name!r} names a pack of fewer than two")
    return [f"{prefix}{number}" for number in numbers]


# -- joining and taking apart -----------------------------------------------------------------------------


def may_join(members: Sequence[Telemetry]) -> bool:
    """True if these make a pack: two or more that are `alike` and ascend, and whose name fits."""
    ids = [counted(member.mid) for member in members]
    ascend = all(one[0] == next[0] and one[1] < next[1] for one, next in pairwise(ids))
    if len(members) < 2 or not ascend or not all(alike(members[0], member) for member in members):
        return False
    return named(members[0].mid, [number for _, number in ids])[1] == len(members)


def join(members: Sequence[Telemetry], rule: PackRule) -> Telemetry:
    """The pack of members that `may_join`; compressed last."""
    first = members[0]
    name, fitting = named(first.mid, [counted(member.mid)[1] for member in members])
    assert fitting == len(members) > 1, "members that the name of a pack cannot say"
    properties = {**dict(first.properties), PACK: rule.format.value}
    if rule.as_message_id:
        properties["message-id"] = name
    content_type = first.content_type
    if rule.format is PackFormat.LINES:
        separator = b"\n"
        content_type = JSON_LINES if content_type == JSON else content_type
    else:
        separator = b""
        properties[LENGTHS] = _lengths(len(member.payload) for member in members)
    payload = separator.join(member.payload for member in members)
    pack = Telemetry(name, payload, tuple(sorted(properties.items())), content_type, first.passed)
    return compressed(pack, rule.compression)


def unpack(pack: Telemetry) -> list[Telemetry]:
    """The members of a pack, as each would have gone alone, uncompressed. Raises NotAPack."""
    properties = dict(pack.properties)
    ids = member_ids(pack.mid)
    format = properties.pop(PACK, "")
    lengths = properties.pop(LENGTHS, "")
    payload = decompressed(pack.payload) if properties.pop(ENCODING, "") == "br" else pack.payload
    if properties.get("message-id") == pack.mid:
        del properties["message-id"]
    content_type = pack.content_type
    if format == PackFormat.LINES:
        payloads = payload.split(b"\n")
        content_type = JSON if content_type == JSON_LINES else content_type
    elif format == PackFormat.CONCAT:
        payloads = _cut(payload, lengths)
    else:
        raise NotAPack(f"there is no pack of the format {format!r}")
    if len(payloads) != len(ids):
        raise NotAPack(f"the name {pack.mid!r} says {len(ids)} members, the payload has {len(payloads)}")
    common = tuple(sorted(properties.items()))
    return [
        replace(pack, mid=id, payload=part, properties=common, content_type=content_type)
        for id, part in zip(ids, payloads, strict=True)
    ]


def _lengths(sizes: Iterable[int]) -> str:
    """Lengths as `200*17,198`: seventeen payloads of 200 bytes, one of 198."""
    counts = [(size, len(list(same))) for size, same in groupby(sizes)]
    return ",".join(f"{size}*{count}" if count > 1 else str(size) for size, count in counts)


def _cut(payload: bytes, lengths: str) -> list[bytes]:
    payloads, at = [], 0
    try:
        for entry in lengths.split(","):
            size, _, count = entry.partition("*")
            for _ in range(min(int(count or 1), MOST_MEMBERS)):
                payloads.append(payload[at : at + int(size)])
                at += int(size)
    except ValueError:
        raise NotAPack(f"{lengths[:80]!r} are no lengths") from None
    if at != len(payload):
        raise NotAPack(f"the lengths make {at} bytes, the payload has {len(payload)}")
    return payloads
