"""A hub with callers, programs that serve, and a disk for answers, for the tests of `calls`.

Nothing happens by itself. A wrong rule of the design has to end in a failed assertion here.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.core.management import calls as core
from runtime.core.management.call_record import (
    CallAction,
    CallAnswered,
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
from runtime.core.management.command_record import HolderGone
from runtime.core.management.replies import AnswerProgram, AnswerTaken, CallHandedOver, NoCall
from runtime.core.moment import Moment

METHODS = ("blink", "blink", "load", "ping", "durable", "nowhere")
HUB_TIMEOUT_S = 30.0


@dataclass(eq=False)
class Server:
    """A process that serves; it repeats what was not answered."""

    holder: str
    number: int = 0
    request: Any = None
    call: CallHandedOver | None = None
    worked: bool = False


@dataclass
class CallWorld:
    now_s: float = 100.0
    client: int = 1
    calls: core.Calls = field(default_factory=lambda: core.Calls(core.CallPolicy(durable=("durable",))))
    made: int = 0
    asked_s: dict[tuple[int, str], float] = field(default_factory=dict)
    """The callers that wait for an answer, and since when."""
    answers: dict[tuple[str, str], KeptAnswer] = field(default_factory=dict)
    said: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By method and call id what a caller was told."""
    of_caller: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)
    lives: int = 0
    carried_out: Counter[int] = field(default_factory=Counter)
    built_in: list[int] = field(default_factory=list)
    lossy: bool = False
    """Replies to programs are lost."""

    @property
    def now(self) -> Moment:
        return Moment(1e9, self.now_s, "boot")

    def turn(self, event: CallEvent) -> None:
        self.calls, actions = core.after(self.calls, event, self.now)
        for action in actions:
            self.perform(action)

    def perform(self, action: CallAction) -> None:
        match action:
            case RespondToCall(client, rid, status, payload):
                self.respond(client, rid, status, payload)
            case SaveAnswer(answer):
                self.answers[answer.method, answer.call_id] = answer
            case QueueDurable(caller):
                self.respond(caller.client, caller.rid, 202, b"")
            case RunBuiltIn(call):
                self.built_in.append(call)
            case AnswerProgram(asker, reply):
                for server in self.servers if not self.lossy else ():
                    if server.request is not None and asker == (server.holder, server.number):
                        self.answered(server, reply)

    def respond(self, client: int, rid: str, status: int, payload: bytes) -> None:
        assert client == self.client, "answered on a connection that is gone"
        since_s = self.asked_s.pop((client, rid), None)
        assert since_s is not None, "a caller was answered twice"
        assert self.now_s - since_s < HUB_TIMEOUT_S, "answered after the hub gave up"
        key = self.of_caller.get((client, rid))
        if status == 200 and key:
            assert key in self.answers, "said, and the answer under its call id is not on disk"
            assert self.said.setdefault(key, payload) == payload, "two answers under one call id"

    def answered(self, server: Server, reply: object) -> None:
        request, server.request = server.request, None
        match reply:
            case CallHandedOver():
                others = [one.call for one in self.servers if one is not server and one.call]
                assert all(other.call != reply.call for other in others), "handed to two programs"
                server.call, server.worked = reply, False
            case NoCall():
                assert server.call is None
            case AnswerTaken() if isinstance(request, CallAnswered):
                server.call = None
            case _:
                raise AssertionError(f"a program was refused: {reply}")

    def call(self, method: str, call_id: str = "") -> None:
        self.made += 1
        rid = f"r{self.made}"
        self.asked_s[self.client, rid] = self.now_s
        key = (method, call_id)
        if call_id:
            self.of_caller[self.client, rid] = key
        payload = json.dumps({"call_id": call_id} if call_id else {}).encode()
        self.turn(CallReceived(self.client, rid, method, payload, known=self.answers.get(key)))
        if not self.servers and method not in ("ping", "durable"):
            assert (self.client, rid) not in self.asked_s, "it waits for nothing"

    def serve(self) -> None:
        self.lives += 1
        self.servers.append(Server(f"pid{self.lives}"))
        self.step(self.servers[-1])

    def step(self, server: Server) -> None:
        server.number += 1
        if server.request is not None:
            pass  # no reply: the same again
        elif server.call is None:
            server.request = ServeAsked(None, server.holder, ("blink", "load"), 60.0, str(server.number))
        elif not server.worked:
            server.worked = True
            self.carried_out[server.call.call] += 1
            assert self.carried_out[server.call.call] == 1, "carried out twice"
            return
        else:
            payload = json.dumps(self.lives * 1000 + server.number).encode()
            server.request = CallAnswered(None, server.holder, server.call.call, 200, payload)
        self.turn(replace(server.request, asker=(server.holder, server.number)))

    def die(self, server: Server) -> None:
        self.servers.remove(server)
        self.turn(HolderGone(server.holder))

    def run_built_in(self) -> None:
        for call in self.built_in:
            self.turn(CallAnswered(None, "", call, 200, b"{}"))
        self.built_in.clear()

    def drop(self) -> None:
        self.turn(CallLinkDown(self.client))
        self.client += 1
        self.asked_s.clear()

    def pass_time(self, seconds: float) -> None:
        """The worker ticks where it has to."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + max(0.001, core.wait_s(self.calls, self.now)))
            self.turn(CallTick())

    def settle(self) -> None:
        """Every caller is told something in time, and every program that waits, too."""
        self.lossy = False
        while (left_s := core.wait_s(self.calls, self.now)) < 1e6:
            self.pass_time(max(left_s, 0.001))
        assert not self.asked_s, "a caller was never answered"
        assert all(call.call_id for call in self.calls.open.values()), "a call is open for ever"
        self.pass_time(2 * core.WITHOUT_CALLER_S)
        assert not self.calls.open and not list(self.calls.polls.requests())


RULES: list[Callable[[CallWorld, random.Random], None]] = [
    *[lambda world, rng: world.call(rng.choice(METHODS), rng.choice(["", "", "x", "y"]))] * 5,
    *[lambda world, rng: world.step(rng.choice(world.servers)) if world.servers else None] * 6,
    *[lambda world, rng: world.serve()] * 2,
    *[lambda world, rng: world.pass_time(rng.choice([0.1, 5.0, 12.0]))] * 2,
    lambda world, rng: world.die(rng.choice(world.servers)) if world.servers else None,
    lambda world, rng: world.run_built_in(),
    lambda world, rng: world.drop() if rng.random() < 0.3 else None,
    lambda world, rng: setattr(world, "lossy", rng.random() < 0.4),
]


def random_run(seed: int) -> None:
    """One life drawn from `seed`, ended by `settle`. Raises AssertionError where a promise is broken."""
    rng = random.Random(seed)
    world = CallWorld()
    for _ in range(rng.randint(10, 60)):
        rng.choice(RULES)(world, rng)
    world.settle()
