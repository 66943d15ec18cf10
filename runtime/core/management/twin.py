"""Twin documents: merge, difference, and the three ways in which a program changes what it reports.

Laws, held for random documents by `tests/unit/test_twin.py`:

1. `merged(held, difference(held, wanted))` is `wanted`.
2. The difference is empty if and only if both are the same.
3. The difference removes only what is there: a null for an unknown name made the hub remove its siblings.
4. Merging twice is merging once: a repeated patch is harmless.
5. Every change of a valid document is a valid document, without null, or is refused and changes nothing.
6. A change is seen at its own path, and nowhere else.

Merge patches are not closed under composition: after `{"a": null}` and `{"a": {"b": 1}}` no single patch says
both. So documents are kept, and the patch is computed when it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from runtime.core.management.twin_rules import Document, Path, bad_value, check_size, check_value, same

_ABSENT = object()


class ReportMode(StrEnum):
    """The change that a report makes to the document."""

    SET = "set"
    """The value replaces whatever stands at the path."""
    PATCH = "patch"
    """The value is a merge patch (RFC 7396) of what stands at the path."""
    REMOVE = "remove"
    """Nothing stands at the path afterwards."""


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes a name, an object merges, anything else replaces. Neither side is changed."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def difference(held: Document, wanted: Document) -> dict[str, Any]:
    """The smallest merge patch that makes `wanted` of `held`; arrays go whole."""
    patch: dict[str, Any] = {name: None for name in held if name not in wanted}
    for name, value in wanted.items():
        before = held.get(name, _ABSENT)
        if before is value:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := difference(before, value):
                patch[name] = inner
        elif before is _ABSENT or not same(before, value):
            patch[name] = value
    return patch


def sharing(document: Document, other: Document) -> Document:
    """The document with those sections of the other one that are the same: comparing them again is quick."""
    return {
        name: other[name] if name in other and same(value, other[name]) else value
        for name, value in document.items()
    }


def value_at(document: Any, path: Path) -> Any:
    """The value at `path`, or None where nothing stands: documents hold no null."""
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return None
        document = document[name]
    return document


def changed(document: Document, mode: ReportMode, path: Path, value: Any = None) -> Document:
    """The document after a report. Raises RequestRefused, with the place in the value that breaks a rule."""
    if mode is ReportMode.REMOVE:
        return _without(document, path)
    check_value(value, len(path), removals=mode is ReportMode.PATCH)
    if not path and not isinstance(value, Mapping):
        raise bad_value((), "the whole of the reported properties must be an object")
    if mode is ReportMode.PATCH:
        if value is None:
            return _without(document, path)
        value = merged(value_at(document, path), value)
    result: Document = _with(document, path, value)
    check_size(result)
    return result


def _with(document: Any, path: Path, value: Any) -> Any:
    """A value in the way of the path makes room for an object."""
    if not path:
        return value
    base = document if isinstance(document, Mapping) else {}
    return {**base, path[0]: _with(base.get(path[0]), path[1:], value)}


def _without(document: Document, path: Path) -> Document:
    if not path:
        return {}
    name, rest = path[0], path[1:]
    if not isinstance(document, Mapping) or name not in document:
        return document
    if not rest:
        return {key: value for key, value in document.items() if key != name}
    return {**document, name: _without(document[name], rest)}


def section_of(path: Path) -> str:
    """The top-level name that a path belongs to; empty for the root."""
    return path[0] if path else ""
