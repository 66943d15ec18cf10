"""A folder is removed under a living runtime: of sockets by a cleaner of old files, of logs or the
state by a person."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from supervisor.states import SupervisorStates

from runtime.adapters.bus.sockets import STORED, Hints
from runtime.adapters.process.process import Stop, lock_holder
from runtime.adapters.process.status_file import read_status
from runtime.adapters.supervisor.internals import RunningSupervisord
from runtime.adapters.supervisor.plugin import SocketWatch
from runtime.layout import WORKERS
from runtime.producer import Producer
from runtime.workers import sentinel as sentinel_worker
from runtime.workers.sentinel import SentinelLoop
from tests.support.harness import Cloud, Home, eventually
from tests.support.supervised import PROGRAMS, WORKING, Runtime, kill
from tests.support.upload import backlog


def test_a_run_folder_removed_under_load_comes_back_by_itself_and_costs_no_message(
    device: Home, cloud: Cloud
) -> None:
    runtime = Runtime(device)
    over, acknowledged = threading.Event(), []

    def send() -> None:
        with Producer(device.config.producer_endpoint(), retry_for_s=60) as producer:
            while not over.is_set():
                producer.put(f"{len(acknowledged)}", stream="s")
                acknowledged.append(len(acknowledged))
                over.wait(0.02)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        eventually(cloud.approve_all, 40, "the device asks for approval")
        eventually(lambda: cloud.message_count() > 20, 40, "messages arrive")
        before = {name: program.pid for name, program in runtime.programs().items()}
        shutil.rmtree(device.layout.run.resolve())
        device.layout.producer_socket.unlink()

        eventually(lambda: len(runtime.programs()) == len(PROGRAMS), 30, "supervisord can be asked again")
        sockets = (*map(device.layout.hints_socket, WORKERS), device.layout.delivery_socket)
        eventually(lambda: all(path.exists() for path in sockets), 30, "every socket is there")
        for name, pid in before.items():
            assert runtime.wait_for(name, timeout_s=30) == pid, f"{name} did not have to start afresh"
        assert device.layout.supervisor_pid_file.read_text() == f"{runtime.process.pid}\n"
        assert device.layout.run.stat().st_mode & 0o777 == 0o700

        kill(before["upload"])  # the next one has to find everybody by the new paths
        runtime.wait_for("upload", other_than=before["upload"])
        assert _hears_of_messages(device)
        over.set()
        sender.join(60)
        eventually(lambda: backlog(device) == 0, 30, "what is delivered leaves the store")
        assert {int(message.payload) for message in cloud.messages()} == set(acknowledged)
    finally:
        over.set()
        sender.join(60)
        runtime.close()


def test_logs_and_state_removed_come_back_with_a_worker_that_dies_meanwhile_and_with_the_lock(
    home: Home,
) -> None:
    """supervisord opens a worker's log before it starts it: it would have tried for ever. And `edgectl down`
    said that nothing runs, and went."""
    home.write_config("[sentinel]\nlook_every_s = 0.2\n")
    runtime = Runtime(home, WORKING)
    try:
        runtime.all_at_work()
        eventually(runtime.all_running)
        before, sentinel = runtime.pid("upload"), runtime.pid("sentinel")
        shutil.rmtree(home.layout.log)
        shutil.rmtree(home.layout.state)
        kill(before)
        runtime.wait_for("upload", other_than=before, timeout_s=30)
        assert home.layout.log.stat().st_mode & 0o777 == 0o700
        runtime.behave("ingest", "crash")
        eventually(lambda: "about to crash" in runtime.log("ingest"), 20, "the others write there, too")
        lock = home.layout.lock("supervisor")
        eventually(lambda: lock_holder(lock) == runtime.process.pid, 20, "the lock is held again")
        assert runtime.pid("sentinel") == sentinel, "it looks how full the disk of the state is"
        assert home.edgectl("down").returncode == 0
        eventually(lambda: not runtime.process.running(), 20, "it has ended")
    finally:
        runtime.close()


@pytest.mark.parametrize("by", ["a folder", "another's socket", "a file"])
def test_a_supervisord_whose_socket_s_path_is_taken_is_found_again(by: str, folder: Path) -> None:
    """The sentinel heard nothing of it, and killed it as hung after 20 s."""
    path, words = folder / "run" / "supervisor.sock", []
    path.parent.mkdir()
    listening = [socket.socket(socket.AF_UNIX)]
    listening[0].bind(str(path))
    server = SimpleNamespace(
        close=lambda: listening.pop().close(), set_socket=listening.append, listen=lambda most: None
    )
    config = {"file": str(path), "chmod": 0o700}
    logger = SimpleNamespace(warn=words.append)
    options = SimpleNamespace(
        here=str(folder), logger=logger, write_pidfile=lambda: None,
        httpservers=[(config, server), ({"family": None}, None)],
    )  # fmt: skip
    watch = SocketWatch(RunningSupervisord(SimpleNamespace(options=options)))
    watch.remember(None)
    watch(None)
    assert words == [], "all is well"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        if by == "a folder":
            path.mkdir()
        elif by == "a file":
            path.touch()
        else:
            another.bind(str(path))
            another.listen()
        watch(None)
        watch(None)
    assert words == [f"{path} was taken; made again"]
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        listening[0].accept()[0].close()
    listening[0].close()


def test_a_sentinel_that_cannot_ask_says_so_and_kills_nobody_while_ticks_come(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker, sent = SentinelLoop(home.config, Stop()), []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(sentinel_worker, "notify_service_manager", sent.append)
    assert not any(looker.look(float(now_s), ticks=True) for now_s in range(0, 60, 5))
    assert all("WATCHDOG=1" in words for words in sent), "its ticks prove that it lives"
    (alarm,) = (read_status(home.layout.status_file("sentinel")) or {})["alarms"]
    assert alarm["worker"] == "supervisord" and "cannot be asked" in alarm["text"]


TWO = """
import os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from runtime.adapters.process.process import Lock, lock_holder
from runtime.adapters.supervisor.internals import RunningSupervisord
from runtime.adapters.supervisor.plugin import LockWatch

