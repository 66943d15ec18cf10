"""Rules of the hub for twin values: names, texts, numbers, depth and size; and paths into a document.

A value that the hub would refuse is refused here, with the place in the value at which it breaks a rule:
the program that reported it is still there to be told. The limits are those of the hub's documentation
("Understand and use device twins in IoT Hub"); where it leaves a choice, the stricter one is taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from runtime.core.management.codes import ManagementCode, RequestRefused

Document: TypeAlias = Mapping[str, Any]
"""A JSON object without null. Documents are never changed in place."""
Path: TypeAlias = tuple[str, ...]
"""The names that lead into a document; () is its root."""

MAX_KEY_BYTES = 1_024
MAX_TEXT_BYTES = 4_096
MIN_INTEGER, MAX_INTEGER = -(2**52), 2**52 - 1
MAX_DEPTH = 10
"""Most objects and arrays inside each other, with the root. The hub's own example allows one more."""
MAX_DOCUMENT_BYTES = 32_768
"""Each of desired and reported."""
MOST_HUB_BYTES_OF_TEXT = 4
"""Most bytes by the hub's formula of one byte of JSON: `1,` is two bytes, and eight by the formula."""
MAX_POINTER_CHARACTERS = MAX_DEPTH * (2 * MAX_KEY_BYTES + 1)

_BAD_IN_KEY = re.compile(r"[.$\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_UNCOUNTED = re.compile(r"[\x00-\x1f\x80-\x9f]")
"""C0 and C1: the hub's size formula leaves them out."""
_POINTER_ESCAPE = re.compile(r"~(?![01])")


def bad_value(path: Path, rule: str) -> RequestRefused:
    """The refusal of a value that breaks `rule` at `path` within it."""
    return RequestRefused(ManagementCode.BAD_VALUE, f"at {pointer(path)}: {rule}")


# --- paths ---


def pointer_text(path: Path) -> str:
    """The path as a JSON pointer (RFC 6901), but `/` for the root."""
    return "/" + "/".join(name.replace("~", "~0").replace("/", "~1") for name in path)


def pointer(path: Path) -> str:
    """The path for a person to read: in ASCII, whatever the names hold."""
    text = pointer_text(path)
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def parse_pointer(text: str) -> Path:
    """The path that a program names. Raises RequestRefused."""
    if text in ("", "/"):
        return ()
    if not text.startswith("/") or len(text) > MAX_POINTER_CHARACTERS or _POINTER_ESCAPE.search(text):
        raise RequestRefused(
            ManagementCode.BAD_FIELD,
            f"path must be a JSON pointer such as /press/speed, not {ascii(text)[:60]}",
        )
    path = tuple(name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/"))
    if len(path) > MAX_DEPTH:
        raise RequestRefused(ManagementCode.BAD_FIELD, f"path has {len(path)} names of at most {MAX_DEPTH}")
    for depth, name in enumerate(path):
        _check_key(name, path[: depth + 1])
    return path


# --- values ---


def check_value(value: Any, depth: int = 0, *, removals: bool = False) -> None:
    """Check a value that stands `depth` names below the root. Raises RequestRefused with the place.

    With `removals` the value is a merge patch: a null says that what stands there shall be removed.
    """
    _check(value, (), depth, removals)


def _check(value: Any, path: Path, depth: int, removals: bool) -> None:
    if value is None:
        if not removals:
            raise bad_value(path, "null is only an order to remove: use remove, or patch")
    elif isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int | float):  # with bool
        _check_number(value, path)
    elif depth >= MAX_DEPTH:
        raise bad_value(path, f"nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, (*path, str(index)), depth + 1, False)
    else:
        for key, inner in value.items():
            _check_key(key, (*path, key))
            _check(inner, (*path, key), depth + 1, removals)


def _check_key(key: str, path: Path) -> None:
    if not key or _BAD_IN_KEY.search(key):
        raise bad_value(
            path, "a name must not be empty, nor hold a dot, a dollar sign, a blank or a control character"
        )
    if len(key.encode()) > MAX_KEY_BYTES:
        raise bad_value(path[:-1], f"a name has {len(key.encode())} bytes of at most {MAX_KEY_BYTES}")


def _check_text(text: str, path: Path) -> None:
    if _SURROGATE.search(text):
        raise bad_value(path, "the text is not valid Unicode")
    if len(text) * 4 > MAX_TEXT_BYTES and (size_bytes := len(text.encode())) > MAX_TEXT_BYTES:
        raise bad_value(path, f"the text has {size_bytes} bytes of at most {MAX_TEXT_BYTES}")


def _check_number(number: Any, path: Path) -> None:
    if isinstance(number, float):
        if not math.isfinite(number):
            raise bad_value(path, "the number is not finite, or beyond what a double holds")
    elif not MIN_INTEGER <= number <= MAX_INTEGER:
        raise bad_value(path, "an integer must be from -2^52 to 2^52-1; send a larger one as text")


def same(one: Any, other: Any) -> bool:
    """True if both mean the same to the hub: 1 is 1.0, but true is not 1."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


# --- size ---


def hub_bytes(value: Any) -> int:
    """The size by the hub's formula: names and texts without control characters, 8 a number, 4 a boolean."""
    total_bytes, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            total_bytes += sum(map(_text_bytes, one))
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            total_bytes += _text_bytes(one)
        else:
            total_bytes += 4 if isinstance(one, bool) else 8
    return total_bytes


def _text_bytes(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text)
    return len(_UNCOUNTED.sub("", text).encode(errors="surrogatepass"))


def text_of(value: Any) -> str:
    """The value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def check_size(document: Document) -> None:
    """Check the size of a whole half of the twin: by the hub's formula and as text. Raises RequestRefused."""
    text_bytes = len(text_of(document).encode())
    if text_bytes * MOST_HUB_BYTES_OF_TEXT <= MAX_DOCUMENT_BYTES:
        return
    by_hub_bytes = hub_bytes(document)
    if max(text_bytes, by_hub_bytes) > MAX_DOCUMENT_BYTES:
        raise RequestRefused(
            ManagementCode.TWIN_TOO_LARGE,
            f"the reported properties would have {text_bytes} bytes as text and {by_hub_bytes} as the hub"
            f" counts them, of at most {MAX_DOCUMENT_BYTES}",
        )
