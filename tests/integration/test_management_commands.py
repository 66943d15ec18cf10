"""The worker management against a real hub: a command that was acknowledged is on disk, and ends once."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.config import load
from runtime.core.management.command_record import CommandState
from runtime.core.management.replies import CommandHandedOver, Kept, ManagementRefusal, NoCommand
from runtime.core.management.requests import (
    CompleteRequest,
    DropRequest,
    ExtendRequest,
    FailRequest,
    ReceiveRequest,
    ReportRequest,
    RequeueRequest,
)
from runtime.workers.ingest import IngestLoop
from runtime.workers.management import opened
from tests.support.management_world import ManagementWorld

RECEIVER = """
import sys, time
import zmq
from runtime.core.management.protocol import encode_request
from runtime.core.management.requests import ReceiveRequest
socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1])
socket.send_multipart(encode_request(ReceiveRequest(wait_s=60)))
print(socket.recv_multipart()[0].decode(), flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def made(folder: Path, toml: str = "") -> Iterator[ManagementWorld]:
    world = ManagementWorld(folder, toml)
    try:
        world.upload.connect()
        yield world
    finally:
        world.close()


@pytest.fixture
def world(folder: Path) -> Iterator[ManagementWorld]:
    with made(folder) as world:
        yield world


@contextlib.contextmanager
def ingest(world: ManagementWorld) -> Iterator[None]:
    """A real ingest in a thread of its own."""
    stop = Stop()

    def turn() -> None:
        loop = IngestLoop(load({}, home=world.home), stop, SystemClock())
        while not stop.requested():
            loop.turn()
        loop.close()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        stop.ask()
        thread.join(10)


def stored(world: ManagementWorld) -> list[dict[str, Any]]:
    """The messages with results that ingest has."""
    with contextlib.closing(sqlite3.connect(world.layout.messages_db)) as db:
        rows = db.execute("SELECT payload, properties, key FROM messages ORDER BY id").fetchall()
    return [{**json.loads(row[0]), "properties": row[1], "key": row[2]} for row in rows]


def received(world: ManagementWorld, **fields: Any) -> CommandHandedOver:
    command = world.program().ask(ReceiveRequest(wait_s=10, **fields))
    assert isinstance(command, CommandHandedOver), command
    return command


def state(world: ManagementWorld, seq: int = 1) -> CommandState:
    command = world.database.command(seq)
    assert command is not None
    return command.state


@pytest.fixture
def commits(world: ManagementWorld, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The states of the hub's commands at each commit, before it."""
    seen: list[list[str]] = []
    commit = world.database.commit

    def noted() -> None:
        seen.append(world.states())
        commit()

    monkeypatch.setattr(world.database, "commit", noted)
    return seen


def test_a_command_is_on_disk_before_the_hub_is_told(
    world: ManagementWorld, commits: list[list[str]]
) -> None:
    world.command(b"now", command="recipe")
    world.until(lambda: world.database.command(1) is not None)
    assert all("completed" not in states for states in commits)
    world.until(lambda: world.states() == ["completed"])


def test_commands_reach_the_program_in_order_and_their_ends_the_cloud(world: ManagementWorld) -> None:
    for number in range(3):
        world.command(f"{number}".encode(), id=f"c-{number}", command="recipe")
    with ingest(world):
        program = world.program()
        for number in range(3):
            command = program.ask(ReceiveRequest(("recipe",), wait_s=10))
            assert (command.payload, command.name, command.attempt) == (b"%d" % number, "recipe", 1)
            assert program.ask(ExtendRequest(command.command, command.token, percent=50)) == Kept()
            kept = program.ask(CompleteRequest(command.command, command.token, 200, b'{"loaded":true}'))
            assert kept == Kept()
        again = program.ask(CompleteRequest(command.command, command.token, 200, b'{"loaded":true}'))
        assert again == Kept(), "the reply was lost, and it says so again"
        world.until(lambda: world.database.unsent(1) == [])
    results = stored(world)
    assert [result["id"] for result in results] == ["c-0", "c-1", "c-2"]
    assert {result["state"] for result in results} == {"done"}
    assert results[0]["result"] == {"loaded": True} and "c-0" in results[0]["properties"]
    assert [result["key"] for result in results] == [
        f"command-results/{world.database.uuid}/{number}" for number in (1, 2, 3)
    ]
    assert not world.worker._state.twin.record.wanted.get("commands"), "their progress is shown no more"


def test_a_repeat_is_one_command_and_another_one_under_its_id_is_not(world: ManagementWorld) -> None:
    world.command(b"one", id="same")
    world.until(lambda: world.database.command(1) is not None)
    world.upload.disconnect()  # perhaps before its PUBACK
    world.command(b"two", id="same")
    world.upload.connect()
    world.until(lambda: world.states() == ["completed", "completed"])
    payloads = [command.payload for command in world.database.open_commands()]
    assert payloads == [b"one", b"two"]


def test_what_has_no_room_stays_at_the_hub_in_its_order(folder: Path) -> None:
    with made(folder, "max_open_commands = 2\n") as world:
        for number in range(5):
            world.command(b"%d" % number, id=f"c-{number}")
        world.until(lambda: world.states().count("completed") == 2)
        world.steps()
        assert world.states().count("completed") == 2 and len(world.database.open_commands()) == 2
        program = world.program()
        for number in range(5):
            command = program.ask(ReceiveRequest(wait_s=10))
            assert command.payload == b"%d" % number
            program.ask(CompleteRequest(command.command, command.token))
        world.until(lambda: world.states() == ["completed"] * 5)
        assert world.upload.acknowledged == sorted(world.upload.acknowledged)


def test_a_program_that_ends_gives_its_command_back_at_once(folder: Path) -> None:
    with made(folder, 'once = ["firmware"]\n') as world:
        world.command(b"a", id="a", command="recipe")
        world.command(b"b", id="b", command="firmware")
        ended = []
        for _ in range(2):
            program = subprocess.Popen(
                [sys.executable, "-c", RECEIVER, f"ipc://{world.layout.management_socket}"],
                stdout=subprocess.PIPE,
            )
            ended.append(program)
        world.until(
            lambda: [c.state for c in world.database.open_commands()] == [CommandState.LEASED] * 2, 30
        )
        for program in ended:
            program.kill()
            program.wait(10)
        world.until(lambda: state(world, 2) is CommandState.UNCERTAIN)
        assert state(world, 1) is CommandState.QUEUED
        again = received(world)
        assert (again.payload, again.attempt) == (b"a", 2)


def test_a_lease_of_a_program_that_is_gone_is_over_when_the_worker_starts(world: ManagementWorld) -> None:
    world.command(b"a")
    program = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, f"ipc://{world.layout.management_socket}"], stdout=subprocess.PIPE
    )
    world.until(lambda: world.database.command(1) and state(world) is CommandState.LEASED, 30)
    world.worker.close()
    program.kill()
    program.wait(10)
    world.start()
    assert state(world) is CommandState.QUEUED


