"""Twin rules of the device and of the stand-in, written independently, against one another.

A report that the device takes from a program must be one that the hub takes from the device: the program has
its acknowledgement, and is not there any more when the hub refuses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.management import twin, twin_rules
from runtime.core.management.codes import RequestRefused
from runtime.devcloud.state import twin_rules as hub_rules
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.twins import Twins

# one in many is odd, so that most documents are taken and the rules of both are met at their edges
ODD_KEYS = ["k" * 1024, "k" * 1025, "é" * 512, "é" * 513, "a.b", "$v", "a b", "\x85", "\x7f", "\ud800", "😀"]
ODD_VALUES = [
    *(2**52 - 1, 2**52, -(2**52), 1e300, float("inf"), 1.0, -0.0),
    *("x" * 4096, "x" * 4097, "é" * 2048, "é" * 2049, "\ud800", "\x85\x00", [None], [{"a": None}]),
]
KEYS = st.sampled_from([*"abcdefgh" * 8, *ODD_KEYS])
LEAVES = st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", *"yz" * 8, *ODD_VALUES])


def documents(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    values = st.recursive(
        leaves,
        lambda inner: st.dictionaries(KEYS, inner, max_size=4) | st.lists(LEAVES, max_size=3),
        max_leaves=15,
    )
    return st.dictionaries(KEYS, values, max_size=4)


OBJECTS, PATCHES = documents(LEAVES), documents(LEAVES | st.none())


@settings(max_examples=150)
@given(OBJECTS, PATCHES)
def test_what_the_device_takes_the_hub_takes(first: dict[str, Any], second: dict[str, Any]) -> None:
    held: Any = {}
    for mode, value in ((twin.ReportMode.SET, first), (twin.ReportMode.PATCH, second)):
        try:
            wanted = twin.changed(held, mode, (), value)
        except RequestRefused:
            return
        patch = json.loads(json.dumps(twin.difference(held, wanted)))
        assert hub_rules.broken_rule(patch) is None
        assert not hub_rules.removes_absent(held, patch)
        after = hub_rules.merged(held, patch)
        assert hub_rules.without_siblings(held, patch) == after
        assert hub_rules.too_large("reported", after) is None
        assert twin_rules.same(after, wanted)
        held = wanted


@given(OBJECTS)
def test_both_count_the_same_size(document: dict[str, Any]) -> None:
    if hub_rules.broken_rule(document) is not None:
        return  # refused before it is counted
    counted = hub_rules.size_bytes(document)
    assert twin_rules.hub_bytes(document) == counted


@pytest.mark.parametrize("integers", [2000, 2600, 2625, 2627, 3000])
def test_both_refuse_at_the_same_size(integers: int, tmp_path: Path) -> None:
    document = {f"k{n}": n for n in range(integers)}
    database = Database(tmp_path / "devcloud.db")
    taken = isinstance(Twins(database).patch("demo:dev-1", "reported", document, 0.0), int)
    database.close()
    try:
        twin.changed({}, twin.ReportMode.SET, (), document)
    except RequestRefused:
        assert not taken
    else:
        assert taken
