"""Twin synchronisation against a hub that throttles, is silent, refuses, alters, and forgets the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from runtime.core.management import twin_reading, twin_sync
from runtime.core.management.replies import AnswerProgram, Kept, ManagementRefusal
from runtime.core.management.twin import ReportMode, difference
from runtime.core.management.twin_record import (
    AskTwin,
    ChangeApplied,
    DesiredPatch,
    ReportMade,
    SaveTwin,
    SendReported,
    TwinAction,
    TwinEvent,
    TwinLinkDown,
    TwinLinkUp,
    TwinRecord,
    TwinRefreshAsked,
    TwinResponse,
    TwinTick,
    WakeWatchers,
)
from runtime.core.management.twin_sync import TwinPhase, TwinSync, after, due_s
from tests.support.depth import deep
from tests.support.twin_world import (
    ALTERED_VALUE,
    DAY_S,
    OUTCOMES,
    REFUSED_VALUE,
    SECTIONS,
    TwinWorld,
    random_run,
)
from tests.support.wrong_rules import RUNS, WrongRule, runs_until_found

# -- the design, by the thousand -------------------------------------------------------------------------


class TwinMachine(RuleBasedStateMachine):
    """Anything may happen at any time; in the end all is well, and both sides have to be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.world = TwinWorld(earlier=True)

    @rule(bug=st.booleans())
    def hub_has_the_sibling_bug(self, bug: bool) -> None:
        self.world.sibling_bug = bug

    @rule(
        section=st.sampled_from(SECTIONS),
        name=st.sampled_from("xy"),
        value=st.sampled_from([1, 2, ALTERED_VALUE, REFUSED_VALUE]),
        mode=st.sampled_from(ReportMode),
        whole=st.booleans(),
    )
    def report(self, section: str, name: str, value: int, mode: ReportMode, whole: bool) -> None:
        if mode is ReportMode.PATCH:
            self.world.report(mode, (section,), {name: value, "z": None if whole else 3})
        elif whole:
            self.world.report(mode, (section,), {name: value})
        else:
            self.world.report(mode, (section, name), value)

    @rule(count=st.integers(1, 3), outcome=st.sampled_from(OUTCOMES), mute=st.booleans())
    def hub_works(self, count: int, outcome: str, mute: bool) -> None:
        self.world.hub_works(count, outcome, mute=mute)

    @rule(count=st.integers(1, 3), late=st.booleans(), grouped=st.booleans())
    def deliver(self, count: int, late: bool, grouped: bool) -> None:
        self.world.deliver(count, late=late, grouped=grouped)

    @rule()
    def connect(self) -> None:
        self.world.connect()

    @rule(reached=st.integers(0, 2))
    def drop(self, reached: int) -> None:
        self.world.drop(reached)

    @rule(
        section=st.sampled_from("ab"),
        inner=st.none() | st.dictionaries(st.sampled_from("xy"), st.integers(1, 2)),
    )
    def change_desired(self, section: str, inner: Any) -> None:
        self.world.change_desired({section: inner})

    @rule(section=st.sampled_from("ab"), value=st.none() | st.just(9))
    def write_elsewhere(self, section: str, value: Any) -> None:
        self.world.write_elsewhere({section: {"x": value}})

    @rule()
    def lose_patch(self) -> None:
        self.world.lose_patch()

    @rule(section=st.sampled_from("ab"))
    def set_back(self, section: str) -> None:
        self.world.set_back(section)

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 31.0, 700.0, DAY_S]), draw=st.floats(0, 0.99))
    def pass_time(self, seconds: float, draw: float) -> None:
        self.world.draw = draw
        self.world.pass_time(seconds)

    @rule(cut=st.integers(0, 3))
    def crash_soon(self, cut: int) -> None:
        self.world.cut = cut

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.world.full_disk = full

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule()
    def refresh(self) -> None:
        self.world.refresh()

    @rule()
    def recreate(self) -> None:
        self.world.recreate()

    def teardown(self) -> None:
        self.world.settle()


TestTwinMachine = TwinMachine.TestCase
TestTwinMachine.settings = settings(max_examples=deep(60), stateful_step_count=40)


