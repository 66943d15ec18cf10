"""Commands against a hub that repeats, programs that die or dawdle, a full disk, and clocks that lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from runtime.core.management import command_queue, command_steps
from runtime.core.management.command_queue import after, started, wait_s
from runtime.core.management.command_record import (
    COMMAND_TRANSITIONS,
    Acknowledge,
    AskerGone,
    CommandAction,
    CommandCompleted,
    CommandEvent,
    CommandFailed,
    CommandReceived,
    CommandRow,
    CommandState,
    CommandTick,
    CountLostResult,
    DropAsked,
    HolderGone,
    Instant,
    Lease,
    LeaseExtended,
    LeaveAtHub,
    RebootMachine,
    ReceiveAsked,
    RequeueAsked,
    ResultStored,
    SaveCommand,
    SendResult,
    ShowProgress,
)
from runtime.core.management.command_steps import REBOOT_S, CommandPolicy, OpenCommands
from runtime.core.management.replies import (
    AnswerProgram,
    CommandHandedOver,
    Kept,
    ManagementRefusal,
    NoCommand,
)
from runtime.core.moment import Moment
from tests.support.command_world import NAMES, CommandWorld, random_run
from tests.support.depth import deep
from tests.support.wrong_rules import RUNS, WrongRule, runs_until_found

# -- the design, by the thousand -------------------------------------------------------------------------


class CommandMachine(RuleBasedStateMachine):
    """Anything may happen at any time; in the end every command has ended, and the cloud knows how."""

    def __init__(self) -> None:
        super().__init__()
        self.world = CommandWorld()

    @rule(name=st.sampled_from(NAMES), ttl_s=st.sampled_from([40.0, 3600.0, 1e5]), with_id=st.booleans())
    def send(self, name: str, ttl_s: float, with_id: bool) -> None:
        self.world.send(name, ttl_s, with_id=with_id)

    @rule(count=st.integers(0, 3), grouped=st.booleans())
    def hub_works(self, count: int, grouped: bool) -> None:
        self.world.connect()
        self.world.hub_works()
        self.world.deliver(count, grouped=grouped)

    @rule(which=st.integers(0, 1), choice=st.floats(0, 0.99))
    def step(self, which: int, choice: float) -> None:
        self.world.step(self.world.programs[which], choice)

    @rule(seconds=st.sampled_from([0.1, 5.0, 31.0, 61.0, 500.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(lost=st.booleans())
    def ingest_works(self, lost: bool) -> None:
        self.world.ingest_works(lost=lost)

    @rule(which=st.integers(0, 1), seen=st.booleans())
    def die(self, which: int, seen: bool) -> None:
        self.world.die(self.world.programs[which], seen=seen)

    @rule(cut=st.integers(0, 4))
    def kill_soon(self, cut: int) -> None:
        self.world.cut = cut

    @rule()
    def kill(self) -> None:
        self.world.kill()

    @rule()
    def drop(self) -> None:
        self.world.drop()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.world.full_disk = full

    @rule(wrong_s=st.sampled_from([0.0, -900_000.0, 5e8]), reboot=st.booleans())
    def clock(self, wrong_s: float, reboot: bool) -> None:
        if reboot:
            self.world.reboot(wrong_s)
        else:
            self.world.set_clock(wrong_s)

    @rule(restore=st.booleans())
    def copy(self, restore: bool) -> None:
        if restore:
            self.world.restore()
        else:
            self.world.back_up()

    def teardown(self) -> None:
        self.world.settle()


TestCommandMachine = CommandMachine.TestCase
TestCommandMachine.settings = settings(max_examples=deep(60), stateful_step_count=40)


def test_every_command_ends_once_in_every_random_run() -> None:
    for seed in range(RUNS):
        random_run(seed)


# -- every wrong rule is found out -----------------------------------------------------------------------


def reversed_actions(right: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any) -> Any:
        queue, actions = right(*args)
        return queue, actions[::-1]

    return wrong


def interrupting_as_if_it_may_happen_twice(
    queue: Any, command: CommandRow, *args: Any, right: Callable[..., Any] = command_steps.interrupted
) -> Any:
    return right(queue, replace(command, once=False), *args)


def counting_no_attempts(
    queue: Any, command: CommandRow, *args: Any, right: Callable[..., Any] = command_steps.interrupted
) -> Any:
    queue, actions = right(replace(queue, policy=replace(queue.policy, max_attempts=9)), command, *args)
    return replace(queue, policy=replace(queue.policy, max_attempts=3)), actions


def keeping_old_rows(*args: Any, **kwargs: Any) -> Any:
    return started(*args, **{**kwargs, "restored": False})


def sending_no_result_again(*args: Any, **kwargs: Any) -> Any:
    policy, rows, _, *rest = args
    return started(policy, rows, [], *rest, **kwargs)


def expiring_by_the_wall_clock(queue: Any, command: CommandRow, now: Instant) -> str:
    age_s = now.moment.wall_s - command.received.wall_s
    return "late" if command.life_s is not None and age_s >= command.life_s else ""


def beginning_again_at_1(*args: Any, **kwargs: Any) -> Any:
    policy, rows, unsent, _, now = args
    return started(policy, rows, unsent, max((row.seq for row in rows), default=0) + 1, now, **kwargs)


WRONG_RULES = [
    WrongRule("PUBACK first", command_queue, "_received", reversed_actions(command_queue._received)),
    WrongRule("no repeat is known", command_queue, "_known", lambda *args: None),
    WrongRule("handed over first", command_steps, "_handed_out", reversed_actions(command_steps._handed_out)),
    WrongRule("the program is told first", command_queue, "_taken", reversed_actions(command_queue._taken)),
    WrongRule("any token counts", command_queue, "_valid", lambda command, token: command.lease is not None),
    WrongRule(
        "a late word counts", command_queue, "_valid", lambda command, token: command.attempts == token
    ),
    WrongRule("a repeated word is refused", command_queue, "_repeats", lambda *args: False),
    WrongRule(
        "`once` is begun again (the lease)",
        command_steps,
        "interrupted",
        interrupting_as_if_it_may_happen_twice,
    ),
    WrongRule(
        "`once` is begun again (the process)",
        command_queue,
        "interrupted",
        interrupting_as_if_it_may_happen_twice,
    ),
    WrongRule("attempts without end", command_steps, "interrupted", counting_no_attempts),
    WrongRule("no lanes", command_steps, "_lane", lambda queue, command: (str(command.seq),)),
    WrongRule("a lease never ends", command_steps, "_leases_over", lambda queue, now: (queue, [])),
    WrongRule("nothing expires by another clock", command_steps, "_expiry", expiring_by_the_wall_clock),
    WrongRule("results are sent once", command_queue, "started", sending_no_result_again),
    WrongRule("a restored copy is believed", command_queue, "started", keeping_old_rows),
    WrongRule("numbers are given again", command_queue, "started", beginning_again_at_1),
    WrongRule("a long poll has no end", command_steps, "_waits_over", lambda queue, now: (queue, [])),
]


@pytest.mark.parametrize("wrong", WRONG_RULES, ids=str)
def test_a_wrong_rule_of_commands_is_found_out(wrong: WrongRule, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_until_found(wrong, random_run, monkeypatch)
    print(f"{wrong}: {runs} runs")


# -- case by case ----------------------------------------------------------------------------------------


class Steps:
    """One worker with a disk, told events one by one."""

    def __init__(self, **policy: Any) -> None:
        self.queue = OpenCommands(CommandPolicy(**policy))
        self.boot_s, self.boot, self.believed = 500.0, "one", True
        self.disk: dict[int, CommandRow] = {}

    @property
    def now(self) -> Instant:
        return Instant(Moment(1e9 + self.boot_s, self.boot_s, self.boot), self.believed)

    def __call__(self, event: CommandEvent) -> list[CommandAction]:
        self.queue, actions = after(self.queue, event, self.now)
        self.disk |= {one.command.seq: one.command for one in actions if isinstance(one, SaveCommand)}
        return actions

    def hear(self, name: str = "plain", **more: Any) -> list[CommandAction]:
        id = f"id{self.queue.next_seq}"
        return self(CommandReceived(7, id, "topic", name, b"payload", **more))

    def receive(self, *names: str, holder: str = "pid1", **more: Any) -> Any:
        actions = self(ReceiveAsked("asker", holder, names or ("*",), **more))
        replies = [action.reply for action in actions if isinstance(action, AnswerProgram)]
        return replies[0] if replies else None

    def tick(self, seconds: float) -> list[CommandAction]:
        self.boot_s += seconds
        return self(CommandTick())

    def reboot(self, *, believed: bool) -> list[CommandAction]:
        self.boot_s, self.boot, self.believed = 5.0, "two", believed
        open_ = [row for row in self.disk.values() if not row.state.final]
        self.queue, actions = started(self.queue.policy, open_, [], self.queue.next_seq, self.now)
        self.disk |= {one.command.seq: one.command for one in actions if isinstance(one, SaveCommand)}
        return actions


def kinds(actions: list[CommandAction]) -> list[type]:
    return [type(action) for action in actions]


def code(actions: list[CommandAction]) -> str:
    (answer,) = actions
    assert isinstance(answer, AnswerProgram) and isinstance(answer.reply, ManagementRefusal)
    return answer.reply.code


def test_the_order_of_actions_states_the_promise() -> None:
    steps = Steps()
    assert kinds(steps.hear()) == [SaveCommand, Acknowledge]
    assert kinds(steps(ReceiveAsked(1, "pid", ["*"]))) == [SaveCommand, AnswerProgram]
    assert kinds(steps(LeaseExtended(1, 1, 1, 90.0, 10.0))) == [SaveCommand, AnswerProgram, ShowProgress]
    ended = steps(CommandCompleted(1, 1, 1))
    assert kinds(ended) == [SaveCommand, AnswerProgram, SendResult, ShowProgress]
    assert kinds(steps(ResultStored(steps.disk[1]))) == [SaveCommand]
    assert steps.disk[1].result_stored


def test_every_state_is_reached_by_the_table_or_is_final() -> None:
    reached = {state for states in COMMAND_TRANSITIONS.values() for state in states}
    assert set(CommandState) - reached == set()
    assert {state for state in CommandState if state.final} == {
        CommandState.DONE,
        CommandState.FAILED,
        CommandState.EXPIRED,
        CommandState.DEAD,
        CommandState.UNCERTAIN,
    }


def test_what_has_no_room_stays_at_the_hub() -> None:
    steps = Steps(max_open=2)
    steps.hear()
    steps.hear()
    assert kinds(steps.hear()) == [LeaveAtHub]
    small = Steps(max_open_bytes=10)
    small.hear()
    assert kinds(small.hear()) == [LeaveAtHub]


def test_a_command_without_an_id_is_known_by_its_digest_when_the_hub_says_that_it_repeats() -> None:
    steps = Steps()
    heard = CommandReceived(7, None, "topic", "plain", b"x")
    steps(heard)
    first = steps.disk[1]
    assert kinds(steps(replace(heard, dup=True, known=first))) == [Acknowledge]
    assert kinds(steps(replace(heard, known=first))) == [SaveCommand, Acknowledge], "the same, sent twice"
    assert steps.disk[2].id == f"{first.id}~2" and steps.disk[2].digest == first.digest
    steps.boot_s += 2 * 86_400.0 + 1
    assert SaveCommand in kinds(steps(replace(heard, dup=True, known=first)))


def test_a_lane_waits_for_its_first_and_others_do_not() -> None:
    steps = Steps(parallel=("p*",))
    for name in ("a", "a", "b", "p1", "p1"):
        steps.hear(name)
    assert [steps.receive("a").command, steps.receive("a"), steps.receive("b").command] == [1, NoCommand(), 3]
    assert [steps.receive("p*").command, steps.receive("p*").command] == [4, 5]
    steps(CommandFailed(1, 1, 1, retry_after_s=20.0))
    assert steps.receive("a") == NoCommand(), "the first one waits, and the second behind it"
    steps.tick(20.0)
    assert steps.receive("a").command == 1


def test_a_lane_is_of_a_name_and_a_leaf() -> None:
    steps = Steps()
    steps.hear(leaf="x")
    steps.hear(leaf="y")
    assert [steps.receive(leaves=["x"]).command, steps.receive(leaves=["y"]).command] == [1, 2]
    assert steps.receive(leaves=["z"]) == NoCommand()


def test_a_receive_that_repeats_itself_gets_the_same_command() -> None:
    steps = Steps()
    steps.hear()
    first = steps.receive(poll="7")
    assert (first.command, first.token) == (1, 1)
    assert steps.receive(poll="7") == first
    assert steps.receive(poll="7", holder="pid2") == NoCommand()
    assert steps.receive(poll="8") == NoCommand()


def test_a_process_that_ends_gives_its_command_back_at_once_and_waits_no_more() -> None:
    steps = Steps(max_attempts=2)
    steps.hear()
    steps.receive(holder="pid1")
    assert steps.receive(holder="pid2", wait_s=30.0) is None
    actions = steps(HolderGone("pid1"))
    assert kinds(actions) == [SaveCommand, SaveCommand, AnswerProgram]
    assert kinds(steps(HolderGone("pid2"))) == [SaveCommand, SendResult, ShowProgress]
    assert steps.disk[1].state is CommandState.DEAD and steps.disk[1].attempts == 2


def test_failing_for_now_too_often_is_dead_and_the_word_may_be_repeated() -> None:
    steps = Steps(max_attempts=2)
    steps.hear()
    for token in (1, 2):
        steps.receive()
        word = CommandFailed(1, 1, token, retry_after_s=0.0, known=steps.disk[1])
        assert AnswerProgram(1, Kept()) in steps(word)
        assert steps(replace(word, known=steps.disk[1])) == [AnswerProgram(1, Kept())]
    assert steps.disk[1].state is CommandState.DEAD


def test_a_word_for_what_is_not_known_or_over_is_refused() -> None:
    steps = Steps()
    assert code(steps(CommandCompleted(1, 9, 1))) == "unknown_command"
    steps.hear()
    steps.receive()
    steps(CommandCompleted(1, 1, 1, result=b"1"))
    assert code(steps(CommandFailed(1, 1, 1, known=steps.disk[1]))) == "lease_lost"
    assert code(steps(LeaseExtended(1, 1, 1, known=steps.disk[1]))) == "lease_lost"
    assert steps.disk[1].result == b"1"


def test_an_extended_lease_lives_longer_within_bounds() -> None:
    steps = Steps(max_lease_s=100.0)
    steps.hear()
    steps.receive(lease_s=60.0)
    steps.boot_s += 50.0
    steps(LeaseExtended(1, 1, 1, 1e9))
    assert wait_s(steps.queue, steps.now) == 100.0
    assert steps.tick(99.0) == []
    assert kinds(steps.tick(1.0)) == [SaveCommand]


@pytest.mark.parametrize(
    ("more", "believed", "life_s"),
    [
        ({"ttl_s": 10.0}, False, 10.0),
        ({"expires_wall_s": 1e9 + 500.0 + 30.0}, True, 30.0),
        ({"expires_wall_s": 1e9 + 500.0 + 30.0}, False, None),
        ({"expires_wall_s": 1e9 + 500.0 + 30.0, "ttl_s": 10.0}, True, 10.0),
        ({"expires_wall_s": 1e9 + 400.0}, True, None),  # the hub delivers nothing expired: our clock is wrong
        ({"expires_wall_s": 2e9}, True, 172_800.0),
        ({}, True, None),
    ],
)
def test_a_life_is_counted_from_arrival(more: dict[str, Any], believed: bool, life_s: float | None) -> None:
    steps = Steps()
    steps.believed = believed
    steps.hear(**more)
    assert steps.disk[1].life_s == (None if life_s is None else pytest.approx(life_s))
    if life_s is not None:
        assert steps.tick(life_s - 1.0) == []
        assert kinds(steps.tick(1.0)) == [SaveCommand, SendResult]
        assert steps.disk[1].state is CommandState.EXPIRED


def test_a_command_that_is_carried_out_does_not_expire() -> None:
    steps = Steps()
    steps.hear(ttl_s=10.0)
    steps.receive()
    assert steps.tick(11.0) == []
    assert AnswerProgram(1, Kept()) in steps(CommandCompleted(1, 1, 1))


@pytest.mark.parametrize(
    ("name", "state"), [("plain", CommandState.QUEUED), ("fleeting", CommandState.EXPIRED)]
)
def test_what_no_clock_can_date_is_delivered_with_that_word_or_dropped(
    name: str, state: CommandState
) -> None:
    steps = Steps(drop_stale=("fleeting",))
    steps.hear(name, ttl_s=1e6)
    steps.reboot(believed=False)
    assert steps.disk[1].state is state
    if state is CommandState.QUEUED:
        assert steps.receive().age_s is None


def test_a_lease_does_not_outlive_the_boot() -> None:
    steps = Steps(once=("once",))
    for name in ("plain", "once"):
        steps.hear(name)
        steps.receive(name)
    steps.reboot(believed=False)
    assert [steps.disk[1].state, steps.disk[2].state] == [CommandState.QUEUED, CommandState.UNCERTAIN]


def test_a_reboot_is_asked_for_once_and_proven_by_the_boot_id() -> None:
    steps = Steps()
    assert kinds(steps.hear("reboot", reboot=True)) == [SaveCommand, Acknowledge, SaveCommand, RebootMachine]
    assert steps.disk[1].state is CommandState.REBOOTING
    assert steps.receive() == NoCommand()
    again, actions = started(steps.queue.policy, [steps.disk[1]], [], 2, steps.now)
    assert actions == [] and again.open, "killed in between: it is not begun again"
    assert kinds(steps.reboot(believed=True)) == [SaveCommand, SendResult, ShowProgress]
    assert steps.disk[1].state.value == CommandState.DONE.value


def test_a_machine_that_does_not_reboot_has_failed() -> None:
    steps = Steps()
    steps.hear("reboot", reboot=True)
    assert steps.tick(REBOOT_S - 1.0) == []
    steps.tick(1.0)
    assert steps.disk[1].state is CommandState.FAILED


def test_a_dead_command_is_requeued_as_a_new_one_and_stays_dead() -> None:
    steps = Steps(max_attempts=1)
    steps.hear()
    steps.receive()
    steps(HolderGone("pid1"))
    assert steps(RequeueAsked(1, steps.disk[1]))[1] == AnswerProgram(1, Kept(2))
    assert (steps.disk[1].state, steps.disk[2].state) == (CommandState.DEAD, CommandState.QUEUED)
    assert steps.disk[2].id == "id1~2"
    assert code(steps(RequeueAsked(1, steps.disk[2]))) == "bad_field"


def test_a_dead_command_is_dropped_and_a_repeat_of_it_is_still_known() -> None:
    steps = Steps(max_attempts=1)
    steps.hear()
    assert code(steps(DropAsked(1, steps.disk[1]))) == "bad_field"
    steps.receive()
    steps(HolderGone("pid1"))
    assert steps(DropAsked(1, steps.disk[1]))[1] == AnswerProgram(1, Kept())
    assert steps.disk[1].dropped and steps.disk[1].state is CommandState.DEAD
    repeat = CommandReceived(8, "id1", "topic", "plain", b"payload", dup=True, known=steps.disk[1])
    assert kinds(steps(repeat)) == [Acknowledge]


def test_a_result_that_ingest_refuses_is_counted_and_named() -> None:
    steps = Steps()
    steps.hear()
    steps.receive()
    steps(CommandCompleted(1, 1, 1))
    assert kinds(steps(ResultStored(steps.disk[1], "exceeds_limit"))) == [SaveCommand, CountLostResult]


def test_a_program_waits_for_a_bounded_time_and_in_bounded_numbers() -> None:
    steps = Steps()
    assert steps.receive(wait_s=1e9) is None
    assert wait_s(steps.queue, steps.now) == 300.0
    for number in range(15):
        steps(ReceiveAsked(number, "pid1", ["*"], wait_s=10.0))
    assert steps.receive(wait_s=10.0).code == "too_many_waiting"
    assert steps.receive(wait_s=10.0, holder="pid2") is None
    steps(AskerGone(3))
    assert len(list(steps.queue.waiting.requests())) == 16
    assert len(steps.tick(10.0)) == 15
    assert len(steps.tick(290.0)) == 1


def test_a_repeat_takes_the_place_of_the_request_that_it_repeats() -> None:
    steps = Steps()
    for number in range(40):
        assert steps(ReceiveAsked(number, "pid1", ["*"], wait_s=10.0, poll="same")) == []
    (lease, handed) = steps.hear()[2:]
    assert isinstance(handed, AnswerProgram) and handed.asker == 39
    assert isinstance(lease, SaveCommand) and lease.command.lease == Lease(
        "pid1", "same", steps.now.moment, 60.0
    )
    assert isinstance(handed.reply, CommandHandedOver)
