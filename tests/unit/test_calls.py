"""Method calls: each caller is answered once and in time, whatever becomes of the program that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from runtime.core.management import calls as core
from runtime.core.management.call_record import (
    CallAction,
    CallAnswered,
    Caller,
    CallEvent,
    CallLinkDown,
    CallReceived,
    CallTick,
    KeptAnswer,
    QueueDurable,
    RespondToCall,
    RunBuiltIn,
    SaveAnswer,
    ServeAsked,
)
from runtime.core.management.calls import MAX_OPEN_CALLS, CallPolicy, Calls, after, call_id_of
from runtime.core.management.command_record import AskerGone, HolderGone
from runtime.core.management.replies import (
    AnswerProgram,
    AnswerTaken,
    CallHandedOver,
    ManagementRefusal,
    NoCall,
)
from runtime.core.moment import Moment
from tests.support.call_world import METHODS, CallWorld, random_run
from tests.support.depth import deep
from tests.support.wrong_rules import RUNS, WrongRule, runs_until_found


class CallMachine(RuleBasedStateMachine):
    """Anything may happen at any time; in the end every caller and every program was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.world = CallWorld()

    @rule(method=st.sampled_from(METHODS), call_id=st.sampled_from(["", "x", "y"]))
    def call(self, method: str, call_id: str) -> None:
        self.world.call(method, call_id)

    @rule()
    def serve(self) -> None:
        self.world.serve()

    @rule(which=st.integers(0, 5), dies=st.integers(0, 4).map(lambda n: n == 0))
    def step(self, which: int, dies: bool) -> None:
        if self.world.servers:
            server = self.world.servers[which % len(self.world.servers)]
            (self.world.die if dies else self.world.step)(server)

    @rule(seconds=st.sampled_from([0.1, 5.0, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def run_built_in(self) -> None:
        self.world.run_built_in()

    @rule()
    def drop(self) -> None:
        self.world.drop()

    @rule(lossy=st.booleans())
    def replies(self, lossy: bool) -> None:
        self.world.lossy = lossy

    def teardown(self) -> None:
        self.world.settle()


TestCallMachine = CallMachine.TestCase
TestCallMachine.settings = settings(max_examples=deep(40), stateful_step_count=30)


def test_every_caller_is_answered_in_every_random_run() -> None:
    for seed in range(RUNS):
        random_run(seed)


def said_before_it_is_kept(*args: Any, right: Callable[..., Any] = core._answered) -> Any:
    calls, actions = right(*args)
    return calls, actions[::-1]


def handed_to_the_next(calls: Calls, holder: str, *, right: Callable[..., Any] = core._gone) -> Any:
    mine = [replace(call, holder=None) for call in calls.open.values() if call.holder == holder]
    for call in mine:
        calls = calls.changed(call)
    return right(calls, holder)


def forgetting_who_has_it(calls: Calls, now: Moment, *, right: Callable[..., Any] = core._handed_out) -> Any:
    before = calls
    calls, actions = right(calls, now)
    return replace(calls, open=before.open), actions


def answering_after_30_s(calls: Calls, now: Moment, *, right: Callable[..., Any] = core._callers_over) -> Any:
    return right(calls, replace(now, boot_s=now.boot_s - 6.0))


WRONG_RULES = [
    WrongRule("the answer is said before it is kept", core, "_answered", said_before_it_is_kept),
    WrongRule("a call goes to two programs", core, "_handed_out", forgetting_who_has_it),
    WrongRule("what a dead program had goes to the next", core, "_gone", handed_to_the_next),
    WrongRule("a repeated call is another call", core, "_same_call", lambda *args: None),
    WrongRule("the time-out is the hub's", core, "_callers_over", answering_after_30_s),
    WrongRule("callers of another connection are kept", core, "_link_down", lambda calls, client: calls),
    WrongRule("callers are not told that the program ended", core, "_served", lambda calls, method: True),
]


@pytest.mark.parametrize("wrong", WRONG_RULES, ids=str)
def test_a_wrong_rule_of_calls_is_found_out(wrong: WrongRule, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_until_found(wrong, random_run, monkeypatch)
    print(f"{wrong}: {runs} runs")


# -- case by case ----------------------------------------------------------------------------------------


class Steps:
    """One worker, told events one by one."""

    def __init__(self, **policy: Any) -> None:
        self.calls = Calls(CallPolicy(**policy))
        self.now_s = 100.0
        self.rid = 0

    @property
    def now(self) -> Moment:
        return Moment(1e9, self.now_s, "boot")

    def __call__(self, event: CallEvent) -> list[CallAction]:
        self.calls, actions = after(self.calls, event, self.now)
        return actions

    def call(self, method: str = "blink", payload: bytes = b"", **more: Any) -> list[CallAction]:
        self.rid += 1
        return self(CallReceived(1, str(self.rid), method, payload, **more))

    def serve(self, holder: str = "pid1", **more: Any) -> list[CallAction]:
        return self(ServeAsked("asker", holder, ["blink"], **{"wait_s": 60.0, **more}))


def status(actions: list[CallAction]) -> list[int]:
    return [action.status for action in actions if isinstance(action, RespondToCall)]


def test_a_call_goes_to_the_program_that_waits_and_its_answer_to_the_caller() -> None:
    steps = Steps()
    assert steps.serve() == []
    assert steps.call(payload=b"5") == [AnswerProgram("asker", CallHandedOver(1, "blink", 25.0, b"5"))]
    assert steps(CallAnswered(1, "pid1", 1, 201, b"[1]")) == [
        RespondToCall(1, "1", 201, b"[1]"),
        AnswerProgram(1, AnswerTaken(True)),
    ]
    assert steps(CallAnswered(1, "pid1", 1, 201, b"[1]")) == [AnswerProgram(1, AnswerTaken(True))], (
        "said again"
    )


def test_what_no_program_serves_is_answered_at_once() -> None:
    steps = Steps()
    assert status(steps.call()) == [404]
    steps.serve()
    assert status(steps.call("other")) == [404]
    steps(HolderGone("pid1"))
    assert status(steps.call()) == [404]


def test_a_program_that_is_at_work_still_serves_and_one_that_fell_silent_does_not() -> None:
    steps = Steps()
    steps.serve()
    steps.call()
    assert steps.call() == [], "it waits for the next poll"
    assert steps(CallTick()) == []
    steps.now_s += 25.0
    assert status(steps(CallTick())) == [504, 504]
    steps.now_s += 400.0
    assert status(steps.call()) == [404]


def test_the_death_of_a_program_is_told_at_once() -> None:
    steps = Steps()
    steps.serve()
    steps.call()
    steps.call()
    assert status(steps(HolderGone("pid1"))) == [503, 503]


def test_calls_are_bounded() -> None:
    steps = Steps()
    steps.serve()
    assert [status(steps.call()) for _ in range(MAX_OPEN_CALLS)][1:] == [[]] * (MAX_OPEN_CALLS - 1)
    assert status(steps.call()) == [429]


@pytest.mark.parametrize(("payload", "left_s"), [(b"", 25.0), (b'{"timeout_s":60}', 50.0), (b"[1]", 25.0)])
def test_the_time_out_is_the_callers_less_the_way_back(payload: bytes, left_s: float) -> None:
    steps = Steps()
    steps.serve()
    (handed,) = steps.call(payload=payload)
    assert isinstance(handed, AnswerProgram) and isinstance(handed.reply, CallHandedOver)
    assert handed.reply.left_s == pytest.approx(left_s)
    steps.now_s += left_s
    assert status(steps(CallTick())) == [504]
    assert steps(CallAnswered(1, "pid1", 1)) == [AnswerProgram(1, AnswerTaken(False))], "too late"


@pytest.mark.parametrize(
    "payload",
    [b'{"timeout_s":4}', b'{"timeout_s":true}', b'{"call_id":7}', b'{"durable":1}', b'{"call_id":"\\n"}'],
)
def test_a_bad_field_for_the_runtime_is_answered_with_the_rule(payload: bytes) -> None:
    steps = Steps()
    steps.serve()
    (said,) = steps.call(payload=payload)
    assert isinstance(said, RespondToCall) and said.status == 400 and b"must be" in said.payload
    assert call_id_of(payload) == ""


def test_an_answer_under_a_call_id_is_kept_before_it_is_said_and_said_again_for_a_day() -> None:
    steps = Steps()
    steps.serve()
    steps.call(payload=b'{"call_id":"x"}')
    assert steps.call(payload=b'{"call_id":"x"}') == [], "the same call: both wait for one answer"
    actions = steps(CallAnswered(1, "pid1", 1, 200, b"1"))
    assert [type(action) for action in actions] == [SaveAnswer, RespondToCall, RespondToCall, AnswerProgram]
    kept = KeptAnswer("blink", "x", 200, b"1", steps.now)
    assert actions[0] == SaveAnswer(kept)
    assert steps.call(payload=b'{"call_id":"x"}', known=kept) == [RespondToCall(1, "3", 200, b"1")]
    steps.now_s += 86_401.0
    assert status(steps.call(payload=b'{"call_id":"x"}', known=kept)) == [404]


def test_an_answer_that_came_too_late_is_there_for_the_next_call_of_its_id() -> None:
    steps = Steps()
    steps.serve()
    steps.call(payload=b'{"call_id":"x"}')
    steps.now_s += 25.0
    assert status(steps(CallTick())) == [504]
    actions = steps(CallAnswered(1, "pid1", 1, 200, b"1"))
    assert [type(action) for action in actions] == [SaveAnswer, AnswerProgram]


def test_a_durable_call_becomes_a_command() -> None:
    steps = Steps(durable=("firm*",), built_in=("reboot",))
    caller = Caller(1, "1", steps.now, 25.0)
    assert steps.call("firmware") == [QueueDurable(caller, "firmware", b"", None)]
    payload = b'{"durable":true,"call_id":"x"}'
    (queued,) = steps.call("load", payload)
    assert isinstance(queued, QueueDurable) and queued.id == "call~load~x"
    (queued,) = steps.call("reboot")
    assert isinstance(queued, QueueDurable) and queued.reboot


def test_built_in_methods_stand_behind_the_allow_list() -> None:
    steps = Steps()
    assert status(steps.call("restart")) == [403]
    assert status(steps.call("reboot")) == [403]
    assert steps.call("ping", b"1") == [RunBuiltIn(1, "ping", b"1")]
    assert status(steps(CallAnswered(None, "", 1, 200, b"{}"))) == [200]


def test_an_answer_that_the_hub_would_not_take_is_refused_and_the_caller_waits_on() -> None:
    steps = Steps()
    steps.serve()
    steps.call()
    for payload, code in ((b"x" * 131_073, "payload_too_large"), (b"{", "bad_value")):
        (answer,) = steps(CallAnswered(1, "pid1", 1, 200, payload))
        assert isinstance(answer, AnswerProgram) and isinstance(answer.reply, ManagementRefusal)
        assert answer.reply.code == code
    assert status(steps(CallAnswered(1, "pid1", 1, 200, b""))) == [200]


def test_only_the_program_that_has_a_call_answers_it() -> None:
    steps = Steps()
    steps.serve()
    steps.call()
    for call, holder in ((1, "pid2"), (9, "pid1")):
        (answer,) = steps(CallAnswered(1, holder, call))
        assert isinstance(answer, AnswerProgram) and isinstance(answer.reply, ManagementRefusal)
        assert answer.reply.code == "unknown_call"


def test_a_poll_that_repeats_itself_gets_the_same_call_and_each_has_an_end() -> None:
    steps = Steps()
    steps.serve(poll="7")
    (handed,) = steps.call()
    assert steps.serve(poll="7") == [handed]
    assert steps.serve(poll="8", wait_s=5.0) == []
    steps.now_s += 5.0
    assert steps(CallTick()) == [AnswerProgram("asker", NoCall())]
    steps.serve(poll="9")
    steps(AskerGone("asker"))
    assert list(steps.calls.polls.requests()) == []


def test_a_lost_connection_frees_its_callers() -> None:
    steps = Steps()
    steps.serve()
    steps.call()
    assert steps(CallLinkDown(1)) == []
    assert steps.calls.open == {}