def test_both_sides_are_equal_in_the_end_of_every_random_run() -> None:
    for seed in range(RUNS):
        random_run(seed)


# -- every wrong rule is found out --------------------------------------------------------------------------


def ignoring_lower_versions(*args: Any, right: Callable[..., TwinRecord] = twin_reading.read) -> TwinRecord:
    record, _, desired, _ = args
    return record if desired[1] < (record.desired_version or 0) else right(*args)


def told_first(*args: Any, right: Callable[..., Any] = twin_sync._on_program) -> Any:
    sync, actions = right(*args)
    return sync, actions[::-1]


def confirming_what_is_wanted(*args: Any, right: Callable[..., Any] = twin_sync._on_acknowledged) -> Any:
    sync, actions = right(*args)
    record = replace(sync.record, confirmed=sync.record.wanted)
    return replace(sync, record=record), [SaveTwin(record), *actions[1:]]


def blind_to_other_writers(*args: Any, right: Callable[..., Any] = twin_sync._on_acknowledged) -> Any:
    sync, actions = right(*args)
    return replace(sync, phase=TwinPhase.LEVEL), actions


def forgetting_patches_during_a_get(*args: Any, right: Callable[..., Any] = twin_sync._on_desired) -> Any:
    sync = args[0]
    return (sync, []) if sync.phase is TwinPhase.ASKING else right(*args)


def merging_over_a_gap(record: TwinRecord, event: DesiredPatch) -> TwinRecord:
    unwatched: Any = twin_reading
    return unwatched.with_desired(record, unwatched.merged(record.desired, event.patch), event.version)


def with_a_null_for_what_was_never_there(
    held: Any, wanted: Any, *, right: Callable[..., Any] = difference
) -> Any:
    patch = right(held, wanted)
    return {
        name: {**inner, "z": inner.get("z")} if isinstance(inner, dict) else inner
        for name, inner in patch.items()
    }


def one_session(sync: TwinSync) -> tuple[TwinSync, str]:
    return replace(sync, requests=sync.requests + 1), f"life-{sync.requests + 1}"


def one_at_a_time_no_more(*args: Any, right: Callable[..., Any] = twin_sync._requests_due) -> Any:
    sync, at = args
    sync, actions = right(replace(sync, report=None), at)
    return sync, actions


WRONG_RULES = [
    WrongRule("a GET with a lower version is ignored", twin_sync, "read", ignoring_lower_versions),
    WrongRule("any answer acknowledges, also 429", twin_sync, "_acknowledges", lambda status: True),
    WrongRule(
        "after silence a PATCH is sent again without a GET",
        twin_sync,
        "_after_silence",
        lambda sync: replace(sync, report=None),
    ),
    WrongRule("a 5xx is taken for a refusal", twin_sync, "_ask", lambda sync: sync),
    WrongRule("the program is told before the commit", twin_sync, "_on_program", told_first),
    WrongRule(
        "a 204 confirms what is wanted by then", twin_sync, "_on_acknowledged", confirming_what_is_wanted
    ),
    WrongRule("a foreign writer is not noticed", twin_sync, "_on_acknowledged", blind_to_other_writers),
    WrongRule("patches during a GET are dropped", twin_sync, "_on_desired", forgetting_patches_during_a_get),
    WrongRule("a gap between patches is merged over", twin_sync, "patched", merging_over_a_gap),
    WrongRule(
        "a null goes out for an unknown name", twin_sync, "difference", with_a_null_for_what_was_never_there
    ),
    WrongRule("request ids begin again in each process", twin_sync, "_with_rid", one_session),
    WrongRule("a PATCH goes out while one is in flight", twin_sync, "_requests_due", one_at_a_time_no_more),
    WrongRule(
        "what the hub alters is sent for ever",
        twin_sync,
        "marked_altered",
        lambda record, acknowledged: (record, acknowledged),
    ),
    WrongRule(
        "what the hub refuses is sent for ever",
        twin_sync,
        "_on_bad_request",
        lambda sync, sent, reason: (sync, []),
    ),
]


