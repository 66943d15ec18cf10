"""Packs: several messages of a device in one, by the contract in docs/packing.md. Written for the stand-in.

The real hub takes whatever comes; consumers would have to guess. So the stand-in is strict: a pack whose name
does not say its members exactly ends the connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.devcloud.state import cbor_items
from runtime.errors import Rejected

_NAME = re.compile(r"(?P<prefix>.*:)(?P<first>0|[1-9]\d*)#(?P<runs>\+[-+*\d]+)", re.ASCII | re.DOTALL)
_RUN = re.compile(r"\+([1-9]\d*)(?:\*([1-9]\d*))?(?:-(0|[1-9]\d*)(?=\+))?", re.ASCII)
LONGEST_NAME = 120
MOST_MEMBERS = 10_000
_OF_ALL = {
    "stream-group-name", "stream-name", "site-id", "batch-id", "batch-slice-id", "message-id", "chunk-id",
    "content-encoding", "complete-batch", "complete-message", "ignore-payload", "source-device-id",
    "gateway-path", "pack", "pack-lengths", "pack-content-type",
}  # fmt: skip
"""Properties of a pack that count for all its messages."""


class BadPack(Rejected):
    """A message that claims to be a pack, and whose name, lengths or payload do not agree."""


def is_pack(message_id: str) -> bool:
    """True if the message has the name of a pack; a producer may use a property `pack` of its own."""
    return "#+" in message_id


def members(message_id: str, properties: Mapping[str, str], payload: bytes) -> list[tuple[str, bytes]]:
    """The messages of a pack, by id, from its payload as it was before compression. Raises BadPack."""
    ids = _ids(message_id)
    if "complete-batch" in properties:
        of_a_batch = properties.get("batch-id") and "batch-slice-id" not in properties
        if properties["complete-batch"] != "true" or not of_a_batch:
            raise BadPack(f"the pack {message_id!r} completes no batch")
        del ids[-1]  # the completion, which has no payload
    if properties.get("pack") == "cbor-seq":
        payloads = _items(ids, properties, payload)
    else:
        payloads = _payloads(properties, payload)
    if len(ids) != len(payloads):
        raise BadPack(f"the pack {message_id!r} names {len(ids)} messages and has {len(payloads)}")
    if "chunk-id" in properties or properties.get("message-id", message_id) != message_id:
        raise BadPack(f"the pack {message_id!r} would take a name from its messages")
    return list(zip(ids, payloads, strict=True))


def _ids(name: str) -> list[str]:
    match = _NAME.fullmatch(name)
    if match is None or len(name) > LONGEST_NAME:
        raise BadPack(f"{name!r} is not the name of a pack")
    numbers: list[int] = []
    at, following = 0, int(match["first"])
    text = match["runs"]
    while at < len(text):
        run = _RUN.match(text, at)
        if run is None or len(numbers) + int(run[1]) > MOST_MEMBERS:
            raise BadPack(f"{name!r} does not count its messages")
        count, step = int(run[1]), int(run[2] or 1)
        if run[2] is not None and (step == 1 or count < 3):
            raise BadPack(f"{name!r} gives a step to a run that needs none")
        numbers.extend(following + step * n for n in range(count))
        following = numbers[-1] + 1 + int(run[3] or 0)
        at = run.end()
    if len(numbers) < 2:
        raise BadPack(f"{name!r} is a pack of one, which goes under its own name")
    return [f"{match['prefix']}{number}" for number in numbers]


def _items(ids: list[str], properties: Mapping[str, str], payload: bytes) -> list[bytes]:
    """The payloads of a pack in `cbor-seq`."""
    try:
        found = cbor_items.items(payload)
    except ValueError as exc:
        raise BadPack(f"no CBOR sequence of messages: {exc}") from exc
    if [item.id for item in found] != ids:
        raise BadPack("the items have other ids than the name says")
    own = [item.properties.keys() for item in found]
    if any(names & _OF_ALL or names & properties.keys() for names in own):
        raise BadPack("an item has a property that belongs to the pack")
    return [item.payload for item in found]


def _payloads(properties: Mapping[str, str], payload: bytes) -> list[bytes]:
    match properties.get("pack"):
        case "lines":
            return payload.split(b"\n")
        case "concat":
            return _cut(payload, properties.get("pack-lengths", ""))
        case other:
            raise BadPack(f"a pack of the format {other!r}")


def _cut(payload: bytes, lengths: str) -> list[bytes]:
    sizes: list[int] = []
    for entry in lengths.split(","):
        match = re.fullmatch(r"(0|[1-9]\d{0,8})(?:\*([1-9]\d{0,4}))?", entry, re.ASCII)
        if match is None:
            raise BadPack(f"{lengths[:80]!r} are no lengths")
        sizes += [int(match[1])] * int(match[2] or 1)
    if sum(sizes) != len(payload):
        raise BadPack(f"the lengths make {sum(sizes)} bytes, and there are {len(payload)}")
    parts, at = [], 0
    for size in sizes:
        parts.append(payload[at : at + size])
        at += size
    return parts
