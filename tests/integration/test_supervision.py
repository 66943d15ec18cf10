"""What holds workers: locks, the tie to their parent, supervisord's socket, an orderly restart under load."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor import events
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from runtime.adapters.process.process import (
    Lock,
    Stop,
    has_open,
    lock_holder,
    open_descriptors,
    process_state,
)
from runtime.adapters.process.status_file import StatusFile, beat_of, read_status
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.supervisor.internals import bound_pause
from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.cli import up
from runtime.core.message import StoredMessage
from runtime.errors import Rejected, Retryable, UsageError
from runtime.producer import Producer
from runtime.setting_rule import LARGEST
from runtime.settings import keys
from runtime.workers.sentinel import SentinelLoop, descriptors_of, memory_of
from tests.support.harness import Home, clean_environment, eventually
from tests.support.supervised import PROGRAMS, WORKING, Runtime, gone, kill, stand_ins

SUPERVISORCTL = Path(sys.executable).parent / "supervisorctl"


def test_restarting_everything_under_load_loses_and_repeats_nothing_for_keyed_producers(home: Home) -> None:
    runtime = Runtime(home)
    try:
        runtime.wait_for("ingest")
        over, acknowledged = threading.Event(), []

        def send() -> None:
            with Producer(home.config.producer_endpoint(), retry_for_s=60) as producer:
                number = 0
                while not over.is_set():
                    producer.put(f"{number}", stream="s")
                    acknowledged.append(number)
                    number += 1

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(2):
            so_far = len(acknowledged)
            eventually(lambda n=so_far: len(acknowledged) > n + 50, 40, "messages flow")
            restart = subprocess.run(
                [str(SUPERVISORCTL), "-c", "supervisord.conf", "restart", "all"],
                cwd=home.folder, env={"PATH": os.environ["PATH"]}, capture_output=True, timeout=60,
            )  # fmt: skip
            assert restart.returncode == 0, restart.stdout
        over.set()
        sender.join(60)
        reader = StoreReader(home.layout.messages_db)
        stored = [m for m in reader.after(0, 1_000_000, 1 << 30) if isinstance(m, StoredMessage)]
        reader.close()
        assert [int(m.payload) for m in stored] == acknowledged
    finally:
        runtime.close()


def test_a_worker_that_died_does_not_wait_for_the_next_second_of_supervisord(home: Home) -> None:
    """Nobody asks supervisord meanwhile: each question would have its loop come round."""
    with stand_ins(home) as runtime:
        said = home.layout.log / "supervisord.log"
        for round in range(1, 4):
            eventually(lambda n=round: said.read_text().count("success: refresh entered RUNNING") >= n, 20)
            pid = beating(home, "refresh")
            kill(pid)
            eventually(lambda old=pid: beating(home, "refresh") not in (0, old), 20, "it is back")
        waits_s = respawns_s(said.read_text(), "refresh")
        assert runtime.process.running()
    assert len(waits_s) == 3
    assert min(waits_s) < 0.4, waits_s  # a round of its loop takes a second


def beating(home: Home, worker: str) -> int:
    """The process that wrote the worker's status."""
    return int(str((read_status(home.layout.status_file(worker)) or {}).get("pid", 0)))


def respawns_s(log: str, program: str) -> list[float]:
    """From each end of the program to its next start, as supervisord's log has them."""
    found, ended = [], None
    for line in log.splitlines():
        at = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")
        if f"exited: {program} " in line:
            ended = at
        elif f"spawned: '{program}'" in line and ended is not None:
            found.append((at - ended).total_seconds())
    return found


def test_the_sentinel_counts_descriptors_and_what_select_takes_is_the_limit_of_all_but_ingest() -> None:
    """paho waits with select(): a leak beyond 1,024 stopped delivery however high the limit was."""
    before, _ = open_descriptors(os.getpid()) or (0, 0)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(Path(os.devnull).open())
        count, limit = open_descriptors(os.getpid()) or (0, 0)
        assert count == before + 50
        assert descriptors_of(Program("upload", "RUNNING", os.getpid(), "")) >= count / min(limit, 1024)
        assert descriptors_of(Program("ingest", "RUNNING", os.getpid(), "")) == pytest.approx(
            count / limit, 0.1
        )
    assert descriptors_of(Program("upload", "BACKOFF", 0, "")) == 0


def test_a_second_worker_of_a_kind_refuses_and_names_the_first(home: Home) -> None:
    first = home.start_worker("refresh")
    eventually(lambda: lock_holder(home.layout.lock("refresh")) == first.pid, 30)
    second = home.edgectl("worker", "refresh")
    assert second.returncode == 2
    assert f"process {first.pid} holds" in second.stderr
    assert first.running()