@pytest.mark.parametrize("wrong", WRONG_RULES, ids=str)
def test_a_wrong_rule_of_the_twin_is_found_out(wrong: WrongRule, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_until_found(wrong, random_run, monkeypatch)
    print(f"{wrong}: {runs} runs")


# -- case by case -------------------------------------------------------------------------------------------


def twin(desired: Any, version: int, reported: Any, reported_version: int = 1) -> dict[str, Any]:
    return {
        "desired": {**desired, "$version": version, "$metadata": {}},
        "reported": {**reported, "$version": reported_version},
    }


class Steps:
    """One worker, told events one by one."""

    def __init__(self, record: TwinRecord | None = None) -> None:
        self.sync = TwinSync(record or TwinRecord(), "s")
        self.now_s = 100.0

    def __call__(self, event: TwinEvent, draw: float = 0.5) -> list[TwinAction]:
        self.sync, actions = after(self.sync, event, self.now_s, draw)
        return actions

    def level(self, body: Any, device: str = "d") -> list[TwinAction]:
        (asked,) = self(TwinLinkUp(device))
        assert isinstance(asked, AskTwin)
        return self(TwinResponse(asked.rid, 200, body))

    def report(self, path: str, value: Any) -> list[TwinAction]:
        return self(ReportMade(1, ReportMode.SET, (path,), value))

    def sent(self, actions: list[TwinAction]) -> SendReported:
        (sent,) = [action for action in actions if isinstance(action, SendReported)]
        return sent


def kinds(actions: list[TwinAction]) -> list[type]:
    return [type(action) for action in actions]


def test_a_report_is_on_disk_before_the_program_is_told_and_sent_after_both() -> None:
    steps = Steps()
    assert kinds(steps.level(twin({}, 1, {}))) == [SaveTwin, WakeWatchers]
    assert kinds(steps.report("a", 1)) == [SaveTwin, AnswerProgram, SendReported]
    assert kinds(steps.report("a", 2)) == [SaveTwin, AnswerProgram], "one is in flight"
    assert steps.report("a", 2) == [AnswerProgram(1, Kept(2))], "said again: nothing to write"


def test_a_change_while_a_patch_is_in_flight_goes_out_after_its_204() -> None:
    """Row 43."""
    steps = Steps()
    steps.level(twin({}, 1, {}))
    first = steps.sent(steps.report("a", 1))
    steps.report("a", 2)
    assert kinds(steps(TwinResponse(first.rid, 204, version=2))) == [SaveTwin, WakeWatchers]
    assert due_s(steps.sync) == steps.now_s + 1.0
    steps.now_s += 1.0
    assert steps.sent(steps(TwinTick())).patch == {"a": 2}


@pytest.mark.parametrize(("held", "again"), [({"a": 1}, False), ({}, True)])
def test_after_silence_a_get_says_whether_to_send_again(held: Any, again: bool) -> None:
    """Rows 44 and 45."""
    steps = Steps()
    steps.level(twin({}, 1, {}))
    steps.report("a", 1)
    steps.now_s += 30.0
    (asked,) = steps(TwinTick())
    assert isinstance(asked, AskTwin)
    actions = steps(TwinResponse(asked.rid, 200, twin({}, 1, held, 2)))
    assert (SendReported in kinds(actions)) is again


@pytest.mark.parametrize(
    ("version", "kind"), [(5, []), (4, []), (6, [SaveTwin, WakeWatchers]), (8, [AskTwin])], ids=str
)
def test_a_desired_patch_counts_by_its_version(version: int, kind: list[type]) -> None:
    """Row 47."""
    steps = Steps()
    steps.level(twin({"a": 1}, 5, {}))
    assert kinds(steps(DesiredPatch(version, {"a": 2, "$version": version}))) == kind
    assert steps.sync.record.desired == ({"a": 2} if version == 6 else {"a": 1})


def test_a_lower_version_by_get_is_taken_and_counted() -> None:
    steps = Steps()
    steps.level(twin({"a": 1}, 5, {"r": 1}))
    steps(TwinLinkDown())
    actions = steps.level(twin({"a": 2}, 1, {}))
    assert (steps.sync.record.desired, steps.sync.record.restarts) == ({"a": 2}, 1)
    assert steps.sent(actions).patch == {"r": 1}, "what was reported before is reported to the new device"


def test_the_first_get_of_a_life_keeps_what_another_sdk_reported() -> None:
    steps = Steps()
    steps.report("a", {"x": 1})
    actions = steps.level(twin({}, 1, {"a": {"y": 2}, "b": 3}))
    assert steps.sync.record.wanted == {"a": {"x": 1}, "b": 3}
    assert steps.sent(actions).patch == {"a": {"x": 1, "y": None}}


def test_another_device_id_begins_a_new_twin_and_keeps_what_programs_want() -> None:
    steps = Steps()
    steps.level(twin({"a": 1}, 5, {"r": 1}), "old")
    steps(TwinLinkDown())
    assert steps.sent(steps.level(twin({}, 9, {"x": 1}), "new")).patch == {"x": None, "r": 1}


def test_a_bad_section_is_found_by_halving_and_left_alone_until_its_value_changes() -> None:
    steps = Steps()
    for name in "abcd":
        steps.report(name, 1)
    actions, version, patches = steps.level(twin({}, 1, {})), 1, []
    for _ in range(9):
        if sent := [action for action in actions if isinstance(action, SendReported)]:
            patches.append(set(sent[0].patch))
            bad = "c" in sent[0].patch
            version += not bad
            actions = steps(TwinResponse(sent[0].rid, 400 if bad else 204, version=version, reason="no"))
        else:
            steps.now_s += 1.0
            actions = steps(TwinTick())
    record = steps.sync.record
    assert patches == [{*"abcd"}, {*"ab"}, {*"cd"}, {"c"}, {"d"}]
    assert record.refused == {"c": (1, "no")} and record.confirmed == {"a": 1, "b": 1, "d": 1}
    steps.now_s += 1.0
    assert steps.sent(steps.report("c", 2)).patch == {"c": 2}


def test_a_suspect_that_is_set_back_does_not_hold_up_the_others() -> None:
    """Found by the model in run 7,881 of 30,000: the rest waited for the daily GET."""
    steps = Steps()
    steps.report("a", 1)
    steps.report("b", 13)
    sent = steps.sent(steps.level(twin({}, 1, {})))
    steps(ReportMade(1, ReportMode.REMOVE, ("a",)))
    steps(TwinResponse(sent.rid, 400, reason="no"))
    assert due_s(steps.sync) == steps.now_s + 1.0
    steps.now_s += 1.0
    assert steps.sent(steps(TwinTick())).patch == {"b": 13}


@pytest.mark.parametrize(
    ("status", "retry_after_s", "least_s", "most_s"),
    [(429, None, 0.5, 5.0), (429, 60.0, 60.0, 66.0), (503, None, 0.5, 5.0), (403, None, 1800.0, 3600.0)],
)
def test_a_refusal_is_waited_out(
    status: int, retry_after_s: float | None, least_s: float, most_s: float
) -> None:
    for draw in (0.0, 0.5, 0.999):
        steps = Steps()
        steps.level(twin({}, 1, {}))
        sent = steps.sent(steps.report("a", 1))
        assert steps(TwinResponse(sent.rid, status, retry_after_s=retry_after_s), draw) == []
        assert least_s <= due_s(steps.sync) - steps.now_s <= most_s
        steps.now_s = due_s(steps.sync)
        (again,) = steps(TwinTick())
        assert isinstance(again, AskTwin if status == 503 else SendReported), "a 5xx may have been taken"


def test_more_patches_than_are_kept_during_a_get_make_it_ask_again() -> None:
    steps = Steps()
    steps(TwinLinkUp("d"))
    actions = [action for n in range(101) for action in steps(DesiredPatch(n, {"a": n}, 10))]
    assert kinds(actions) == [AskTwin]
    assert kinds(steps(DesiredPatch(200, {"a": 1}, 300_000))) == [AskTwin]


def test_a_body_that_is_no_twin_is_asked_for_again() -> None:
    for body in (None, 5, {}, {"desired": {}}, {"desired": {"$version": True}, "reported": {"$version": 1}}):
        steps = Steps()
        assert steps.level(body) == []
        assert steps.sync.phase is TwinPhase.ASKING and due_s(steps.sync) > steps.now_s


def test_a_report_may_depend_on_the_last_change() -> None:
    steps = Steps()
    steps.report("a", 1)
    refused = steps(ReportMade(1, ReportMode.SET, ("a",), 2, if_change=0))[0]
    assert isinstance(refused, AnswerProgram) and isinstance(refused.reply, ManagementRefusal)
    assert refused.reply.code == "change_moved"
    assert kinds(steps(ReportMade(1, ReportMode.SET, ("a",), 2, if_change=1))) == [SaveTwin, AnswerProgram]


def test_a_watcher_is_woken_by_a_section_that_changes_or_vanishes_and_by_no_other() -> None:
    steps = Steps()
    steps.level(twin({"a": 1, "b": 1}, 5, {}))
    before = {name: steps.sync.record.desired_change((name,)) for name in "ab"}
    steps(DesiredPatch(6, {"a": None}))
    assert steps.sync.record.desired_change(("a",)) > before["a"]
    assert steps.sync.record.desired_change(("b",)) == before["b"]
    record = steps.sync.record
    assert record.desired_change(()) == record.desired_change(("a",))
    assert record.changed_since(("a",), before["a"]) and not record.changed_since(("b",), before["b"])
    assert record.changed_since(("b",), record.change + 1), "an older copy of the database took its place"


def test_an_applied_change_is_kept_until_desired_moves_on() -> None:
    steps = Steps()
    steps.level(twin({"a": {"x": 1}}, 5, {}))
    change = steps.sync.record.desired_change(("a",))
    assert kinds(steps(ChangeApplied(1, ("a",), change, 200))) == [SaveTwin, AnswerProgram]
    assert steps(ChangeApplied(1, ("a",), change, 200)) == [AnswerProgram(1, Kept(change))]
    codes = [
        steps(ChangeApplied(1, path, number, 200))[0].reply.code  # type: ignore[union-attr]
        for path, number in ((("a",), change + 1), (("b",), change))
    ]
    assert codes == ["change_moved", "no_such_path"]
    steps(DesiredPatch(6, {"a": None}))
    assert steps.sync.record.applied == {}


def test_an_applied_change_is_acknowledged_as_plug_and_play_does() -> None:
    steps = Steps()
    steps.level(twin({"a": {"x": 1}}, 5, {}))
    change = steps.sync.record.desired_change(("a",))
    actions = steps(ChangeApplied(1, ("a", "x"), change, 200, "fine", acknowledge=True))
    assert kinds(actions) == [SaveTwin, AnswerProgram, SendReported]
    assert steps.sent(actions).patch == {"a": {"x": {"value": 1, "ac": 200, "av": 5, "ad": "fine"}}}
    assert kinds(steps(ChangeApplied(1, ("a", "x"), change, 500, "x" * 5000, acknowledge=True))) == [
        AnswerProgram
    ]


def test_progress_of_commands_from_another_life_is_removed() -> None:
    steps = Steps()
    actions = steps.level(twin({}, 1, {"commands": {"9f": 50}, "b": 3}))
    assert steps.sent(actions).patch == {"commands": None}


@pytest.mark.parametrize(("status", "kind"), [(503, [AskTwin]), (429, [])])
def test_a_new_connection_ends_a_pause_that_no_throttling_asked_for(status: int, kind: list[type]) -> None:
    steps = Steps()
    steps(TwinLinkUp("d"))
    steps(TwinResponse("s-1", status))
    steps(TwinLinkDown())
    assert kinds(steps(TwinLinkUp("d"))) == kind


def test_an_operator_can_have_the_twin_read_again() -> None:
    steps = Steps()
    assert steps(TwinRefreshAsked()) == [], "away: it will be read anyhow"
    steps.level(twin({}, 1, {}))
    assert kinds(steps(TwinRefreshAsked())) == [AskTwin]


def test_the_twin_is_read_once_a_day_and_a_fleet_spreads() -> None:
    times = []
    for draw in (0.0, 0.999):
        steps = Steps()
        steps(TwinLinkUp("d"))
        steps(TwinResponse("s-1", 200, twin({}, 1, {})), draw)
        times.append((due_s(steps.sync) - steps.now_s) / DAY_S)
    assert times == pytest.approx([0.8, 1.2], abs=0.01)
