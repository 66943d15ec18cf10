"""The worker dies at each line of its turn: what it told anyone before is true afterwards.

A death is an exception that no code of ours catches, after which nothing of the process is used any more: its
transaction is rolled back, its sockets close, and another process begins from the disk. Real SIGKILLs at
random moments are in `test_management_killed.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.core.management import hub_line_ends
from runtime.core.management.replies import CommandHandedOver, Kept, ManagementReply, Watched
from runtime.core.management.requests import (
    CompleteRequest,
    ManagementRequest,
    ReceiveRequest,
    ReportRequest,
    WatchRequest,
)
from tests.support.management_world import LeastIngest, ManagementWorld, Program

CUTS = {
    "before the commit": ("_database", "commit"),
    "after the commit, before the hub is acknowledged": ("_hub", "committed"),
    "before a program is answered": ("_programs", "answer"),
    "before what is published leaves": ("_hub", "send"),
    "before a result is sent": ("_results", "send"),
    "after a result was acknowledged": ("_results", "taken"),
}


class Killed(BaseException):
    """The end of the process, here and now."""


class Mortal(ManagementWorld):
    """A world whose worker dies where it is told to, and is started again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ingest = LeastIngest(self.layout)
        self.deaths = 0

    def arm(self, part: str, method: str, occurrence: int) -> None:
        """The worker dies when this is called for so many times: before it does anything."""
        owner = getattr(self.worker, part)
        original: Callable[..., Any] = getattr(owner, method)
        left = occurrence

        def dying(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            idle = method == "commit" and not owner._changed
            idle = idle or (method == "taken" and not owner._done)
            idle = idle or (method == "send" and part == "_results" and not owner._look)
            left -= not idle
            if left == 0:
                raise Killed
            return original(*arguments, **named)

        setattr(owner, method, dying)

    def step(self) -> None:
        self.ingest.pump()
        try:
            super().step()
        except Killed:
            self.deaths += 1
            self.bury()
            self.start()

    def bury(self) -> None:
        """What the kernel does when a process ends."""
        worker = self.worker
        worker._resources.pop_all()
        self.database._db.close()
        for resource in (worker._programs, worker._hub, worker._results, worker._processes):
            resource.close()

    def ask(self, request: ManagementRequest) -> ManagementReply:
        """As a client does: after a while without a reply the same again, on another socket."""
        while True:
            program, deaths = Program(self), self.deaths
            program.send(request)
            try:
                while self.deaths == deaths:
                    self.step()
                    if reply := program.reply():
                        return reply
            finally:
                program.close()

    def close(self) -> None:
        super().close()
        self.ingest.socket.close(0)


@pytest.fixture
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    monkeypatch.setattr(hub_line_ends, "BEAT_S", 0.05)
    monkeypatch.setattr(hub_line_ends, "RESEND_S", 0.2)
    made = Mortal(folder)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("cut", "occurrence"),
    [
        (cut, number)
        for cut, (part, _) in CUTS.items()
        for number in ((1, 2) if part == "_results" else (1, 2, 4))
    ],
)
def test_what_was_said_before_the_worker_died_is_true(cut: str, occurrence: int, world: Mortal) -> None:
    world.upload.connect()
    world.until(lambda: world.worker.figures()["twin"] == "level")
    world.arm(*CUTS[cut], occurrence)
    world.command(b"one", id="c-1", command="recipe")
    world.command(b"two", id="c-2", command="recipe")
    for payload in (b"one", b"two"):
        command = world.ask(ReceiveRequest(("recipe",), wait_s=30, poll=payload.decode()))
        assert isinstance(command, CommandHandedOver) and command.payload == payload
        assert world.ask(CompleteRequest(command.command, command.token, 200, b"7")) == Kept()
    assert isinstance(world.ask(ReportRequest(path=("press",), value={"speed": 3})), Kept)
    world.desire({"wish": 1})
    woken = world.ask(WatchRequest(("wish",), after=0, wait_s=30))
    assert isinstance(woken, Watched) and woken.value == 1
    world.until(lambda: world.states() == ["completed", "completed"])
    world.until(lambda: world.reported().get("press") == {"speed": 3})
    world.until(lambda: not world.database.unsent(1))
    assert world.deaths == 1
    rows = [world.database.command(seq) for seq in (1, 2, 3)]
    assert [row and (row.id, row.state.value) for row in rows] == [("c-1", "done"), ("c-2", "done"), None]
    messages = [json.loads(payload) for payload in world.ingest.stored.values()]
    results = [(message["id"], message["state"], message["result"]) for message in messages]
    assert results == [("c-1", "done", 7), ("c-2", "done", 7)]
    assert world.upload.acknowledged == sorted(world.upload.acknowledged)