@pytest.mark.parametrize("end", ["low", "high"])
def test_a_number_that_passes_its_check_ends_no_worker(end: str, home: Home) -> None:
    """A payload limit beyond SQLite's, a memory of 1e20 bytes: they passed, and ingest ended by them."""
    numbers = [key for key in keys() if type(key.default) in (int, float)]
    limits = {key.dotted: getattr(key.rule, end) for key in numbers}
    values = {name: (LARGEST if end == "high" else 0) if v is None else v for name, v in limits.items()}
    values["ingest.memory_bytes"] = max(values["ingest.memory_bytes"], 1_048_576)
    home.write_config("".join(f"{name} = {value}\n" for name, value in values.items()))
    home.start_all()
    for name, worker in home.workers.items():
        status = home.layout.status_file(name)
        eventually(lambda s=status, w=worker: beat_of(s, w.pid) or not w.running(), 40, f"{name} beats")
        assert worker.running(), worker.said()
    assert (read_status(home.layout.status_file("ingest")) or {})["store"] == "open"


def test_a_lock_outlives_no_process_and_needs_no_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom runtime.adapters.process.process import Lock\n"
        "lock = Lock(Path(sys.argv[1]))\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], env=clean_environment())
    eventually(lambda: lock_holder(path) == holder.pid, 20)
    assert has_open(holder.pid, path)
    with pytest.raises(UsageError, match=str(holder.pid)):
        Lock(path)
    holder.kill()
    holder.wait()
    assert lock_holder(path) is None
    Lock(path).release()


def test_looking_who_holds_a_lock_never_keeps_a_worker_from_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    Lock(path).release()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            lock_holder(path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(50):
            Lock(path).release()
    finally:
        over.set()
        looker.join()


def test_a_worker_whose_supervisor_died_before_it_could_ask_leaves_at_once(home: Home) -> None:
    worker = home.start_worker("refresh", SUPERVISOR_ENABLED="1", SUPERVISOR_PID="1")  # not our parent
    assert worker.popen.wait(30) == 1
    assert lock_holder(home.layout.lock("refresh")) is None


def test_a_pid_file_of_an_earlier_supervisord_sends_no_worker_away(home: Home) -> None:
    """A supervisord.conf of the operator's own may write none: nobody stayed, and no log said why."""
    home.layout.supervisor_pid_file.write_text("1\n")
    supervised: dict[str, Any] = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PID": str(os.getpid())}
    worker = home.start_worker("refresh", **supervised)
    eventually(lambda: home.layout.status_file("refresh").exists() or not worker.running(), 30)
    assert worker.running()


def test_a_worker_dies_with_its_parent(home: Home) -> None:
    script = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'runtime', '--home', sys.argv[1], 'worker', 'refresh']\n"
        "child = subprocess.Popen(command)\n"
        "time.sleep(120)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(home.folder)], env=clean_environment())
    worker = eventually(lambda: lock_holder(home.layout.lock("refresh")), 30)
    eventually(lambda: home.layout.status_file("refresh").exists(), 30, "it is at work")
    parent.kill()
    parent.wait()
    eventually(lambda: worker is not None and gone([worker]), 5, "the worker is gone")


def test_a_worker_writes_the_stacks_of_its_threads_to_its_log_when_asked(home: Home) -> None:
    worker = home.start_worker("refresh")
    eventually(lambda: home.layout.status_file("refresh").exists(), 30)
    worker.signal(signal.SIGUSR1)
    eventually(lambda: "most recent call first" in worker.said(), 10)
    assert worker.running()
    worker.signal(signal.SIGSTOP)
    eventually(lambda: process_state(worker.pid) == "stopped", 5)


def test_a_crash_of_a_worker_leaves_no_core_file_with_tokens_in_it(home: Home) -> None:
    worker = home.start_worker("refresh")
    eventually(lambda: read_status(home.layout.status_file("refresh")))
    assert resource.prlimit(worker.pid, resource.RLIMIT_CORE) == (0, 0)


def test_a_supervisord_that_does_not_answer_costs_its_deadline_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.sock"
    with pytest.raises(Retryable):
        Supervisor(path, timeout_s=0.3).programs()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        began_s = time.monotonic()
        with pytest.raises(Retryable):
            Supervisor(path, timeout_s=0.3).programs()
        assert time.monotonic() - began_s < 3


def test_a_dead_worker_is_replaced_at_once_and_not_at_supervisord_s_next_look_also_after_a_reload(
    home: Home,
) -> None:
    """supervisord looks once a second, and at the look after that starts whom it found dead."""
    runtime = Runtime(home, WORKING)
    try:
        runtime.all_at_work()
        assert min(_replaced_after_s(runtime, worker) for worker in WORKING) < 0.5
        eventually(lambda: _open_files(runtime) == AT_REST, 10, "no life of a worker left a descriptor")
        before = runtime.pid("ingest")
        runtime.process.signal(signal.SIGHUP)
        runtime.wait_for("ingest", other_than=before)
        runtime.all_at_work()
        assert min(_replaced_after_s(runtime, worker) for worker in WORKING) < 0.5
        eventually(lambda: _open_files(runtime) == AT_REST, 10, "the life before left no descriptor")
    finally:
        runtime.close()


