"""CBOR sequence (RFC 8742): texts, byte strings, whole numbers, and arrays and maps of them. Pure.

Written is the deterministic form of RFC 8949, 4.2: shortest heads, definite lengths, the keys of a map in the
order of their encoding. So the same value is the same bytes in every run. Nothing else is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Value = int | bytes | str | Sequence["Value"] | Mapping[str, "Value"]
"""A whole number that is not negative, a byte string, a text, an array, or a map with texts as keys."""
MOST_DEPTH = 8
"""Deepest nesting that is read."""
_NUMBER, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5
_LONGEST_IN_HEAD = 23
_NEXT_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}


class NotCbor(ValueError):
    """Bytes that are no sequence of such values."""


def head_bytes(length: int) -> int:
    """The size of what stands before so many bytes, or so many elements."""
    return 1 if length <= _LONGEST_IN_HEAD else 1 + next(n for n in (1, 2, 4, 8) if length < 1 << 8 * n)


def text_bytes(text: str) -> int:
    """The size of a text."""
    length = len(text) if text.isascii() else len(text.encode())
    return head_bytes(length) + length


def encode(value: Value) -> bytes:
    """One value of a sequence."""
    match value:
        case int():
            return _head(_NUMBER, value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case Mapping():
            entries = sorted((encode(name), encode(one)) for name, one in value.items())
            return _head(_MAP, len(entries)) + b"".join(name + one for name, one in entries)
        case _:
            return _head(_ARRAY, len(value)) + b"".join(encode(one) for one in value)


def _head(major: int, number: int) -> bytes:
    if number <= _LONGEST_IN_HEAD:
        return bytes((major << 5 | number,))
    extra = next(extra for extra, size in _NEXT_SIZES.items() if number < 1 << 8 * size)
    return bytes((major << 5 | extra,)) + number.to_bytes(_NEXT_SIZES[extra], "big")


def decode(sequence: bytes) -> list[Value]:
    """The values of a sequence. Raises NotCbor."""
    values, at = [], 0
    while at < len(sequence):
        value, at = _decode(sequence, at, MOST_DEPTH)
        values.append(value)
    return values


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """The value that begins at `at`, and where the next one begins."""
    major, number, at = _read_head(data, at)
    if major == _NUMBER:
        return number, at
    if major in (_BYTES, _TEXT):
        if (end := at + number) > len(data):
            raise NotCbor("it ends within a string")
        return (data[at:end] if major == _BYTES else _text(data[at:end])), end
    if major not in (_ARRAY, _MAP) or not depth:
        raise NotCbor(f"major type {major} is not read here, or too deep")
    parts: list[Value] = []
    for _ in range(number * (2 if major == _MAP else 1)):
        part, at = _decode(data, at, depth - 1)
        parts.append(part)
    return (parts if major == _ARRAY else _map(parts)), at


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise NotCbor("it ends within a value")
    major, number = data[at] >> 5, data[at] & 31
    if number <= _LONGEST_IN_HEAD:
        return major, number, at + 1
    end = at + 1 + _NEXT_SIZES.get(number, 0)
    if end == at + 1 or end > len(data):
        raise NotCbor("a length that is indefinite, reserved or cut off")
    return major, int.from_bytes(data[at + 1 : end], "big"), end


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotCbor("a text that is not UTF-8") from None


def _map(parts: list[Value]) -> Mapping[str, Value]:
    entries: dict[str, Value] = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(name, str) or name in entries:
            raise NotCbor("a map whose keys are not texts, each of them once")
        entries[name] = value
    return entries