lock = Path(sys.argv[1]) / "state/supervisor.lock"
lock.parent.mkdir()
Lock(lock).keep_over_exec()
logger = SimpleNamespace(warn=print, critical=print)
options = SimpleNamespace(here=sys.argv[1], logger=logger, mood="on")
look = LockWatch(RunningSupervisord(SimpleNamespace(options=options)))
shutil.rmtree(lock.parent)
lock.parent.touch()
look(None)
print(options.mood)
lock.parent.unlink()
look(None)
print(lock_holder(lock) == os.getpid())
shutil.rmtree(lock.parent)
lock.parent.mkdir()
another = Lock(lock)
look(None)
print(options.mood)
"""


def test_of_two_runtimes_in_one_home_the_one_without_the_lock_ends_and_none_ends_for_want_of_a_disk(
    tmp_path: Path,
) -> None:
    """Two ingests would have written one store: state/ and run/ removed, and `edgectl up` at once."""
    told = subprocess.run(
        [sys.executable, "-c", TWO, str(tmp_path)], capture_output=True, text=True, timeout=20
    )
    gone, on, again, held, two, ends = told.stdout.splitlines()
    assert "cannot be made again" in gone
    assert on == "on"
    assert again.endswith("made again")
    assert held == "True"
    assert two.startswith("ending, for there would be two of us: supervisor already runs here")
    assert ends == str(SupervisorStates.SHUTDOWN)


def _hears_of_messages(home: Home) -> bool:
    """Whether somebody who starts to listen now hears ingest."""
    hints = Hints(home.layout, "listener", ("ingest",))
    try:
        return bool(eventually(lambda: STORED in hints.drain(), 20))
    finally:
        hints.close()
