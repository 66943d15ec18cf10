"""A folder is removed under a living runtime: of sockets by a cleaner of old files, of logs by a person."""

from __future__ import annotations

import shutil
import threading

from runtime.adapters.bus import STORED, Hints
from runtime.layout import WORKERS
from runtime.producer import Producer
from tests.harness import Cloud, Home, eventually
from tests.lines import backlog
from tests.supervised import PROGRAMS, WORKING, Runtime, kill


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
        shutil.rmtree(device.layout.run)
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


def test_a_log_folder_removed_comes_back_and_a_worker_that_dies_meanwhile_with_it(home: Home) -> None:
    """supervisord opens a worker's log before it starts it: it would have tried for ever."""
    runtime = Runtime(home, WORKING)
    try:
        runtime.all_at_work()
        eventually(lambda: all(p.state == "RUNNING" for p in runtime.programs().values()), 20)
        before = runtime.pid("upload")
        shutil.rmtree(home.layout.log)
        kill(before)
        runtime.wait_for("upload", other_than=before, timeout_s=30)
        assert home.layout.log.stat().st_mode & 0o777 == 0o700
        runtime.behave("ingest", "crash")
        eventually(lambda: "about to crash" in runtime.log("ingest"), 20, "the others write there, too")
    finally:
        runtime.close()


def _hears_of_messages(home: Home) -> bool:
    """Whether somebody who starts to listen now hears ingest."""
    hints = Hints(home.layout, "listener", ("ingest",))
    try:
        return bool(eventually(lambda: STORED in hints.heard(), 20))
    finally:
        hints.close()
