"""A hub with commands, a disk, programs and ingest, for the tests of `command_queue`.

Nothing happens by itself. Rules are methods; `random_run` draws them, and so does the state machine. A wrong
rule of the design has to end in a failed assertion here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.core.management import command_queue, command_steps
from runtime.core.management.command_queue import after, wait_s
from runtime.core.management.command_record import (
    COMMAND_TRANSITIONS,
    Acknowledge,
    CommandAction,
    CommandCompleted,
    CommandEvent,
    CommandFailed,
    CommandReceived,
    CommandRow,
    CommandState,
    CommandTick,
    HolderGone,
    Instant,
    LeaseExtended,
    ReceiveAsked,
    ResultStored,
    SaveCommand,
    SendResult,
    digest_of,
)
from runtime.core.management.command_steps import CommandPolicy, OpenCommands
from runtime.core.management.replies import (
    AnswerProgram,
    CommandHandedOver,
    Kept,
    ManagementRefusal,
    NoCommand,
)
from runtime.core.moment import Moment

LOCK_S = 60.0
POLICY = CommandPolicy(
    max_attempts=3, max_open=6, once=("once",), parallel=("parallel",), drop_stale=("fleeting",)
)
NAMES = ("plain", "plain", "other", "once", "parallel", "fleeting")


@dataclass(eq=False)
class HubCommand:
    """A command that waits at the hub until its PUBACK, or until it expires."""

    id: str | None
    name: str
    payload: bytes
    born_s: float
    ttl_s: float
    locked_until_s: float = 0.0
    sent: bool = False


@dataclass(eq=False)
class Program:
    """A process that polls, works, and says how it went; it repeats what was not answered."""

    holder: str
    number: int = 0
    request: Any = None
    """The request that waits for its reply."""
    job: CommandHandedOver | None = None
    worked: bool = False
    dead: bool = False


class Killed(Exception):
    """SIGKILL between two actions."""


@dataclass
class CommandWorld:
    true_s: float = 1_000_000.0
    booted_s: float = 999_000.0
    boots: int = 1
    wall_wrong_s: float = 0.0
    connected: bool = False
    pending: list[HubCommand] = field(default_factory=list)
    on_the_way: list[tuple[int, HubCommand, bool]] = field(default_factory=list)
    numbers: dict[int, HubCommand] = field(default_factory=dict)
    number: int = 0
    made: int = 0
    acked: list[HubCommand] = field(default_factory=list)
    disk: dict[int, CommandRow] = field(default_factory=dict)
    backup: dict[int, CommandRow] = field(default_factory=dict)
    uuid: int = 1
    given: int = 0
    """The highest seq that was ever on disk: it survives a restored copy."""
    results: list[CommandRow] = field(default_factory=list)
    ingest: dict[tuple[int, int], str] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)
    lives: int = 0
    effects: Counter[int] = field(default_factory=Counter)
    """How often each command was carried out, by the number of its payload."""
    handed: dict[int, set[int]] = field(default_factory=dict)
    cut: int | None = None
    full_disk: bool = False

    def __post_init__(self) -> None:
        self.queue = OpenCommands(POLICY)
        self.programs = [self.program(), self.program()]

    # -- clocks --

    @property
    def now(self) -> Instant:
        moment = Moment(self.true_s + self.wall_wrong_s, self.true_s - self.booted_s, f"boot{self.boots}")
        return Instant(moment, self.wall_wrong_s == 0.0)

    def pass_time(self, seconds: float) -> None:
        self.true_s += seconds
        self.turn(CommandTick())

    def set_clock(self, wrong_s: float) -> None:
        self.wall_wrong_s = wrong_s

    # -- the worker --

    def turn(self, *events: CommandEvent, grouped: bool = False) -> None:
        queue, actions, view = self.queue, list[CommandAction](), dict(self.disk)
        for event in events:
            queue, more = after(queue, self.with_known(event, view), self.now)
            actions += more
            view |= {one.command.seq: one.command for one in more if isinstance(one, SaveCommand)}
        if self.full_disk and any(isinstance(action, SaveCommand) for action in actions):
            return  # the commit failed: the state from before stands, and the programs repeat
        self.queue = queue
        self.act(actions, grouped=grouped)

    def act(self, actions: list[CommandAction], *, grouped: bool = False) -> None:
        if grouped:
            actions.sort(key=lambda action: not isinstance(action, SaveCommand))
        try:
            for action in actions:
                if self.cut is not None:
                    self.cut -= 1
                    if self.cut < 0:
                        raise Killed
                self.perform(action)
        except Killed:
            self.kill()

    def with_known(self, event: CommandEvent, view: dict[int, CommandRow]) -> CommandEvent:
        """The event with the row on disk that the shell looks up for it."""
        match event:
            case CommandReceived(id=None):
                digest = digest_of(event.topic, event.payload)
                rows = [row for row in view.values() if row.digest == digest]
                return replace(event, known=rows[-1] if rows else None)
            case CommandReceived():
                return replace(event, known=next((row for row in view.values() if row.id == event.id), None))
            case CommandCompleted() | CommandFailed() | LeaseExtended():
                return replace(event, known=view.get(event.command))
        return event

    def perform(self, action: CommandAction) -> None:
        match action:
            case SaveCommand(command):
                self.save(command)
            case Acknowledge(owed, seq):
                assert seq in self.disk, "acknowledged, and not on disk"
                self.puback(owed)
            case AnswerProgram(asker, reply):
                for program in self.programs:
                    if program.request is not None and asker == (program.holder, program.number):
                        self.answered(program, reply)
            case SendResult(command):
                assert self.disk[command.seq].state.final, "a result before its end is on disk"
                self.results.append(command)

    def save(self, command: CommandRow) -> None:
        old = self.disk.get(command.seq)
        if old is not None:
            assert old.state is command.state or command.state in COMMAND_TRANSITIONS[old.state], (
                f"{old.state} became {command.state}"
            )
        assert all(row.id != command.id for row in self.disk.values() if row.seq != command.seq), "two rows"
        if command.state is CommandState.EXPIRED and "clock" not in command.reason:
            _, _, born_s, life_s = self.payload(command.payload)
            assert self.true_s >= born_s + life_s - 0.01, "expired before its time"
        assert command.ended_token in (None, command.attempts), "ended by the word of an earlier lease"
        self.disk[command.seq] = command
        self.given = max(self.given, command.seq)

    @staticmethod
    def payload(payload: bytes) -> tuple[int, str, float, float]:
        number, name, born_s, life_s = payload.decode().split()
        return int(number), name, float(born_s), float(life_s)

    def kill(self, *, restored: bool = False) -> None:
        """SIGKILL, and a new process with what is on disk. Programs repeat what was not answered."""
        self.cut = None
        self.results.clear()
        self.on_the_way = [(number, one, True) for number, one, _ in self.on_the_way]
        rows = list(self.disk.values())
        self.queue, actions = command_queue.started(
            POLICY,
            [row for row in rows if not row.state.final],
            [row for row in rows if row.state.final and not row.result_stored],
            self.given + 1,
            self.now,
            restored=restored,
        )
        self.full_disk = False
        self.act(actions)
        holders = {row.lease.holder for row in self.disk.values() if row.lease}
        for holder in sorted(holders - {program.holder for program in self.programs if not program.dead}):
            self.turn(HolderGone(holder))

    # -- the hub --

    def connect(self) -> None:
        """What was not acknowledged on the connection before comes again at once."""
        if not self.connected:
            self.connected = True
            for one in self.pending:
                one.locked_until_s = 0.0

    def drop(self) -> None:
        self.connected = False
        self.on_the_way.clear()
        self.numbers.clear()

    def send(self, name: str, ttl_s: float, *, with_id: bool = True) -> None:
        if len(self.pending) < 50:
            self.made += 1
            payload = f"{self.made} {name} {self.true_s} {ttl_s}".encode()
            command = HubCommand(f"id{self.made}" if with_id else None, name, payload, self.true_s, ttl_s)
            self.pending.append(command)

    def hub_works(self) -> None:
        self.pending = [one for one in self.pending if self.true_s < one.born_s + one.ttl_s]
        for one in self.pending if self.connected else ():
            if self.true_s >= one.locked_until_s:
                one.locked_until_s = self.true_s + LOCK_S
                self.number += 1
                self.numbers[self.number] = one
                self.on_the_way.append((self.number, one, one.sent))
                one.sent = True

    def deliver(self, count: int, *, grouped: bool = False) -> None:
        arrived, self.on_the_way = self.on_the_way[:count], self.on_the_way[count:]
        events = [
            CommandReceived(
                number,
                one.id,
                "topic",
                one.name,
                one.payload,
                expires_wall_s=one.born_s + one.ttl_s,
                dup=dup,
            )
            for number, one, dup in arrived
        ]
        if events and grouped:
            self.turn(*events, grouped=True)
        else:
            for event in events:
                self.turn(event)

    def puback(self, number: Any) -> None:
        one = self.numbers.get(number)
        if one in self.pending:
            self.pending.remove(one)
            self.acked.append(one)

    # -- programs --

    def program(self) -> Program:
        self.lives += 1
        return Program(f"pid{self.lives}")

    def step(self, program: Program, choice: float = 0.0) -> None:
        """The program does what comes next; `choice` says how it ends."""
        if program.request is not None:
            program.number += 1  # no reply: it asks again, on a new socket
        elif program.job is None:
            program.number += 1
            program.request = ReceiveAsked(
                None, program.holder, ("*",), lease_s=60.0, wait_s=30.0, poll=str(program.number)
            )
        elif not program.worked:
            program.worked = True
            number, name, *_ = self.payload(program.job.payload)
            self.effects[number] += 1
            assert name != "once" or self.effects[number] == 1, "done twice, and must not be"
            return
        else:
            program.number += 1
            program.request = self.word(program.job, choice)
            if isinstance(program.request, CommandFailed) and program.request.retry_after_s is not None:
                self.effects.pop(self.payload(program.job.payload)[0], None)  # it took back what it did
        self.turn(replace(program.request, asker=(program.holder, program.number)))

    def word(self, job: CommandHandedOver, choice: float) -> CommandCompleted | CommandFailed | LeaseExtended:
        if choice < 0.6:
            return CommandCompleted(None, job.command, job.token, result=b"1")
        if choice < 0.7:
            return LeaseExtended(None, job.command, job.token, 120.0, 50.0)
        if choice < 0.8:
            return CommandFailed(None, job.command, job.token, reason="no")
        return CommandFailed(None, job.command, job.token, reason="not now", retry_after_s=20.0)

    def answered(self, program: Program, reply: object) -> None:
        request, program.request = program.request, None
        match reply:
            case CommandHandedOver():
                program.job, program.worked = reply, False
                self.check_handed_over(reply)
            case NoCommand():
                assert program.job is None
            case Kept() if isinstance(request, CommandCompleted):
                row = self.disk[request.command]
                assert row.state is CommandState.DONE and row.ended_token == request.token, (
                    "kept, not on disk"
                )
                program.job = None
            case Kept() if isinstance(request, CommandFailed):
                assert self.disk[request.command].state is not CommandState.LEASED
                program.job = None
            case ManagementRefusal(code="unknown_command"):
                assert request.command not in self.disk
                program.job = None
            case ManagementRefusal():
                row = self.disk[request.command]
                own = row.ended_token == request.token and row.state is CommandState.DONE
                assert not (own and isinstance(request, CommandCompleted)), "the same word was refused"
                assert row.state is not CommandState.LEASED or row.attempts != request.token
                program.job = None

    def check_handed_over(self, job: CommandHandedOver) -> None:
        row = self.disk[job.command]
        assert row.state is CommandState.LEASED, "handed over, and the lease is not on disk"
        assert row.attempts == job.token
        number, name, *_ = self.payload(job.payload)
        if name != "parallel":
            lane = [one for one in self.disk.values() if one.name == row.name and not one.state.final]
            assert min(one.seq for one in lane) == row.seq, "an older one of its lane is open"
        self.handed.setdefault(number, set()).add(job.token)
        assert len(self.handed[number]) <= POLICY.max_attempts, "more attempts than allowed"

    def die(self, program: Program, *, seen: bool = True) -> None:
        """The process ends; the kernel says so, unless the worker is away just then."""
        self.programs.remove(program)
        self.programs.append(self.program())
        if seen:
            self.turn(HolderGone(program.holder))

    # -- ingest, and the machine --

    def ingest_works(self, *, lost: bool = False) -> None:
        for command in self.results[:3]:
            known = self.ingest.setdefault((self.uuid, command.seq), str(command.state))
            assert known == command.state, "two final states reached the cloud"
        taken, self.results = self.results[:3], self.results[3:]
        if lost or self.full_disk:
            self.results += taken  # sent again, until the acknowledgement is on disk
            return
        for command in taken:
            self.turn(ResultStored(self.disk[command.seq]))

    def reboot(self, wrong_s: float = 0.0) -> None:
        self.drop()
        self.true_s += 30.0
        self.boots, self.booted_s, self.wall_wrong_s = self.boots + 1, self.true_s - 10.0, wrong_s
        self.programs = [self.program(), self.program()]
        self.kill()

    def back_up(self) -> None:
        self.backup = dict(self.disk)

    def restore(self) -> None:
        """An older copy of the database takes its place; the watermark beside it says so."""
        ids = {row.id for row in self.backup.values()}
        for row in self.disk.values():
            if row.id not in ids:  # the copy has never held it: what the hub sends again is new to it
                self.effects.pop(self.payload(row.payload)[0], None)
                self.handed.pop(self.payload(row.payload)[0], None)
        self.acked = [one for one in self.acked if one.id in ids]
        for program in self.programs:  # one may carry out what the copy has never held, long after
            program.worked = program.worked or program.job is not None
        self.disk = dict(self.backup)
        self.uuid += 1
        self.kill(restored=True)

    def restore_after_work(self, name: str) -> None:
        """A copy is made of a command that waits, it is carried out, and the copy takes its place."""
        self.pass_time(31.0)  # no program waits
        self.send(name, 3600.0)
        self.connect()
        self.hub_works()
        self.deliver(len(self.on_the_way))
        self.back_up()
        for program in list(self.programs) * 3:
            self.step(program)
        self.restore()

    # -- the end --

    def settle(self) -> None:
        """All is well now: every command ends, and the cloud gets to know how."""
        self.cut, self.full_disk, self.wall_wrong_s = None, False, 0.0
        for _ in range(400):
            self.connect()
            self.hub_works()
            busy = bool(self.on_the_way or self.results)
            self.deliver(len(self.on_the_way))
            for program in list(self.programs):
                if program.job is not None or program.request is None:
                    self.step(program)
                    busy = True
            self.ingest_works()
            if not self.pending and not self.queue.open and not self.results:
                break
            if not busy:
                self.pass_time(max(0.1, min(wait_s(self.queue, self.now), LOCK_S)))
                for program in list(self.programs):
                    self.step(program)  # no reply came in time: it asks again
        else:
            raise AssertionError("no end: a command is open for ever")
        self.pass_time(400.0)
        assert not list(self.queue.waiting.requests()), "a request was never answered"
        self.check()

    def check(self) -> None:
        for row in self.disk.values():
            assert row.state.final and row.result_stored, f"{row.state} did not reach the cloud"
            assert self.queue.open.get(row.seq) is None
        ids = Counter(row.id for row in self.disk.values())
        for one in self.acked:
            assert one.id is None or ids[one.id] == 1, "acknowledged, and no row or two"


# -- chance --

RULES: list[Callable[[CommandWorld, random.Random], None]] = [
    *[
        lambda world, rng: world.send(
            rng.choice(NAMES), rng.choice([40.0, 3600.0, 3600.0, 100_000.0]), with_id=rng.random() < 0.9
        )
    ]
    * 4,
    *[lambda world, rng: world.connect()] * 2,
    *[lambda world, rng: world.hub_works()] * 3,
    *[lambda world, rng: world.deliver(rng.randint(1, 3), grouped=rng.random() < 0.3)] * 4,
    *[lambda world, rng: world.step(rng.choice(world.programs), rng.random())] * 9,
    *[lambda world, rng: world.pass_time(rng.choice([0.1, 5.0, 31.0, 61.0, 61.0, 500.0]))] * 3,
    *[lambda world, rng: world.ingest_works(lost=rng.random() < 0.3)] * 2,
    *[lambda world, rng: setattr(world, "cut", rng.randint(0, 4))] * 2,
    lambda world, rng: world.die(rng.choice(world.programs), seen=rng.random() < 0.7),
    lambda world, rng: world.drop(),
    lambda world, rng: world.kill(),
    lambda world, rng: setattr(world, "full_disk", rng.random() < 0.3),
    lambda world, rng: world.reboot(rng.choice([0.0, -900_000.0, 5e8])) if rng.random() < 0.3 else None,
    lambda world, rng: world.set_clock(rng.choice([0.0, 0.0, -900_000.0, 5e8])),
    lambda world, rng: world.back_up(),
    lambda world, rng: world.restore_after_work(rng.choice(NAMES)) if rng.random() < 0.3 else None,
    lambda world, rng: world.restore() if rng.random() < 0.3 else None,
]


def random_run(seed: int) -> None:
    """One life drawn from `seed`, ended by `settle`. Raises AssertionError where a promise is broken."""
    rng = random.Random(seed)
    world = CommandWorld()
    for _ in range(rng.randint(10, 80)):
        rng.choice(RULES)(world, rng)
    world.settle()


__all__ = ["NAMES", "POLICY", "CommandWorld", "command_steps", "random_run"]
