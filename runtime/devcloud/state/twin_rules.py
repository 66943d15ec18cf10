"""Rules of twin documents, pure: merge patches, differences, the hub's size formula, keys and values.

Sources are the hub's documentation ("Device twins", size and format) and public reports of its behaviour.
Where the two leave room, the stricter reading holds: a document is refused by the hub's formula and by its
JSON text, whichever is larger, and a null in an array is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MOST_BYTES = {"desired": 32 * 1024, "reported": 32 * 1024, "tags": 8 * 1024}
"""Limit of each part of a twin, without `$version` and `$metadata`."""
MOST_VALUE_BYTES = 4 * 1024
MOST_KEY_BYTES = 1024
MOST_DEPTH = 10
"""Objects and arrays within one another, the document itself counted."""
LEAST_INTEGER, MOST_INTEGER = -(2**52), 2**52 - 1

NUMBER_BYTES, BOOLEAN_BYTES = 8, 4
"""The hub counts every number and every boolean as this many bytes, however it is written."""
_CONTROL = re.compile(r"[\x00-\x1f\x80-\x9f]")
_BAD_KEY = re.compile(r"[.$\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def merged(target: object, patch: object) -> Any:
    """RFC 7396: null removes a key, an object merges, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The least patch that makes `wanted`, which holds no null, out of `held`."""
    patch: dict[str, Any] = {key: None for key in held if key not in wanted}
    for key, value in wanted.items():
        before = held.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = difference(before, value)
            if inner:
                patch[key] = inner
        elif key not in held or not _same(before, value):
            patch[key] = value
    return patch


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # true is not 1


def without_siblings(target: object, patch: object) -> Any:
    """`merged` with a fault that the real hub had: null for a key that is not there empties its parent."""
    if not isinstance(patch, Mapping) or not isinstance(target, Mapping):
        return merged(target, patch)
    if any(value is None and key not in target for key, value in patch.items()):
        return {key: merged(None, value) for key, value in patch.items() if value is not None}
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key)
        else:
            result[key] = without_siblings(target.get(key), value)
    return result


def removes_absent(held: object, patch: Mapping[str, Any]) -> bool:
    """True if a null in `patch` stands where `held` has no key."""
    document = held if isinstance(held, Mapping) else {}
    return any(
        key not in document if value is None else removes_absent(document.get(key), value)
        for key, value in patch.items()
        if value is None or isinstance(value, Mapping)
    )


def altered(patch: Mapping[str, Any], replacements: Mapping[str, Any]) -> dict[str, Any]:
    """`patch` with other values at the places that `replacements` names, as far as `patch` sets them."""
    result = dict(patch)
    for key in patch.keys() & replacements.keys():
        value, other = patch[key], replacements[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            result[key] = altered(value, other)
        elif value is not None:
            result[key] = other
    return result


def stamped(
    metadata: Mapping[str, Any], patch: Mapping[str, Any], stamp: Mapping[str, Any]
) -> dict[str, Any]:
    """`$metadata` after a patch: every changed key, and each of its parents, carries `stamp`."""
    result = {**metadata, **stamp}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = stamped(before if isinstance(before, Mapping) else {}, value, stamp)
        else:
            result[key] = dict(stamp)
    return result


def size_bytes(value: object) -> int:
    """The size of a document by the hub's formula: keys and texts as UTF-8 without control characters."""
    if isinstance(value, str):
        return len(_CONTROL.sub("", value).encode())
    if isinstance(value, bool):
        return BOOLEAN_BYTES
    if isinstance(value, int | float):
        return NUMBER_BYTES
    if isinstance(value, Mapping):
        return sum(size_bytes(key) + size_bytes(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(size_bytes, value))
    return 0


def too_large(part: str, document: Mapping[str, Any]) -> str | None:
    """The refusal of a document that exceeds the limit of its part of the twin, or None."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    counted, written, most = size_bytes(document), len(text.encode()), MOST_BYTES[part]
    if max(counted, written) <= most:
        return None
    return f"{part} exceeds {most} bytes: {counted} by the hub's formula, {written} as JSON"


def broken_rule(value: object, depth: int = 0) -> str | None:
    """The rule of the hub for twin properties that `value` breaks, in words, or None."""
    if isinstance(value, Mapping | list):
        if depth >= MOST_DEPTH:
            return f"nested deeper than {MOST_DEPTH}"
        return _broken_array(value, depth) if isinstance(value, list) else _broken_object(value, depth)
    return _broken_text(value) if isinstance(value, str) else _broken_number(value)


def _broken_object(value: Mapping[str, Any], depth: int) -> str | None:
    for key, inner in value.items():
        broken = _broken_key(key) or broken_rule(inner, depth + 1)
        if broken:
            return broken
    return None


def _broken_array(value: list[Any], depth: int) -> str | None:
    if holds_null(value):
        return "an array holds null"
    return next(filter(None, (broken_rule(item, depth + 1) for item in value)), None)


def holds_null(value: object) -> bool:
    """True if null stands anywhere in `value`."""
    if isinstance(value, Mapping):
        return any(map(holds_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(holds_null, value)))


def _broken_key(key: str) -> str | None:
    if not key or _BAD_KEY.search(key):
        return f"key {key[:80]!r} is empty or holds a dot, a dollar sign, a blank or a control character"
    return f"key {key[:80]!r} exceeds {MOST_KEY_BYTES} bytes" if len(key.encode()) > MOST_KEY_BYTES else None


def _broken_text(text: str) -> str | None:
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "a string is not valid Unicode"
    return "a string exceeds 4 KiB" if length_bytes > MOST_VALUE_BYTES else None


def _broken_number(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is not finite"
    if isinstance(value, int) and not LEAST_INTEGER <= value <= MOST_INTEGER:
        return f"an integer is not within {LEAST_INTEGER} to {MOST_INTEGER}"
    return None
