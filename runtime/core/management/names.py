"""Patterns of names: of commands, methods and leaves, in requests and in grants."""

from __future__ import annotations

from collections.abc import Iterable


def matches(pattern: str, name: str) -> bool:
    """True if the pattern is the name, or its beginning with `*` behind."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def common(asked: Iterable[str], granted: Iterable[str]) -> list[str]:
    """The patterns for what is both asked for and granted."""
    granted = list(granted)
    found = []
    for one in asked:
        for other in granted:
            if matches(other, one.removesuffix("*")) and (other.endswith("*") or not one.endswith("*")):
                found.append(one)
            elif one.endswith("*") and matches(one, other.removesuffix("*")):
                found.append(other)
    return list(dict.fromkeys(found))
