"""Packing: several messages of a stream joined to one message of the hub, and taken apart again.

The hub bills 4 KiB steps and throttles sends of any size: many small messages go cheaper and faster as one.
Laws, each held by a property in tests/unit/test_packing.py:

1. `unpack(join(members)) == members`, with the ids that each has when it goes alone.
2. The payload of joined packs is the joined payload of all their members (`lines`: with a newline between
   them, `concat`: with nothing): a file that the platform concatenates is the same, byte for byte.
3. The name of a pack says all its members (`pack_names`): equal names, equal members. So a platform that
   drops repeats by name never drops a message that it does not have.

Nothing that would lose its name is packed: a message with a chunk id of its own goes alone, and so does one
with a message id, but for `cbor-seq`, which has room for it, and one whose payload, content type or
properties would be ambiguous in a pack.

The completion of a batch may be the last member (`fold_completion`): the pack then says itself that the
batch is whole. Its name says the completion, too: a message that may have arrived without it never takes it
along under the same name, for the platform would drop both as a repeat.

Considered and left: to name a pack after its first member only (a pack cut otherwise after a crash would be
dropped as a repeat); a JSON array (the device would have to parse, and concatenated files would change).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby, pairwise

from runtime.core.delivery.envelope import (
    Compression,
    Parcel,
    Sealed,
    Telemetry,
    compressed,
    decompressed,
)
from runtime.core.delivery.pack_items import CBOR_SEQUENCE, common, items, members_of, platform_properties
from runtime.core.delivery.pack_names import MOST_MEMBERS, NotAPack, counted, is_counted, member_ids, named
from runtime.core.leaf import SOURCE_DEVICE

MOST_DESCRIBED_BYTES = 2_048
"""A message with larger properties goes alone: they cost more than the rest."""
PACK, LENGTHS, MEMBER_TYPE, ENCODING = "pack", "pack-lengths", "pack-content-type", "content-encoding"
MESSAGE_ID, COMPLETES, SLICE = "message-id", "complete-batch", "batch-slice-id"
JSON, JSON_LINES = "application/json", "application/x-ndjson"
_ALONE = frozenset((PACK, LENGTHS, MEMBER_TYPE, ENCODING, "chunk-id"))
"""Application properties of a message that goes alone: a pack would take them away, or be taken for one."""
_BATCH = frozenset(("stream-group-name", "stream-name", "site-id", "batch-id", SOURCE_DEVICE))
"""Application properties that say which batch is meant."""
_COMPLETION = {COMPLETES: "true", "ignore-payload": "true"}
"""The other ones of a completion."""


class PackFormat(StrEnum):
    """The form of a pack."""

    NONE = "none"
    LINES = "lines"
    CONCAT = "concat"
    CBOR_SEQ = "cbor-seq"


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
    fold_completion: bool = False
    """The completion of a batch goes in the last pack of it."""


@dataclass(frozen=True, slots=True)
class PackPart:
    """A message that may go in a pack: its telemetry before compression, and the rule of its stream."""

    rule: PackRule
    telemetry: Telemetry


# -- what may be packed -----------------------------------------------------------------------------------


def may_pack(telemetry: Telemetry, format: PackFormat) -> bool:
    """True if a message may be packed with its like, and loses nothing by it."""
    if format is PackFormat.NONE or not is_counted(telemetry.mid):
        return False
    described_bytes = 0
    for name, text in telemetry.properties:
        if name in _ALONE or (name == MESSAGE_ID and format is not PackFormat.CBOR_SEQ):
            return False
        described_bytes += len(name) + len(text)
    if described_bytes > MOST_DESCRIBED_BYTES:
        return False
    if format is PackFormat.LINES:
        return b"\n" not in telemetry.payload and telemetry.content_type != JSON_LINES
    return True


def part_of(sealed: Sealed, rule: PackRule) -> PackPart | None:
    """What a message adds to a pack; None where it always goes alone."""
    if not isinstance(sealed, Parcel) or rule.format is PackFormat.NONE:
        return None
    if (raw := sealed.raw) is not None:
        return PackPart(rule, raw) if may_pack(raw, rule.format) else None
    if not rule.fold_completion or sealed.pieces > 1:
        return None
    whole = sealed.open(0)
    return PackPart(rule, whole) if completes(whole) and may_fold(whole) else None


def may_fold(completion: Telemetry) -> bool:
    """True if a completion says nothing but which batch is whole: then the last pack of it can say so."""
    names = {name for name, _ in completion.properties}
    only_batch = names - _BATCH == _COMPLETION.keys() and completion.content_type is None
    return only_batch and is_counted(completion.mid)


def completes(telemetry: Telemetry) -> bool:
    """True if it is the completion of a batch."""
    return not telemetry.payload and (COMPLETES, "true") in telemetry.properties


def alike(one: Telemetry, other: Telemetry, format: PackFormat) -> bool:
    """True if a pack says the same of both messages as each one says alone, their ids and payloads apart."""
    if one.content_type != other.content_type or one.passed != other.passed:
        return False
    if one.properties == other.properties:
        return True
    return format is PackFormat.CBOR_SEQ and platform_properties(one) == platform_properties(other)


def folds(message: Telemetry, completion: Telemetry) -> bool:
    """True if the pack of a message may say what a completion says.

    Not beside a slice: whether it would be the slice that is whole then is not documented.
    """
    if message.passed != completion.passed or not completes(completion) or not may_fold(completion):
        return False
    about = dict(message.properties)
    return SLICE not in about and _batch_of(about) == _batch_of(dict(completion.properties))


def _batch_of(properties: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in properties.items() if name in _BATCH}


# -- joining and taking apart -----------------------------------------------------------------------------


def may_join(members: Sequence[Telemetry], format: PackFormat) -> bool:
    """True if these make a pack: two or more that are `alike` and ascend, and whose name fits.

    The last one may be the completion of their batch.
    """
    ids = [counted(member.mid) for member in members]
    ascend = all(one[0] == next[0] and one[1] < next[1] for one, next in pairwise(ids))
    if len(members) < 2 or not ascend or completes(members[0]):
        return False
    messages = members[:-1] if folds(members[0], members[-1]) else members
    if not all(alike(members[0], member, format) for member in messages):
        return False
    return named(members[0].mid, [number for _, number in ids])[1] == len(members)


def join(members: Sequence[Telemetry], rule: PackRule) -> Telemetry:
    """The pack of members that `may_join`; compressed last."""
    first = members[0]
    name, fitting = named(first.mid, [counted(member.mid)[1] for member in members])
    assert fitting == len(members) > 1, "members that the name of a pack cannot say"
    folded = completes(members[-1])
    payload, properties, content_type = _joined(members[:-1] if folded else members, rule.format)
    properties[PACK] = rule.format.value
    if folded:
        properties[COMPLETES] = "true"
    if rule.as_message_id:
        properties[MESSAGE_ID] = name
    pack = Telemetry(name, payload, tuple(sorted(properties.items())), content_type, first.passed)
    return compressed(pack, rule.compression)


def _joined(messages: Sequence[Telemetry], format: PackFormat) -> tuple[bytes, dict[str, str], str | None]:
    """The payload, the properties and the content type of a pack of these messages."""
    content_type = messages[0].content_type
    if format is PackFormat.CBOR_SEQ:
        properties = common(messages)
        if content_type is not None:
            properties[MEMBER_TYPE] = content_type
        return items(messages, properties), properties, CBOR_SEQUENCE
    properties = dict(messages[0].properties)
    payloads = [message.payload for message in messages]
    if format is PackFormat.LINES:
        return b"\n".join(payloads), properties, JSON_LINES if content_type == JSON else content_type
    properties[LENGTHS] = _lengths(len(payload) for payload in payloads)
    return b"".join(payloads), properties, content_type


def unpack(pack: Telemetry) -> list[Telemetry]:
    """The members of a pack, as each would have gone alone, uncompressed. Raises NotAPack."""
    properties = dict(pack.properties)
    ids = member_ids(pack.mid)
    completion = []
    if properties.pop(COMPLETES, "") == "true":
        about = tuple(sorted({**_batch_of(properties), **_COMPLETION}.items()))
        completion = [Telemetry(ids.pop(), b"", about, None, pack.passed)]
    payload = decompressed(pack.payload) if properties.pop(ENCODING, "") == "br" else pack.payload
    if properties.get(MESSAGE_ID) == pack.mid:
        del properties[MESSAGE_ID]
    messages = _taken_apart(replace(pack, payload=payload), properties)
    if len(messages) != len(ids):
        raise NotAPack(f"the name {pack.mid!r} says {len(ids)} messages, the payload has {len(messages)}")
    if any(message.mid not in ("", id) for id, message in zip(ids, messages, strict=True)):
        raise NotAPack(f"the name {pack.mid!r} says other messages than the payload")
    return [replace(message, mid=id) for id, message in zip(ids, messages, strict=True)] + completion


def _taken_apart(pack: Telemetry, properties: dict[str, str]) -> list[Telemetry]:
    """The messages of a pack that is not compressed; those of a format that has no ids are without."""
    format, lengths = properties.pop(PACK, ""), properties.pop(LENGTHS, "")
    content_type = pack.content_type
    if format == PackFormat.CBOR_SEQ:
        content_type = properties.pop(MEMBER_TYPE, None)
        return members_of(replace(pack, content_type=content_type), properties)
    if format == PackFormat.LINES:
        payloads = pack.payload.split(b"\n")
        content_type = JSON if content_type == JSON_LINES else content_type
    elif format == PackFormat.CONCAT:
        payloads = _cut(pack.payload, lengths)
    else:
        raise NotAPack(f"there is no pack of the format {format!r}")
    about = tuple(sorted(properties.items()))
    return [Telemetry("", payload, about, content_type, pack.passed) for payload in payloads]


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
