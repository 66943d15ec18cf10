"""`edgectl twin`, `commands` and `call`, and the clients, against the real worker."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from loguru import logger

from runtime.__main__ import main
from runtime.device import Device, DeviceCall, LeaseLost, MethodError
from tests.support.management_world import ManagementWorld

T = TypeVar("T")
TOML = 'once = ["once"]\ncall_timeout_s = 5\n'


@pytest.fixture
def world(folder: Path) -> Iterator[ManagementWorld]:
    made = ManagementWorld(folder, TOML)
    try:
        made.upload.connect()
        made.until(lambda: made.worker.figures()["hub"] == "up")
        yield made
    finally:
        made.close()


@pytest.fixture
def edgectl(
    world: ManagementWorld, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command while the worker turns: its exit status, output, and errors."""
    logger.remove()  # the worker turns in this process: its log lines are no words of the command's

    def run(*words: str) -> tuple[int, str, str]:
        status = beside(world, lambda: main(["--home", str(world.home), *words]))
        done = capsys.readouterr()
        return status, done.out, done.err

    return run


def beside(world: ManagementWorld, program: Callable[[], T]) -> T:
    """What a program in another thread returns, while the worker turns in this one."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(program)
        try:
            world.until(future.done, 20)
        except AssertionError:
            os.write(2, b"the program waits still\n")
            raise
        return future.result()


def client(world: ManagementWorld) -> Device:
    return Device(f"ipc://{world.layout.management_socket}", answer_timeout_s=1.0)


def test_the_twin_is_shown_reported_and_watched(world: ManagementWorld, edgectl: Any) -> None:
    world.desire({"press": {"speed": 3}})
    world.until(lambda: world.worker.figures()["desired_version"] == 2)
    assert json.loads(edgectl("twin", "get", "/press")[1]) == {"speed": 3}
    facts = json.loads(edgectl("twin", "get", "--json")[1])
    assert facts["value"] == {"press": {"speed": 3}} and facts["version"] == 2
    assert edgectl("twin", "get", "/nothing")[::2] == (1, "edgectl: nothing is desired at /nothing\n")
    assert edgectl("twin", "get", "nothing")[0] == 2
    status, out, _ = edgectl("twin", "report", "/press", '{"speed":3}', "--confirm", "5")
    assert status == 0 and re.fullmatch(r"kept as change \d+, and the hub has it\n", out)
    assert world.reported()["press"] == {"speed": 3}
    edgectl("twin", "report", "/press", '{"mode":"auto"}', "--patch")
    assert json.loads(edgectl("twin", "get", "/press", "--half", "wanted")[1]) == {"speed": 3, "mode": "auto"}
    assert edgectl("twin", "report", "/press", "--remove", "--json")[0] == 0
    assert edgectl("twin", "get", "/press", "--half", "wanted")[0] == 1
    assert edgectl("twin", "report", "/press", "fast") == (
        2,
        "",
        "edgectl: VALUE is not JSON: Expecting value: line 1 column 1 (char 0); "
        "write text in quotes, as in '\"fast\"'\n",
    )
    assert edgectl("twin", "report", "/a", "null")[0] == 1
    status, out, _ = edgectl("twin", "watch", "/press", "--timeout", "0.3")
    assert json.loads(out)["value"] == {"speed": 3} and status == 0


def test_commands_are_listed_shown_requeued_and_dropped(world: ManagementWorld, edgectl: Any) -> None:
    assert edgectl("commands", "ls") == (0, "no commands\n", "")
    world.command(b'{"a":1}', "c-1", command="once", line="a")
    world.command(b"\xff", "c-2", command="plain")
    world.until(lambda: sum(world.worker.figures()["commands"].values()) == 2)
    beside(world, lambda: client(world).receive("once", lease_s=1.0))
    world.until(lambda: "leased" not in world.worker.figures()["commands"])
    listed = [json.loads(line) for line in edgectl("commands", "ls", "--json")[1].splitlines()]
    assert [(one["command"], one["state"]) for one in listed] == [(2, "queued"), (1, "uncertain")]
    assert "uncertain" in edgectl("commands", "ls")[1]
    assert "once" not in edgectl("commands", "ls", "--open")[1]
    shown = json.loads(edgectl("commands", "show", "c-1")[1])
    assert (shown["payload"], shown["properties"]["line"], shown["once"]) == ('{"a":1}', "a", True)
    assert json.loads(edgectl("commands", "show", "2")[1])["payload_base64"] == "/w=="
    assert edgectl("commands", "show", "9")[0] == 2
    assert edgectl("commands", "requeue", "1")[:2] == (0, "1 requeued as 3\n")
    assert edgectl("commands", "drop", "1", "--json")[:2] == (0, '{"command": 1, "dropped": true}\n')
    status, _, error = edgectl("commands", "drop", "2")
    assert status == 1 and "only dead and uncertain ones are dropped" in error
    assert edgectl("commands", "drop", "77")[0] == 1
    assert "dropped" in edgectl("commands", "ls")[1]


def test_what_only_reads_works_with_the_worker_down(world: ManagementWorld, edgectl: Any) -> None:
    world.desire({"a": 1})
    world.command()
    world.until(lambda: world.worker.figures()["commands"] and world.worker.figures()["desired_version"] == 2)
    words = ["--home", str(world.home)]
    world.worker.close()
    try:
        assert main([*words, "twin", "get"]) == main([*words, "commands", "ls"]) == 0
        assert main([*words, "commands", "show", "1"]) == 0
    finally:
        world.start()


def test_without_management_every_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--home", str(tmp_path)]
    assert main([*words, "call", "ping"]) == 2
    assert "management is off: set management.enabled = true" in capsys.readouterr().err
    assert main([*words, "commands", "ls"]) == 1
    assert "the management worker has never run" in capsys.readouterr().err


def test_methods_are_called_as_the_cloud_would(world: ManagementWorld, edgectl: Any) -> None:
    assert edgectl("call", "ping")[:2][0] == 0
    status, out, _ = edgectl("call", "nothing", "--json")
    assert status == 1 and json.loads(out)["status"] == 404
    assert edgectl("call", "ping", "{")[0] == 2
    device = client(world)

    @device.method("press.*")
    def press(call: DeviceCall) -> object:
        if call.json()["speed"] > 5:
            raise MethodError(409, {"most": 5})
        return {"method": call.method}

    def two_calls() -> list[bool]:
        return [device.serve_once(wait_s=10) for _ in range(2)]

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(two_calls)
        world.until(lambda: world.worker._state.calls.servers)
        assert json.loads(edgectl("call", "press.go", '{"speed":3}', "--json")[1]) == {
            "status": 200,
            "payload": {"method": "press.go"},
        }
        status, out, _ = edgectl("call", "press.go", '{"speed":9}')
        assert (status, out.splitlines()[0]) == (1, "status 409")
        world.until(serving.done)


def test_the_client_carries_a_command_out_once_across_a_restart_of_the_worker(world: ManagementWorld) -> None:
    world.command(b'{"size":3}', "c-1", command="recipe")
    device = client(world)
    command = beside(world, lambda: device.receive("recipe", wait_s=10))
    assert command and command.json() == {"size": 3} and command.attempt == 1
    world.restart()

    def load() -> None:
        with command:
            command.progress(50.0, "half")
            command.result = {"loaded": True}

    beside(world, load)
    world.until(lambda: world.states() == ["completed"] or world.upload.acknowledged)
    assert world.database.command(1).state == "done"  # type: ignore[union-attr]
    with pytest.raises(LeaseLost):
        beside(world, lambda: command.fail("too late"))
    assert beside(world, lambda: device.receive("recipe")) is None


def test_changes_reach_the_client_and_are_applied(world: ManagementWorld) -> None:
    device = client(world)
    world.desire({"press": {"speed": 1}})
    change = beside(world, lambda: next(device.changes("/press")))
    assert change.value == {"speed": 1}
    assert world.worker.figures()["not_applied"] == ["press"]
    beside(world, lambda: device.applied(change, "/press"))
    assert world.worker.figures()["not_applied"] == []
    assert beside(world, device.whoami).uid == os.getuid()
