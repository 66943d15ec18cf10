"""Who may report, read, receive and serve what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.management.codes import RequestRefused
from runtime.core.management.grants import (
    EVERYTHING,
    ProgramGrant,
    ProgramPeer,
    check_desired,
    check_leaf,
    check_operator,
    check_report,
    command_names,
    conflicts,
    grant_of,
    method_names,
)
from runtime.core.management.names import common, matches_any
from runtime.core.management.replies import Kept
from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_record import ReportMade, TwinRecord
from runtime.core.management.twin_reports import apply_report

PRESS = ProgramGrant(
    "press",
    users=(1000,),
    report=(("press",), ("shared", "press")),
    desired=(("press",),),
    commands=("press.*", "stop"),
    methods=("press.*",),
    leaves=("press-*",),
)
PATTERNS = st.lists(st.text("ab", max_size=3).flatmap(lambda s: st.sampled_from([s, s + "*"])), max_size=3)


def test_where_no_program_is_named_each_may_do_all_but_what_is_the_runtimes() -> None:
    grant = grant_of([], ProgramPeer(uid=5))
    assert grant is EVERYTHING
    check_report(grant, (), {"a": 1})
    check_desired(grant, ())
    check_leaf(grant, "press-7")
    assert command_names(grant, ["*"]) == ["*"]
    assert method_names(grant, ["blink"]) == ["blink"]


@pytest.mark.parametrize(
    "act",
    [
        lambda: check_report(EVERYTHING, ("runtime", "boot"), 1),
        lambda: check_report(EVERYTHING, ("commands",), {}),
        lambda: check_report(EVERYTHING, (), {"a": 1, "runtime": {}}),
        lambda: method_names(EVERYTHING, ["blink", "reboot"]),
        lambda: check_report(PRESS, ("pressure",), 1),
        lambda: check_report(PRESS, ("shared",), {}),
        lambda: check_report(PRESS, (), {"press": {}}),
        lambda: check_desired(PRESS, ()),
        lambda: command_names(PRESS, ["recipe"]),
        lambda: method_names(PRESS, ["blink"]),
        lambda: check_leaf(PRESS, "drill-1"),
        lambda: grant_of([PRESS], ProgramPeer(uid=1001, gid=1000)),
        lambda: grant_of([PRESS], ProgramPeer(key="k")),
    ],
)
def test_what_is_not_granted_is_refused(act: Callable[[], Any]) -> None:
    with pytest.raises(RequestRefused) as refused:
        act()
    assert refused.value.code == "not_granted"


def test_what_is_granted_is_taken() -> None:
    assert grant_of([PRESS], ProgramPeer(uid=1000)) is PRESS
    check_report(PRESS, ("press", "speed"), 1)
    check_report(PRESS, ("shared", "press"), {"runtime": 1})
    assert command_names(PRESS, ["*"]) == ["press.*", "stop"]
    assert command_names(PRESS, ["press.load", "recipe"]) == ["press.load"]
    check_leaf(PRESS, "press-7")
    check_leaf(PRESS, "")


@given(PATTERNS, PATTERNS, st.text("ab", max_size=4))
def test_what_is_common_to_two_lists_of_patterns_matches_both(
    some: list[str], others: list[str], name: str
) -> None:
    assert matches_any(common(some, others), name) == (matches_any(some, name) and matches_any(others, name))


def test_programs_that_would_overwrite_each_other_are_named_at_the_start() -> None:
    other = ProgramGrant("drill", users=(1000,), report=(("press", "speed"), ("runtime",)))
    assert conflicts([PRESS]) == []
    assert conflicts([PRESS, other, ProgramGrant("idle")]) == [
        "program drill cannot report /runtime, which is the runtime's own",
        "program idle needs a user, a group or a key",
        "programs press and drill may both report /press/speed",
        "programs press and drill are for the same user, group or key",
    ]


@pytest.mark.parametrize("mode", [ReportMode.SET, ReportMode.REMOVE])
def test_a_report_of_the_whole_leaves_the_runtimes_own_sections(mode: ReportMode) -> None:
    record = TwinRecord(wanted={"runtime": {"boot": 1}, "a": 1}, device_id="d")
    record, answer = apply_report(record, ReportMade(1, mode, (), {"b": 2}))
    assert record.wanted == {"runtime": {"boot": 1}, **({"b": 2} if mode is ReportMode.SET else {})}
    assert isinstance(answer.reply, Kept)


@pytest.mark.parametrize(
    ("peer", "may"),
    [
        (ProgramPeer(uid=0), True),
        (ProgramPeer(uid=990), True),
        (ProgramPeer(uid=1000), False),
        (ProgramPeer(), False),
        (ProgramPeer(uid=0, key="k"), False),
    ],
)
def test_only_the_runtimes_own_user_and_root_are_operators(peer: ProgramPeer, may: bool) -> None:
    try:
        check_operator(peer, 990)
    except RequestRefused as refused:
        assert not may and refused.code == "not_granted"
    else:
        assert may
