"""Twin properties: merge patches as RFC 7396 has them, and the hub's limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.devcloud.state.twin_rules import (
    MOST_DEPTH,
    altered,
    broken_rule,
    difference,
    merged,
    removes_absent,
    size_bytes,
    stamped,
    too_large,
    without_siblings,
)

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
        {"a": [1, None]},
        {"a": [{"b": None}]},
        {"a": 2**52},
        {"a": [-(2**52) - 1]},
        {"k" * 1025: 1},
        {"é" * 513: 1},
        {"a\x85": 1},
        {"a": "é" * 2049},
        _nested(MOST_DEPTH + 1),
    ],
)
def test_what_the_hub_refuses_is_refused(bad: dict[str, Any]) -> None:
    assert broken_rule(bad)


def test_what_just_fits_is_taken() -> None:
    assert broken_rule({"a": "x" * 4096, "b": [1, {"c": 2}], "d": None}) is None
    assert broken_rule({"a": 2**52 - 1, "b": -(2**52), "k" * 1024: 1, "é" * 512: "é" * 2048}) is None
    assert broken_rule({"a": 1e300, "😀": True}) is None
    assert broken_rule(_nested(MOST_DEPTH)) is None


# -- size -------------------------------------------------------------------------------------------------


def test_the_size_is_counted_by_the_hubs_formula() -> None:
    assert size_bytes({"a": 1, "b": True, "c": "é\n\x85", "d": {"ee": [1.5, "x"]}}) == 9 + 5 + 3 + 1 + 2 + 9


def test_small_integers_exceed_the_hubs_formula_before_their_text_does() -> None:
    document = {f"k{n}": n for n in range(3000)}
    assert too_large("reported", document) == (
        "reported exceeds 32768 bytes: 37890 by the hub's formula, 36781 as JSON"
    )
    smaller = {f"k{n}": n % 10 for n in range(3000)}
    assert "37890 by the hub's formula, 28891 as JSON" in str(too_large("reported", smaller))


def test_long_keys_exceed_the_text_before_the_formula_and_tags_have_less_room() -> None:
    escaped = {"a": '"' * 4000, "b": "\\" * 4000, **{f"k{n}": '"' * 4000 for n in range(5)}}
    assert size_bytes(escaped) < 32 * 1024
    assert too_large("desired", escaped)
    room = {"a": "x" * 4000, "b": "x" * 4000}
    assert too_large("tags", room) is None and too_large("tags", {**room, "c": "x" * 300})


# -- what an operator replaces ----------------------------------------------------------------------------

WITHOUT_NULL = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, WITHOUT_NULL, max_size=4)


@settings(max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_the_difference_of_two_documents_makes_the_one_out_of_the_other(held: Any, wanted: Any) -> None:
    assert repr(_ordered(merged(held, difference(held, wanted)))) == repr(_ordered(wanted))


@settings(max_examples=50)
@given(DOCUMENTS)
def test_nothing_differs_from_itself(document: Any) -> None:
    assert difference(document, document) == {}


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def test_what_is_gone_is_removed_where_it_stood() -> None:
    held = {"a": {"b": 0, "c": {"d": 1}}, "e": 1}
    assert difference(held, {"a": {"b": 1, "c": {}}}) == {"a": {"b": 1, "c": {"d": None}}, "e": None}
    assert difference({"a": 1}, {"a": True}) == {"a": True}


# -- faults and metadata ----------------------------------------------------------------------------------


def test_the_sibling_bug_empties_the_parent_of_a_key_that_was_not_there() -> None:
    held = {"a": {"k2": 1, "k4": 2}, "b": 1}
    assert without_siblings(held, {"a": {"k3": None}}) == {"a": {}, "b": 1}
    assert without_siblings(held, {"a": {"k3": None, "k5": 5}}) == {"a": {"k5": 5}, "b": 1}
    assert without_siblings(held, {"a": {"k2": None}}) == {"a": {"k4": 2}, "b": 1}


@settings(max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_the_sibling_bug_strikes_only_where_a_key_is_missing(held: Any, wanted: Any) -> None:
    patch = difference(held, wanted)
    assert without_siblings(held, patch) == merged(held, patch)


def test_a_null_for_what_is_not_there_is_found_at_any_depth() -> None:
    held = {"a": {"b": 1}, "c": 1}
    for harmless in ({"a": None}, {"a": {"b": None}}, {"c": {"d": 1}}, {"x": {}}, {"a": [None]}):
        assert not removes_absent(held, harmless)
    for flawed in ({"x": None}, {"a": {"x": None}}, {"c": {"d": None}}, {"x": {"y": None}}):
        assert removes_absent(held, flawed)


def test_values_are_altered_only_where_the_patch_sets_them() -> None:
    asked = {"speed": 7, "press": {"mode": "auto"}, "gone": 1}
    assert altered({"speed": 3, "press": {"mode": "m", "x": 1}, "gone": None}, asked) == {
        "speed": 7,
        "press": {"mode": "auto", "x": 1},
        "gone": None,
    }


def test_metadata_carries_the_stamp_of_each_keys_last_change() -> None:
    old, new = {"$lastUpdatedVersion": 2}, {"$lastUpdatedVersion": 3}
    before = stamped({}, {"a": {"b": 1, "c": 2}, "d": 1}, old)
    after = stamped(before, {"a": {"b": 2}, "d": None}, new)
    assert after == {**new, "a": {**new, "b": new, "c": old}}