def test_a_failure_for_now_is_tried_again_and_a_stale_word_is_refused(folder: Path) -> None:
    with made(folder, "max_attempts = 2\n") as world:
        world.command(b"a")
        program = world.program()
        first = received(world)
        assert program.ask(FailRequest(first.command, first.token, retry_after_s=0.05)) == Kept()
        second = received(world)
        assert second.attempt == 2
        stale = program.ask(CompleteRequest(first.command, first.token))
        assert isinstance(stale, ManagementRefusal) and stale.code == "lease_lost"
        assert program.ask(FailRequest(second.command, second.token, retry_after_s=0.05)) == Kept()
        assert state(world) is CommandState.DEAD
        requeued = program.ask(RequeueRequest(first.command))
        assert isinstance(requeued, Kept) and requeued.change == 2
        assert received(world).payload == b"a"
        assert program.ask(DropRequest(first.command)) == Kept()
        assert isinstance(program.ask(DropRequest(77)), ManagementRefusal)


def test_a_long_poll_ends_without_a_command(world: ManagementWorld) -> None:
    assert world.program().ask(ReceiveRequest(wait_s=0.05)) == NoCommand()


def test_a_command_that_no_program_takes_in_time_expires_and_the_cloud_is_told(
    world: ManagementWorld,
) -> None:
    with ingest(world):
        world.command(b"a", id="late", ttl_s="0.2")
        world.until(lambda: world.database.command(1) and state(world) is CommandState.EXPIRED)
        world.until(lambda: stored(world))
    assert [(result["id"], result["state"]) for result in stored(world)] == [("late", "expired")]


def test_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(
    world: ManagementWorld,
) -> None:
    world.steps(5)
    program = world.program()
    db = world.database._db
    ((pages,),) = db.execute("PRAGMA page_count")
    db.execute(f"PRAGMA max_page_count = {pages}")
    value = ["x" * 4000] * 7
    refused = program.ask(ReportRequest(path=("large",), value=value))
    assert isinstance(refused, ManagementRefusal) and refused.code == "disk_full"
    world.command(b"y" * 60_000)
    world.steps()
    assert world.states() != ["completed"] and "alarm" in world.worker.figures()
    db.execute("PRAGMA max_page_count = 1000000")
    world.until(lambda: world.states() == ["completed"])
    assert isinstance(program.ask(ReportRequest(path=("large",), value=value)), Kept)
    assert received(world).payload == b"y" * 60_000


def test_an_older_copy_of_the_database_says_that_it_does_not_know(world: ManagementWorld) -> None:
    world.command(b"a", id="a")
    world.until(lambda: world.states() == ["completed"])
    world.worker.close()
    copy = world.home / "copy.db"
    shutil.copy(world.layout.management_db, copy)
    world.start()
    uuid, given = world.database.uuid, world.database.next_seq
    command = received(world)
    assert world.program().ask(CompleteRequest(command.command, command.token)) == Kept()
    world.worker.close()
    copy.replace(world.layout.management_db)
    world.start()
    assert state(world, command.command) is CommandState.UNCERTAIN
    assert world.database.uuid != uuid and world.database.next_seq > given


def test_a_damaged_database_is_set_aside_and_its_commands_are_named(
    world: ManagementWorld,
) -> None:
    for number in range(200):
        world.database.save_command(_row(number + 1))
    world.database.commit()
    world.desire({"kept": True})
    world.until(lambda: world.worker.figures()["twin"] == "level")
    world.worker.close()
    path = world.layout.management_db
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    config, stop, lines = load({}, home=world.home), Stop(), list[str]()
    sink = logger.add(lambda line: lines.append(str(line)))
    database = opened(config, heart_of(world, stop), stop)
    assert database is not None
    database.close()
    assert (path.parent / "management.db.damaged-1").exists()
    logger.remove(sink)
    assert any("open commands are lost" in line for line in lines)
    world.start()
    assert world.database.next_seq > 200, "no number is given twice"
    world.until(lambda: world.worker._state.twin.record.desired == {"kept": True})


def _row(seq: int) -> Any:
    from runtime.core.management.command_record import CommandRow
    from runtime.core.moment import Moment

    return CommandRow(seq, f"id-{seq}", "n", b"p" * 100, Moment(1.0, 1.0, "b"))


def heart_of(world: ManagementWorld, stop: Stop) -> Any:
    from runtime.workers.heartbeat import Heartbeat

    return Heartbeat(world.layout, "management", SystemClock(), stop)
