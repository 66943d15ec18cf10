"""Twin documents: the table of merge cases, the six laws, and the hub's rules for values."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.management import twin_rules
from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.twin import ReportMode, changed, difference, merged, value_at
from runtime.core.management.twin_rules import (
    check_size,
    check_value,
    hub_bytes,
    parse_pointer,
    pointer,
    same,
)

SET, PATCH, REMOVE = ReportMode
NAMES = st.sampled_from(["a", "b", "c", "é", "e\u0301", "😀"])
SCALARS = (
    st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -0.0]) | st.sampled_from(["", "x", "1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
PATCHES = st.recursive(
    st.none() | SCALARS | st.lists(SCALARS, max_size=2),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)
PATHS = st.lists(NAMES, max_size=3).map(tuple)
Case = tuple[str, Any, ReportMode, str, Any, Any, Any]

TAKEN: list[Case] = [  # name, held, mode, path, value, wire, then
    ("1 new name", {}, SET, "/a", 1, {"a": 1}, {"a": 1}),
    ("2 same value", {"a": 1}, SET, "/a", 1, {}, {"a": 1}),
    ("3 1 is 1.0", {"a": 1}, SET, "/a", 1.0, {}, {"a": 1.0}),
    ("4 true is not 1", {"a": 1}, SET, "/a", True, {"a": True}, {"a": True}),
    ("5 text is not number", {"a": 1}, SET, "/a", "1", {"a": "1"}, {"a": "1"}),
    (
        "6 set replaces",
        {"a": {"b": 0, "c": 2}},
        SET,
        "/a",
        {"b": 1},
        {"a": {"b": 1, "c": None}},
        {"a": {"b": 1}},
    ),
    (
        "7 patch keeps",
        {"a": {"b": 0, "c": 2}},
        PATCH,
        "/a",
        {"b": 1},
        {"a": {"b": 1}},
        {"a": {"b": 1, "c": 2}},
    ),
    (
        "8 set at the root",
        {"a": 1, "b": 2},
        SET,
        "/",
        {"b": 2, "c": 3},
        {"a": None, "c": 3},
        {"b": 2, "c": 3},
    ),
    ("9 empty the root", {"a": 1, "b": {"c": 1}}, SET, "/", {}, {"a": None, "b": None}, {}),
    ("10 set to {}", {"a": {"b": 1, "c": {"d": 2}}}, SET, "/a", {}, {"a": {"b": None, "c": None}}, {"a": {}}),
    ("11 {} where nothing was", {}, SET, "/a", {}, {"a": {}}, {"a": {}}),
    ("12 object becomes scalar", {"a": {"b": 1}}, SET, "/a", 5, {"a": 5}, {"a": 5}),
    ("13 scalar becomes object", {"a": 5}, SET, "/a", {"b": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ("14 array becomes object", {"a": [1, 2]}, SET, "/a", {"b": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ("15 arrays are whole", {"a": [1, 2, 3]}, SET, "/a", [1, 2], {"a": [1, 2]}, {"a": [1, 2]}),
    (
        "16 one item of an array",
        {"a": [{"x": 1}, {"x": 2}]},
        SET,
        "/a",
        [{"x": 1}, {"x": 3}],
        {"a": [{"x": 1}, {"x": 3}]},
        {"a": [{"x": 1}, {"x": 3}]},
    ),
    ("17 empty array", {"a": [1]}, SET, "/a", [], {"a": []}, {"a": []}),
    ("18 patch removes", {"a": 1, "b": 2}, PATCH, "/", {"a": None}, {"a": None}, {"b": 2}),
    ("19 removes what is not there", {"a": {"k2": 1}}, PATCH, "/a", {"k3": None}, {}, {"a": {"k2": 1}}),
    (
        "20 nested null",
        {"a": {"b": {"c": 1, "d": 2}}},
        PATCH,
        "/",
        {"a": {"b": {"c": None}}},
        {"a": {"b": {"c": None}}},
        {"a": {"b": {"d": 2}}},
    ),
    ("21 last child removed", {"a": {"b": 1}}, PATCH, "/a", {"b": None}, {"a": {"b": None}}, {"a": {}}),
    (
        "22 patch over a scalar, null inside",
        {"a": 1},
        PATCH,
        "/",
        {"a": {"b": {"c": None}, "d": 2}},
        {"a": {"b": {}, "d": 2}},
        {"a": {"b": {}, "d": 2}},
    ),
    ("27 remove", {"a": {"b": 1}, "c": 2}, REMOVE, "/a", None, {"a": None}, {"c": 2}),
    ("28 remove what is not there", {"c": 2}, REMOVE, "/a/b", None, {}, {"c": 2}),
    ("29 set through a scalar", {"a": 5}, SET, "/a/b", 1, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ("30 no normalising", {"é": 1}, SET, "/e\u0301", 2, {"e\u0301": 2}, {"é": 1, "e\u0301": 2}),
    ("31 astral name", {}, SET, "/😀", 1, {"😀": 1}, {"😀": 1}),
    ("34 largest integer", {}, SET, "/a", 2**52 - 1, {"a": 2**52 - 1}, {"a": 2**52 - 1}),
    ("34 smallest integer", {}, SET, "/a", -(2**52), {"a": -(2**52)}, {"a": -(2**52)}),
    ("36 text of 4,096 bytes", {}, SET, "/a", "x" * 4096, {"a": "x" * 4096}, {"a": "x" * 4096}),
    ("37 name of 1,024 bytes", {}, SET, "/", {"k" * 1024: 1}, {"k" * 1024: 1}, {"k" * 1024: 1}),
    ("patch to null below the root removes", {"a": 1}, PATCH, "/a", None, {"a": None}, {}),
]


def deep(objects_below_root: int) -> dict[str, Any]:
    return {"a": deep(objects_below_root - 1)} if objects_below_root else {"a": 1}


INTEGERS = {f"k{n}": 7 for n in range(3000)}

REFUSED: list[tuple[str, ReportMode, str, Any, str]] = [  # name, mode, path, value, words of the refusal
    ("23 null in set", SET, "/a", None, "at /: null is only an order to remove"),
    ("24 null deep in set", SET, "/a", {"b": {"c": None}}, "at /b/c: null"),
    ("25 null in an array", PATCH, "/", {"a": [1, None]}, "at /a/1: null"),
    ("26 null in an object in an array", PATCH, "/", {"a": [{"b": None}]}, "at /a/0/b: null"),
    *[
        (f"32 name {key!a}", SET, "/", {"x": {key: 1}}, "at /x/")
        for key in ("a.b", "a b", "", "\x01", "\x85")
    ],
    ("32 lone surrogate in a name", SET, "/", {"\ud800": 1}, r"at /\ud800: a name"),
    ("33 $version", PATCH, "/", {"$version": 3}, "at /$version: a name"),
    ("33 $metadata", SET, "/", {"$metadata": {}}, "at /$metadata: a name"),
    ("34 2^52", SET, "/a", 2**52, "send a larger one as text"),
    ("34 -2^52-1", SET, "/a", -(2**52) - 1, "an integer must be"),
    *[(f"35 {n}", SET, "/a", float(n), "not finite") for n in ("nan", "inf", "-inf", "1e400")],
    ("36 text of 4,097 bytes", SET, "/a", "x" * 4097, "4097 bytes of at most 4096"),
    ("36 2,049 x é", SET, "/a", "é" * 2049, "4098 bytes of at most 4096"),
    ("36 lone surrogate in a text", SET, "/a", "\udfff", "not valid Unicode"),
    ("37 name of 1,025 bytes", SET, "/", {"k" * 1025: 1}, "1025 bytes of at most 1024"),
    ("38 ten objects below the root", SET, "/", deep(10), "nested deeper than 10"),
    ("38 nine below a path of one", SET, "/p", deep(9), "nested deeper than 10"),
    ("39 3,000 integers", SET, "/", INTEGERS, "28891 bytes as text and 37890 as the hub counts"),
    ("a scalar as the root", SET, "/", 5, "must be an object"),
    ("null as the root", PATCH, "/", None, "must be an object"),
]


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case[0])
def test_a_report_changes_the_document_and_the_wire_as_in_the_table(case: Case) -> None:
    _, held, mode, path, value, wire, then = case
    wanted = changed(held, mode, parse_pointer(path), value)
    patch = difference(held, wanted)
    assert (patch, wanted) == (wire, then)
    assert json.dumps(wanted) == json.dumps(then), "1 is not 1.0 in what is kept"
    assert same(merged(held, patch), wanted)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_a_value_that_the_hub_would_refuse_is_refused_with_its_place(
    case: tuple[str, ReportMode, str, Any, str],
) -> None:
    _, mode, path, value, words = case
    with pytest.raises(RequestRefused) as refused:
        changed({}, mode, parse_pointer(path), value)
    assert words in str(refused.value)
    assert str(refused.value).isascii()
    too_large = "as the hub" in words
    assert refused.value.code == (ManagementCode.TWIN_TOO_LARGE if too_large else ManagementCode.BAD_VALUE)


def test_nine_objects_below_the_root_are_taken() -> None:
    assert changed({}, SET, (), deep(9)) == deep(9)
    assert changed({}, SET, ("p",), deep(8)) == {"p": deep(8)}


def test_setting_twice_and_setting_back_send_what_differs_in_the_end() -> None:
    """Rows 40 to 42: documents are compared, operations are not queued."""
    twice = changed(changed({}, SET, ("a",), 1), SET, ("a",), 2)
    assert difference({}, twice) == {"a": 2}
    back = changed(changed({"a": 1}, SET, ("a",), 2), SET, ("a",), 1)
    assert difference({"a": 1}, back) == {}
    held = {"a": {"b": 0, "c": 2}}
    smaller = changed(changed(held, REMOVE, ("a",)), SET, ("a",), {"b": 1})
    assert difference(held, smaller) == {"a": {"b": 1, "c": None}}


@given(DOCUMENTS, DOCUMENTS)
def test_law_1_merging_the_difference_makes_the_wanted(held: Any, wanted: Any) -> None:
    before = copy.deepcopy((held, wanted))
    assert same(merged(held, difference(held, wanted)), wanted)
    assert (held, wanted) == before


@given(DOCUMENTS, DOCUMENTS)
def test_law_2_the_difference_is_empty_only_between_the_same(held: Any, wanted: Any) -> None:
    assert difference(held, held) == {}
    assert (difference(held, wanted) == {}) == same(held, wanted)


def removals(patch: Any, held: Any, path: str = "") -> list[str]:
    """Every null of a patch for a name that `held` does not have."""
    bad = []
    for name, value in patch.items():
        if value is None:
            bad += [] if isinstance(held, dict) and name in held else [f"{path}/{name}"]
        elif isinstance(value, dict):
            bad += removals(value, held.get(name) if isinstance(held, dict) else None, f"{path}/{name}")
    return bad


@given(DOCUMENTS, DOCUMENTS)
def test_law_3_nothing_is_removed_that_is_not_there(held: Any, wanted: Any) -> None:
    assert removals(difference(held, wanted), held) == []


@given(DOCUMENTS, PATCHES)
def test_law_4_merging_twice_is_merging_once(held: Any, patch: Any) -> None:
    once = merged(held, patch)
    assert same(merged(once, patch), once)


@given(DOCUMENTS, st.sampled_from(ReportMode), PATHS, PATCHES)
def test_law_5_a_change_gives_a_valid_document_or_is_refused(
    held: Any, mode: ReportMode, path: tuple[str, ...], value: Any
) -> None:
    before = copy.deepcopy(held)
    try:
        wanted = changed(held, mode, path, value)
    except RequestRefused:
        pass
    else:
        check_value(wanted)
        check_size(wanted)
    assert held == before


@given(DOCUMENTS, PATHS.filter(bool), PATHS.filter(bool), VALUES)
def test_law_6_a_change_is_seen_at_its_path_and_nowhere_else(
    held: Any, path: tuple[str, ...], elsewhere: tuple[str, ...], value: Any
) -> None:
    wanted = changed(held, SET, path, value)
    assert same(value_at(wanted, path), value)
    assert value_at(changed(wanted, REMOVE, path), path) is None
    length = min(len(path), len(elsewhere))
    if path[:length] != elsewhere[:length] and isinstance(value_at(held, path[:-1]), dict | None):
        assert same(value_at(wanted, elsewhere), value_at(held, elsewhere))


def test_size_is_counted_as_the_hub_does() -> None:
    assert hub_bytes({"é": "a\x01\x85b", "n": 1, "f": 0.5, "t": True, "l": [1, "xy", {"k": False}]}) == (
        2 + 2 + 1 + 8 + 1 + 8 + 1 + 4 + 1 + 8 + 2 + 1 + 4
    )
    assert hub_bytes(INTEGERS) == 37_890


@given(PATHS)
def test_a_path_comes_back_from_its_pointer(path: tuple[str, ...]) -> None:
    plain = tuple(name for name in path if name.isascii())
    assert parse_pointer(pointer(plain)) == plain
    assert parse_pointer("/a~1b/c~0d") == ("a/b", "c~d")


@pytest.mark.parametrize("text", ["a", "/a~2", "/a~", "/a//b", "/a.b", "/" + "/".join("a" * 11)])
def test_a_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused):
        parse_pointer(text)


def test_the_limits_are_those_of_the_hub() -> None:
    assert (twin_rules.MAX_DOCUMENT_BYTES, twin_rules.MAX_KEY_BYTES, twin_rules.MAX_TEXT_BYTES) == (
        32_768,
        1_024,
        4_096,
    )
