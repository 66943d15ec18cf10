"""A worker hangs, gives up, or loses its supervisor: with the limits that ship, all is back within 30 s."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.core.operations.health import StartAgain
from runtime.workers.sentinel import SentinelLoop
from tests.support.harness import Home, eventually
from tests.support.supervised import QUICK, WORKING, Runtime, gone, kill, stand_ins


@pytest.fixture
def quick(home: Home) -> Iterator[Runtime]:
    """All stand-ins, and limits so small that the rare arrives at once."""
    with stand_ins(home, QUICK) as runtime:
        yield runtime


@pytest.fixture
def three(folder: Path) -> Iterator[list[Runtime]]:
    """Three runtimes with the limits that ship, so that three long waits are one."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(stand_ins(Home(folder / name))) for name in "abc"]


def test_with_the_limits_that_ship_every_kind_of_hang_is_over_within_30_s(three: list[Runtime]) -> None:
    runtime, without_sentinel, without_supervisor = three
    stopped, locked = runtime.pid("ingest"), runtime.pid("upload")
    hung_sentinel = without_sentinel.pid("sentinel")
    orphans = without_supervisor.all_pids()
    eventually(lambda: runtime.state("provisioning") == "RUNNING")
    runtime.behave("upload", "deadlock")
    runtime.behave("provisioning", "deadlock-at-start")
    kill(runtime.pid("provisioning"))
    eventually(lambda: _idle_s(runtime, "upload") > 2, what="upload is deadlocked")
    stillborn = runtime.pid("provisioning")
    assert stillborn and not runtime.beats("provisioning", stillborn)
    for worker in ("upload", "provisioning"):
        runtime.behave(worker, "work")
    began_s = kill(stopped, signal.SIGSTOP)
    kill(hung_sentinel, signal.SIGSTOP)
    kill(without_supervisor.process.pid, signal.SIGSTOP)

    runtime.wait_for("upload", other_than=locked, timeout_s=30 + COLD_STARTS_S)
    runtime.wait_for("ingest", other_than=stopped, timeout_s=30 + COLD_STARTS_S)
    runtime.wait_for("provisioning", other_than=stillborn, timeout_s=30 + COLD_STARTS_S)
    assert "_wait_for_ourselves" in runtime.log("upload"), "its stack says where it hung"
    assert f"(pid {stopped}, stopped) made no progress" in runtime.log("sentinel")
    assert "refresh" not in runtime.log("sentinel")

    eventually(lambda: not without_supervisor.process.running(), 30, "the sentinel kills a hung supervisord")
    eventually(lambda: gone(orphans), 5, "and everybody goes with it")

    without_sentinel.wait_for("sentinel", other_than=hung_sentinel, timeout_s=35 + COLD_STARTS_S)
    assert time.monotonic() - began_s < 35 + COLD_STARTS_S


def test_a_killed_worker_is_back_within_two_and_a_half_seconds(quick: Runtime) -> None:
    """One of them at least: others share the machine, and supervision that waits has each of them wait."""
    took_s = []
    for worker in WORKING:
        # before that supervisord takes a death for a failed start, and waits
        eventually(lambda name=worker: quick.state(name) == "RUNNING")
        before = quick.pid(worker)
        began_s = kill(before)
        quick.wait_for(worker, other_than=before)
        took_s.append(time.monotonic() - began_s)
    assert min(took_s) < 2.5, took_s


def test_a_killed_sentinel_is_back_and_remembers_who_restarted(quick: Runtime) -> None:
    upload, sentinel = quick.pid("upload"), quick.pid("sentinel")
    kill(upload)
    eventually(lambda: _restarts(quick).get("upload") == 1, 20)
    kill(sentinel)
    quick.wait_for("sentinel", other_than=sentinel)
    assert _restarts(quick).get("upload") == 1


def test_a_worker_that_dies_at_every_start_raises_an_alarm_with_its_last_words(home: Home) -> None:
    home.write_config(QUICK + "alarm_restarts = 2\n")
    runtime = Runtime(home, {**WORKING, "upload": "die-at-start"})
    try:
        found = eventually(lambda: _sentinel(runtime).get("alarms"), 60, "an alarm")
        assert found[0]["worker"] == "upload" and "restarted" in found[0]["text"]
        assert runtime.state("upload") in ("BACKOFF", "STARTING"), "and it is still being tried"
        runtime.behave("upload", "work")
        runtime.wait_for("upload")
    finally:
        runtime.close()


