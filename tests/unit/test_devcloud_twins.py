"""Twin properties: merge patches as RFC 7396 has them, and the hub's limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.devcloud.state.twins import MOST_DEPTH, broken_rule, merged

KEYS = st.text("abc", min_size=1, max_size=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # from the appendix of RFC 7396
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_merges_as_the_standard_says(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@given(OBJECTS, OBJECTS)
def test_a_patch_sent_twice_changes_nothing_more(target: Any, patch: Any) -> None:
    once = merged(target, patch)
    assert merged(once, patch) == once


@given(OBJECTS, OBJECTS)
def test_merging_leaves_both_sides_as_they_were(target: Any, patch: Any) -> None:
    before = (repr(target), repr(patch))
    merged(target, patch)
    assert (repr(target), repr(patch)) == before


def _nested(depth: int) -> dict[str, Any]:
    return {"a": _nested(depth - 1)} if depth > 1 else {"a": 1}


@pytest.mark.parametrize(
    "bad",
    [
        {"a.b": 1},
        {"$a": 1},
        {"a b": 1},
        {"": 1},
        {"a": {"b\n": 1}},
        {"a": "x" * 4097},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": [float("nan")]},
        {"a": [[[[[[[[[[[1]]]]]]]]]]]},
        _nested(MOST_DEPTH + 1),
    ],
)
def test_what_the_hub_refuses_is_refused(bad: dict[str, Any]) -> None:
    assert broken_rule(bad)


def test_what_just_fits_is_taken() -> None:
    assert broken_rule({"a": "x" * 4096, "b": [1, {"c": None}]}) is None
    assert broken_rule(_nested(MOST_DEPTH)) is None
