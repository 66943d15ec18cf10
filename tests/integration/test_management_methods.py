"""Method calls against a real hub: a program serves them, or the runtime, or the caller is told at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import __version__
from runtime.core.management.replies import AnswerTaken, CallHandedOver, ManagementRefusal, OperatorAnswer
from runtime.core.management.requests import (
    AnswerRequest,
    CallRequest,
    CompleteRequest,
    ReceiveRequest,
    ServeRequest,
)
from tests.support.management_world import LeastIngest, ManagementWorld, Program

BUILT_IN = ["ping", "status", "commands", "twin-refresh", "restart", "logs", "quarantine", "reboot", "link"]
TOML = f"""
built_in = {json.dumps(BUILT_IN)}
durable = ["firmware"]
reboot_command = ["touch", "rebooted"]
call_timeout_s = 1
"""


SERVER = """
import sys, time
import zmq
from runtime.core.management.protocol import encode_request
from runtime.core.management.requests import ServeRequest
socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1])
socket.send_multipart(encode_request(ServeRequest(("fragile",), wait_s=60)))
time.sleep(600)
"""


@pytest.fixture
def world(folder: Path) -> Iterator[ManagementWorld]:
    made = ManagementWorld(folder, TOML)
    try:
        made.upload.connect()
        made.until(lambda: made.worker.figures()["hub"] == "up")
        yield made
    finally:
        made.close()


def serving(world: ManagementWorld, *methods: str) -> Program:
    program = world.program()
    program.send(ServeRequest(methods, wait_s=30))
    world.until(lambda: world.worker._state.calls.servers)
    return program


class Calling:
    """A call of the cloud that is under way."""

    def __init__(self, world: ManagementWorld, method: str, payload: object = None) -> None:
        self.world = world
        self.future = world.begin_call(method, payload)

    def answer(self) -> tuple[int, object]:
        self.world.until(self.future.done)
        status, body = self.future.result()
        return status, json.loads(body) if body else None


def test_a_program_answers_a_call(world: ManagementWorld) -> None:
    program = serving(world, "press.*")
    calling = Calling(world, "press.stop", {"now": True})
    call = world.until(program.reply)
    assert isinstance(call, CallHandedOver) and json.loads(call.payload) == {"now": True}
    taken = program.ask(AnswerRequest(call.call, 207, b'{"stopped":true}'))
    assert taken == AnswerTaken(True) and calling.answer() == (207, {"stopped": True})


def test_a_call_that_no_program_serves_is_answered_at_once(world: ManagementWorld) -> None:
    status, body = world.call("nothing")
    assert status == 404 and "no program serves nothing" in body["error"]


def test_a_call_without_an_answer_ends_before_the_hub_gives_up(world: ManagementWorld) -> None:
    program = serving(world, "slow")
    calling = Calling(world, "slow")
    call = world.until(program.reply)
    assert isinstance(call, CallHandedOver)
    assert calling.answer()[0] == 504
    assert program.ask(AnswerRequest(call.call)) == AnswerTaken(False)


def test_a_call_whose_program_ends_is_answered_at_once(world: ManagementWorld) -> None:
    program = subprocess.Popen([sys.executable, "-c", SERVER, f"ipc://{world.layout.management_socket}"])
    world.until(lambda: world.worker._state.calls.servers, 30)
    calling = Calling(world, "fragile")
    world.until(lambda: any(call.holder for call in world.worker._state.calls.open.values()))
    program.kill()
    program.wait(10)
    status, body = calling.answer()
    assert status == 503 and body == {"error": "the program that serves it ended"}


def test_an_answer_under_a_call_id_is_said_again_after_a_restart(world: ManagementWorld) -> None:
    program = serving(world, "once")
    calling = Calling(world, "once", {"call_id": "x1"})
    call = world.until(program.reply)
    assert isinstance(call, CallHandedOver)
    program.ask(AnswerRequest(call.call, 200, b'"first"'))
    assert calling.answer() == (200, "first")
    world.restart()
    world.until(lambda: world.worker.figures()["hub"] == "up")
    assert world.call("once", {"call_id": "x1"}) == (200, "first")


def test_a_durable_call_is_a_command_on_disk(world: ManagementWorld) -> None:
    status, body = world.call("firmware", {"call_id": "f1", "url": "u"})
    assert (status, body) == (202, {"command": 1})
    assert world.call("firmware", {"call_id": "f1", "url": "u"}) == (202, {"command": 1})
    world.restart()
    command = world.program().ask(ReceiveRequest(("firmware",), wait_s=5))
    assert json.loads(command.payload)["url"] == "u"
    world.program().ask(CompleteRequest(command.command, command.token))


def test_the_runtimes_own_methods(world: ManagementWorld) -> None:
    status, body = world.call("ping")
    assert status == 200 and body["version"] == __version__
    status, body = world.call("status")
    assert status == 200 and body["verdict"]
    assert world.call("commands") == (200, {"open": 0, "commands": []})
    assert world.call("twin-refresh")[0] == 200
    assert world.call("restart", {"worker": "no-such"})[0] == 400
    assert world.call("restart", {"worker": "ingest"})[0] == 503, "supervisord does not run here"
    assert world.call("logs", {"worker": "ingest", "lines": 0})[0] == 400


def test_only_what_is_allowed_is_answered(folder: Path) -> None:
    world = ManagementWorld(folder)
    try:
        world.upload.connect()
        world.until(lambda: world.worker.figures()["hub"] == "up")
        assert world.call("reboot")[0] == 403
        assert world.call("ping")[0] == 200
    finally:
        world.close()


def test_the_link_comes_back_by_itself(world: ManagementWorld) -> None:
    assert world.call("link", {"minutes": 0})[0] == 400
    assert world.call("link", {"minutes": 10_000})[0] == 400
    assert world.call("link", {"minutes": 0.02})[0] == 200
    switch = world.layout.state / "link.off"
    assert switch.exists()
    world.until(lambda: not switch.exists(), 10)


def test_a_reboot_is_asked_for_once_and_done_when_the_boot_is_another(
    world: ManagementWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.home)
    assert world.call("reboot") == (202, {"command": 1})
    asked = world.home / "rebooted"
    world.until(asked.exists)
    asked.unlink()
    world.restart()
    world.steps(5)
    time.sleep(0.1)
    assert not asked.exists(), "no loop"
    command = world.database.command(1)
    assert command is not None and command.state == "rebooting"
    world.worker.close()
    monkeypatch.setattr("runtime.adapters.process.clock.SystemClock.boot_id", lambda clock: "another boot")
    world.start()
    command = world.database.command(1)
    assert command is not None and command.state == "done" and not asked.exists()


def test_an_operator_calls_a_method_on_this_machine(world: ManagementWorld) -> None:
    answer = world.program().ask(CallRequest("ping"))
    assert isinstance(answer, OperatorAnswer) and answer.status == 200
    answer = world.program().ask(CallRequest("nothing"))
    assert isinstance(answer, OperatorAnswer) and answer.status == 404


def test_nonsense_is_refused_with_a_code(world: ManagementWorld) -> None:
    program = world.program()
    program._socket.send_multipart([b"nonsense"])
    program._asked = CallRequest("ping")
    refused = world.until(program.reply)
    assert isinstance(refused, ManagementRefusal) and refused.code == "bad_header"


def test_the_last_lines_of_a_log_go_to_the_cloud_as_a_message(world: ManagementWorld) -> None:
    (world.layout.log / "upload.log").write_text("".join(f"line {n}\n" for n in range(9)))
    ingest = LeastIngest(world.layout)
    calling = Calling(world, "logs", {"worker": "upload", "lines": 2})
    while not calling.future.done():
        ingest.pump()
        world.step()
    status, answer = calling.answer()
    ((key, payload),) = ingest.stored.items()
    assert (status, payload) == (200, b"line 7\nline 8")
    assert isinstance(answer, dict) and answer["key"] == f"device-logs/{key[0]}/{key[1]}"
    ingest.socket.close(0)
