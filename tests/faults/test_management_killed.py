"""Whatever dies while commands, reports and desired changes fly: each is done, and the cloud knows it.

One run is short. `MANAGEMENT_RUNS=100 MANAGEMENT_COMMANDS=1000` makes many long ones, each with its own seed.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.device import Device
from runtime.producer import Producer
from tests.support.harness import Cloud, eventually
from tests.support.managed_device import ManagedDevice

RUNS = int(os.environ.get("MANAGEMENT_RUNS", "1"))
COMMANDS = int(os.environ.get("MANAGEMENT_COMMANDS", "40"))
SEED = int(os.environ.get("MANAGEMENT_SEED", "1"))
KILLS = max(6, COMMANDS * 3 // 10)
QUIET_S = 90.0


@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_whatever_dies_every_command_ends_once_and_the_cloud_knows_it(
    seed: int, folder: Path, cloud: Cloud
) -> None:
    rng = random.Random(seed)
    device = ManagedDevice(folder, cloud)
    try:
        device.start()
        device.start_program()
        _wait_for_twin(device)
        failures: list[BaseException] = []
        traffic = [
            threading.Thread(target=_guarded, args=(failures, work, device))
            for work in (_send, _report, _desire, _watch, _telemetry)
        ]
        for thread in traffic:
            thread.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.05, 0.6))
            victim = rng.choice(["management", "management", "upload", "program", "ingest", "hub"])
            if victim == "hub":
                cloud.drop(rng.choice(["abrupt", "polite"]))
            else:
                device.kill(victim)
        for thread in traffic:
            thread.join(180)
        assert failures == []
        _check(device)
    finally:
        device.close()


def _guarded(
    failures: list[BaseException], work: Callable[[ManagedDevice], None], device: ManagedDevice
) -> None:
    try:
        work(device)
    except BaseException as exc:
        failures.append(exc)


def _wait_for_twin(device: ManagedDevice) -> None:
    eventually(lambda: "runtime" in device.reported(), 60, "the worker reports")


def _send(device: ManagedDevice) -> None:
    for number in range(COMMANDS):
        device.send(f"job-{number}", messageid=f"id-{number}")
        time.sleep(0.02)


def _report(device: ManagedDevice) -> None:
    with Device(device.endpoint, retry_for_s=60.0) as program:
        for number in range(COMMANDS):
            program.set(f"/press/{number % 7}", {"speed": number})
            time.sleep(0.05)


def _desire(device: ManagedDevice) -> None:
    for number in range(COMMANDS // 4):
        device.desire({"wish": number})
        time.sleep(0.2)


def _watch(device: ManagedDevice) -> None:
    """A program never sees an older desired value than before, and in the end the last one."""
    seen = -1
    with Device(device.endpoint, retry_for_s=60.0) as program:
        change = None
        while seen < COMMANDS // 4 - 1:
            change = program.watch("/", after=change.number if change else 0, wait_s=60.0)
            assert change is not None, f"nothing after {seen}"
            wish = (change.value or {}).get("wish", -1)
            assert wish >= seen
            seen = wish
            program.applied(change) if wish == COMMANDS // 4 - 1 else None


def _telemetry(device: ManagedDevice) -> None:
    with Producer(f"ipc://{device.home.layout.producer_socket}", retry_for_s=60.0) as producer:
        for number in range(COMMANDS * 5):
            producer.put(f"telemetry-{number}".encode(), stream="t")
            time.sleep(0.01)


def _check(device: ManagedDevice) -> None:
    """When it is quiet: every command is on disk once, in one final state, and the cloud knows it."""
    ids = {f"id-{number}" for number in range(COMMANDS)}
    eventually(lambda: device.operator.wait(5, pending=0)["met"], QUIET_S, "the hub keeps nothing")
    eventually(lambda: all(c["stored"] for c in device.commands()), QUIET_S, "every result is stored")
    commands = device.commands()
    assert sorted(command["id"] for command in commands) == sorted(ids), "one row for each"
    assert {command["state"] for command in commands} <= {"done", "dead"}
    eventually(lambda: device.results().keys() >= ids, QUIET_S, "every result is in the cloud")
    for command in commands:
        (result,) = device.results()[command["id"]]
        assert (result["state"], result["command"]) == (command["state"], command["seq"])
    done = set(device.seen.read_text().split())
    assert {command["payload"] for command in commands if command["state"] == "done"} <= done
    wanted = json.loads(device.ask("SELECT text FROM twin WHERE name = 'wanted'")[0][0])
    eventually(lambda: _own(device.reported()) == wanted, QUIET_S, "reported is what programs want")
    assert wanted["press"] == {str(n % 7): {"speed": n} for n in range(COMMANDS - 7, COMMANDS)}
    requests = device.operator.twin_requests()
    assert [one for one in requests if one["flaw"]] == [], "no null for what is not there"
    desired = json.loads(device.ask("SELECT text FROM twin WHERE name = 'desired'")[0][0])
    assert desired == {"wish": COMMANDS // 4 - 1}
    telemetry = {f"telemetry-{number}".encode() for number in range(COMMANDS * 5)}
    eventually(
        lambda: {m.payload for m in device.cloud.messages()} >= telemetry, QUIET_S, "telemetry is whole"
    )


def _own(reported: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in reported.items() if not name.startswith("$")}