def test_a_program_driven_to_fatal_is_started_again_within_30_s(home: Home) -> None:
    conf = home.layout.supervisord_conf
    runtime = Runtime(home, {**WORKING, "upload": "die-at-start"})
    runtime.close()
    head, _, tail = conf.read_text().partition("[program:upload]")
    conf.write_text(head + "[program:upload]" + tail.replace("startretries=1000000", "startretries=0"))
    runtime = Runtime(home)
    try:
        eventually(lambda: runtime.state("upload") == "FATAL", 20, "supervisord gives up")
        began_s = time.monotonic()
        runtime.behave("upload", "work")
        runtime.wait_for("upload")
        assert time.monotonic() - began_s < 30
    finally:
        runtime.close()


def test_what_a_person_stops_stays_stopped_and_starts_when_told(quick: Runtime) -> None:
    supervisor = Supervisor(quick.home.layout.supervisor_socket)
    supervisor.stop("upload", wait=True)
    looks = _sentinel(quick)["progress_boot_s"]
    eventually(lambda: _sentinel(quick)["progress_boot_s"] > looks + 3, 20, "the sentinel looked")
    assert quick.state("upload") == "STOPPED"
    supervisor.start("upload")
    quick.wait_for("upload")


def test_who_came_up_between_the_look_and_the_deed_is_not_stopped_for_good(quick: Runtime) -> None:
    """From a BACKOFF it was stopped, to be started: where it lived by then, it only was stopped."""
    pid = quick.pid("upload")
    sentinel = SentinelLoop(quick.home.config, Stop())
    for state in ("BACKOFF", "EXITED", "FATAL"):
        sentinel._perform(StartAgain("upload", state))
    assert quick.state("upload") in ("RUNNING", "STARTING")
    assert quick.pid("upload") == pid


IMPATIENT = "[sentinel]\nlook_every_s = 0.3\nhang_after_s = 2.5\n"
"""Stand-ins beat once a second."""
COLD_STARTS_S = 15.0
"""What others who share the machine add to a wait for a process."""


def test_where_none_works_and_one_hangs_for_ever_all_start_afresh_and_at_last_systemd_decides(
    folder: Path,
) -> None:
    """In one home for the first time, in the other after two fresh starts within the hour."""
    first, third = Home(folder / "a", IMPATIENT), Home(folder / "b", IMPATIENT)
    known = {"restarted_all_at_s": [time.monotonic(), time.monotonic()]}
    third.layout.status_file("sentinel").write_text(
        json.dumps({"boot_id": SystemClock().boot_id(), "memory": known})
    )
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        hanging = {**WORKING, "upload": "deadlock"}
        helped = Runtime(first, hanging)
        stack.callback(helped.close)
        helpless = Runtime(third, hanging, NOTIFY_SOCKET=str(folder / "notify"))
        stack.callback(helpless.close)
        for runtime in (helped, helpless):  # one that hangs costs others that work nothing
            for worker in ("ingest", "provisioning", "refresh"):
                Supervisor(runtime.home.layout.supervisor_socket, timeout_s=15).stop(worker)
        eventually(lambda: "restarting everything" in helped.log("sentinel"), 60, "all start afresh")
        assert helped.process.running(), "supervisord itself stayed"

        eventually(lambda: "nothing helped" in str(_sentinel(helpless).get("alarms")), 60, "the last step")
        assert ": restarting everything" not in helpless.log("sentinel"), "no third one within the hour"
        assert "WATCHDOG=1" in _heard(manager)
        looks = _sentinel(helpless)["progress_boot_s"]
        eventually(lambda: _sentinel(helpless)["progress_boot_s"] > looks + 1, 20, "the sentinel looks on")
        assert not _heard(manager), "the watchdog gets no more"


def _heard(manager: socket.socket) -> str:
    """What the service manager was told since the last time."""
    said = ""
    with contextlib.suppress(BlockingIOError):
        while True:
            said += manager.recv(4096).decode()
    return said


def _sentinel(runtime: Runtime) -> dict[str, Any]:
    path: Path = runtime.home.layout.status_file("sentinel")
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _restarts(runtime: Runtime) -> dict[str, int]:
    found = _sentinel(runtime).get("restarts")
    return found if isinstance(found, dict) else {}


def _idle_s(runtime: Runtime, worker: str) -> float:
    return time.time() - runtime.home.layout.status_file(worker).stat().st_mtime