def _replaced_after_s(runtime: Runtime, worker: str) -> float:
    """Seconds until supervisord has as many children as before; whoever asks it would wake it."""
    eventually(lambda: runtime.state(worker) == "RUNNING")
    there = _children(runtime)
    began_s = kill(runtime.pid(worker))
    eventually(lambda: len(_children(runtime) - there) == 1, 20)
    return time.monotonic() - began_s


def _children(runtime: Runtime) -> set[str]:
    pid = runtime.process.pid
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


AT_REST = Counter(
    {
        "null": 1,
        "up.log": 2,
        "supervisor.lock": 1,
        "supervisord.log": 1,
        "socket": 1,
        "pipe": 2 + 3 + 2 * len(WORKING),  # what wakes it; the sentinel's, with stderr; the workers'
        **{f"{program}.log": 1 for program in PROGRAMS},
    }
)
"""All that supervisord has open while it starts nobody and answers nobody: more is a leak.

Not a count of our own: where a worker is just born its ends of the pipes are counted as well.
"""


def _open_files(runtime: Runtime) -> Counter[str]:
    links = []
    for descriptor in Path(f"/proc/{runtime.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(descriptor.readlink())
    return Counter(link.name.partition(":")[0] for link in links)


def test_whoever_dies_at_every_start_is_tried_again_every_30_s_and_not_more_rarely_each_time() -> None:
    """The pauses of supervisord grow for ever: the sentinel's own, after a bad night, were minutes."""
    process = Subprocess(SimpleNamespace(name="x"))
    events.subscribe(events.ProcessStateBackoffEvent, bound_pause)
    try:
        for _ in range(100):
            process.state = ProcessStates.STARTING
            process.change_state(ProcessStates.BACKOFF)
            assert process.delay <= time.time() + 30
    finally:
        events.unsubscribe(events.ProcessStateBackoffEvent, bound_pause)
    assert process.delay > time.time() + 29


def test_a_log_due_to_roll_over_on_a_full_disk_costs_lines_and_not_supervisord(tmp_path: Path) -> None:
    """The disk is a limit to what a file may hold, in a process of its own; its stderr is full, too."""
    script = """
import os, resource, sys
from supervisor import loggers
from runtime.adapters.supervisor.internals import make_logs_reliable
make_logs_reliable()
with open(sys.argv[1], "wb") as log:
    log.write(bytes(9000))
handler = loggers.RotatingFileHandler(sys.argv[1], maxBytes=10000, backupCount=1)
handler.setFormat("%(message)s")
handler.setLevel(0)
logger = loggers.Logger(0, [handler])
sys.stderr = open("/dev/full", "w", buffering=1)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, most))
for _ in range(300):
    logger.info("y" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
for word in ("room", "again"):
    logger.info(word)
os._exit(0)  # without a last word to stderr
"""
    log = tmp_path / "x.log"
    subprocess.run([sys.executable, "-c", script, str(log)], check=True, timeout=20)
    assert "again" in log.read_text()


def test_what_supervisord_refuses_is_told_apart_from_silence(home: Home) -> None:
    runtime = Runtime(home, WORKING)
    try:
        with pytest.raises(Rejected, match="ALREADY_STARTED"):
            Supervisor(home.layout.supervisor_socket).start("ingest")
        with pytest.raises(Rejected, match="BAD_NAME"):
            Supervisor(home.layout.supervisor_socket).start("nobody")
    finally:
        runtime.close()


def test_a_supervisord_that_shuts_down_refuses_and_is_not_killed_for_silence(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_supervisor: object) -> None:
        raise Rejected("supervisord refuses getAllProcessInfo: SHUTDOWN_STATE", code="SHUTDOWN_STATE")

    monkeypatch.setattr(Supervisor, "programs", refuse)
    looker, sent = SentinelLoop(home.config, Stop()), []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    assert all(looker.look(float(now_s)) for now_s in range(0, 60, 5))
    assert sent == []


def test_nobody_is_signalled_by_a_number_of_another_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes have other numbers: the one in the lock of a shared folder means somebody else here."""
    path, sent = tmp_path / "supervisor.lock", []
    lock = Lock(path)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))
    for named in (os.getppid(), os.getpid()):
        path.write_text(f"{named}\n")
        up.signal_process(path, "SIGKILL")
    lock.release()
    assert sent == [os.getpid()], "who has the lock open"


@pytest.mark.parametrize("supervisor", ["same", "another", "of another boot"])
def test_a_sentinel_takes_over_what_still_holds_and_no_more(supervisor: str, home: Home) -> None:
    """Under another supervisord everybody is another process: none of them was restarted."""
    memory = {"restarted_all_at_s": [5.0], "watches": {"upload": {"pid": 7, "restarts": 3}}}
    pid = os.getppid() + (supervisor == "another")
    words = {"memory": memory, "supervisor_pid": pid}
    StatusFile(home.layout.status_file("sentinel"), "sentinel").progress(
        {**words, "boot_id": "another"} if supervisor == "of another boot" else words, now=True
    )
    left = {"same": memory, "another": {"restarted_all_at_s": [5.0]}, "of another boot": {}}
    assert memory_of(home.layout) == left[supervisor]
