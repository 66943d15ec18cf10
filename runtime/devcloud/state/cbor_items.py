"""The items of a pack in `cbor-seq`, by the contract in docs/packing.md. The stand-in is strict.

An item is `[id, payload, {"m": message id, "p": {name: text}, "t": milliseconds}]` in deterministic CBOR
(RFC 8949, 4.2.1): what could be written shorter, or in another order, is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_EXTRA = {24: 1, 25: 2, 26: 4, 27: 8}


class Item(NamedTuple):
    """One message of a pack."""

    id: str
    payload: bytes
    message_id: str | None
    properties: dict[str, str]


def items(sequence: bytes) -> list[Item]:
    """The items of a sequence. Raises ValueError."""
    found, at = [], 0
    while at < len(sequence):
        value, at = _value(sequence, at, 3)
        found.append(_item(value))
    return found


def _item(value: Any) -> Item:
    match value:
        case [str(id), bytes(payload), dict(about)] if about.keys() <= {"m", "p", "t"}:
            message_id, properties, stored_ms = about.get("m"), about.get("p"), about.get("t", 0)
        case _:
            raise ValueError("an item is not [id, payload, {m, p, t}]")
    if not isinstance(stored_ms, int) or not (
        message_id is None or (isinstance(message_id, str) and message_id)
    ):
        raise ValueError("m is a text, and t a whole number")
    if properties is not None and not (isinstance(properties, dict) and properties):
        raise ValueError("p is a map with something in it, or left out")
    if not all(isinstance(text, str) for text in (properties or {}).values()):
        raise ValueError("p has texts only")
    return Item(id, payload, message_id, properties or {})


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    major, number, at = _head(data, at)
    if major in (2, 3):
        end = at + number
        if end > len(data):
            raise ValueError("it ends within a string")
        return (data[at:end] if major == 2 else data[at:end].decode()), end
    if major == 0:
        return number, at
    if major == 4 and depth:
        array = []
        for _ in range(number):
            one, at = _value(data, at, depth - 1)
            array.append(one)
        return array, at
    if major == 5 and depth:
        return _map(data, at, number, depth)
    raise ValueError(f"major type {major} does not belong here")


def _map(data: bytes, at: int, entries: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    before = b""
    for _ in range(entries):
        key, end = _value(data, at, 0)
        if not isinstance(key, str) or not before < data[at:end]:
            raise ValueError("the keys of a map are texts in the order of their encoding, each once")
        before = data[at:end]
        found[key], at = _value(data, end, depth - 1)
    return found, at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise ValueError("it ends within an item")
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if short < 24:
        return major, short, at
    size = _EXTRA.get(short, 0)
    number = int.from_bytes(data[at : at + size], "big")
    least = 24 if size == 1 else 1 << 4 * size
    if not size or at + size > len(data) or number < least:
        raise ValueError("a head is not the shortest, or cut off")
    return major, number, at + size
