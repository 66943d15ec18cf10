"""`edgectl up` and `down`: one runtime a home, nothing left behind, nothing that needs a hand."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.process import MOST_FILES, has_open, lock_holder, process_state
from runtime.adapters.process.status_file import read_status
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.operations.deidentify import clear
from tests.support.harness import Home, Process, eventually, kill_tree
from tests.support.supervised import PROGRAMS, SHIPPED, WORKING, Runtime, gone, kill


@pytest.fixture
def runtime(home: Home) -> Iterator[Runtime]:
    running = Runtime(home, WORKING)
    try:
        yield running
    finally:
        running.close()


def test_the_shipped_file_is_linked_into_the_home_and_every_program_comes_up(home: Home) -> None:
    runtime = Runtime(home)
    try:
        assert home.layout.supervisord_conf.readlink() == SHIPPED
        assert set(runtime.programs()) == set(PROGRAMS)
        assert (home.layout.state / "machine.json").exists(), "a copy of it would be noticed"
        runtime.wait_for("sentinel")
        core = resource.prlimit(runtime.process.pid, resource.RLIMIT_CORE)
        assert core == (0, 0), "tokens in the environment are in no core file of supervisord's"
    finally:
        runtime.close()


def test_no_file_is_open_to_others_even_in_a_home_that_is(home: Home) -> None:
    """Folders that somebody made by hand stay as they are."""
    for folder in (home.layout.state, home.layout.run, home.layout.log):
        folder.chmod(0o755)
    before = os.umask(0o022)
    try:
        runtime = Runtime(home)
    finally:
        os.umask(before)
    try:
        runtime.all_at_work()
        files = [f for d in (home.layout.state, home.layout.run, home.layout.log) for f in d.iterdir()]
        assert {"messages.db", "upload.log", "supervisord.pid"} <= {file.name for file in files}
        assert [file for file in files if file.lstat().st_mode & 0o077] == []
    finally:
        runtime.close()
    eventually(
        lambda: not any(lock_holder(home.layout.lock(name)) for name in PROGRAMS), 20, "all have ended"
    )
    assert clear(home.layout).left == [], "it knows every file that a runtime makes"


def test_supervisorctl_needs_nothing_but_the_folder(runtime: Runtime) -> None:
    answer = subprocess.run(
        [shutil.which("supervisorctl", path=str(Path(sys.executable).parent)) or "supervisorctl",
         "-c", "supervisord.conf", "pid"],
        cwd=runtime.home.folder, env={}, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert answer.stdout.strip() == str(runtime.process.pid)


def test_a_second_up_on_the_same_home_refuses_in_one_clear_sentence(runtime: Runtime) -> None:
    second = runtime.home.edgectl("up")
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"already runs in {runtime.home.folder} (process {runtime.process.pid})" in second.stderr
    assert runtime.process.running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_within_ten_seconds_and_leaves_nothing(
    runtime: Runtime, number: signal.Signals
) -> None:
    for worker in WORKING:
        runtime.wait_for(worker)
    pids = runtime.all_pids()
    assert len(pids) == 1 + len(PROGRAMS)
    runtime.process.signal(number)
    assert runtime.process.popen.wait(10) == 0
    assert gone(pids)
    assert not runtime.home.layout.supervisor_socket.exists()


def test_a_signal_in_the_moment_of_the_start_is_not_lost_to_children_that_are_not_yet_workers(
    home: Home,
) -> None:
    """They got it as supervisord's own, took note, and forgot it: 8 s later everybody was killed."""
    up = Process(
        sys.executable, "-m", "runtime", "--home", str(home.folder), "up", log=home.folder / "up.log"
    )
    try:
        eventually(home.layout.supervisor_pid_file.exists, 40, "supervisord hears signals")
        began_s = time.monotonic()
        assert up.terminate() == 0
        assert time.monotonic() - began_s < 5
        assert "SIGKILL" not in up.said()
    finally:
        up.close()


def test_down_returns_when_all_is_gone_and_is_content_where_nothing_runs(runtime: Runtime) -> None:
    pids = runtime.all_pids()
    assert runtime.home.edgectl("down").returncode == 0
    assert gone(pids)
    again = runtime.home.edgectl("down")
    assert (again.returncode, again.stdout) == (0, f"nothing runs in {runtime.home.folder}\n")


def test_down_ends_even_a_supervisord_that_hangs(runtime: Runtime) -> None:
    pids = runtime.all_pids()
    kill(runtime.process.pid, signal.SIGSTOP)
    assert runtime.home.edgectl("down", timeout_s=60).returncode == 0
    eventually(lambda: gone(pids), 5)


def test_supervisord_killed_takes_its_workers_along_and_the_next_one_comes_up_by_itself(
    runtime: Runtime,
) -> None:
    for worker in WORKING:
        runtime.wait_for(worker)
    pids = runtime.all_pids()
    runtime.process.kill()
    eventually(lambda: gone(pids), 5, "no orphan is left")
    assert lock_holder(runtime.home.layout.lock("supervisor")) is None
    assert runtime.home.layout.supervisor_socket.exists(), "the test wants a stale socket"
    runtime.start()
    for worker in WORKING:
        runtime.wait_for(worker)


def test_a_reload_by_sighup_keeps_the_lock_and_workers_know_their_supervisor(runtime: Runtime) -> None:
    before = runtime.wait_for("upload")
    runtime.process.signal(signal.SIGHUP)
    upload = runtime.wait_for("upload", other_than=before)
    told = Path(f"/proc/{upload}/environ").read_bytes().split(b"\0")
    assert f"SUPERVISOR_PID={runtime.process.pid}".encode() in told
    assert lock_holder(runtime.home.layout.lock("supervisor")) == runtime.process.pid
    assert runtime.home.edgectl("up").returncode == 2


def test_workers_do_not_hold_the_lock_of_their_supervisor(runtime: Runtime) -> None:
    pid = runtime.wait_for("upload")
    assert not has_open(pid, runtime.home.layout.lock("supervisor"))
    assert has_open(pid, runtime.home.layout.lock("upload"))


def test_an_operators_own_supervisord_conf_stays(runtime: Runtime) -> None:
    assert not runtime.home.layout.supervisord_conf.is_symlink()
    assert "instead of the shipped one" in runtime.process.said()


@pytest.mark.parametrize(
    ("said", "instead", "reason"),
    [
        ("run/supervisor.sock", "run/other.sock", "must say file=%(here)s/run/supervisor.sock"),
        ("startsecs=2", "startsecs=two%(ENV_EDGE_HOME)s", "invalid literal for int() with base 10: 'two/"),
    ],
)
def test_a_supervisord_conf_under_which_nothing_would_last_is_refused_in_one_sentence(
    said: str, instead: str, reason: str, home: Home
) -> None:
    """One that listens elsewhere: the sentinel took that for a hang, and killed supervisord every 20 s."""
    home.layout.supervisord_conf.write_text(SHIPPED.read_text().replace(said, instead))
    refused = home.edgectl("up")
    assert refused.returncode == 2 and reason in refused.stderr.splitlines()[-1]


def test_a_home_that_supervisord_cannot_spell_is_refused(folder: Path) -> None:
    home = Home(folder / "50%")
    refused = home.edgectl("up")
    assert refused.returncode == 2
    assert "contains '%'" in refused.stderr


def test_a_folder_where_supervisord_has_to_listen_is_named(home: Home) -> None:
    """It tried to unlink it, again and again, and said so ten times a second."""
    home.layout.supervisor_socket.mkdir()
    refused = home.edgectl("up")
    assert refused.returncode == 2 and "supervisor.sock is a folder" in refused.stderr


def test_the_service_manager_hears_that_we_are_ready_and_goes_on_hearing_of_us(home: Home) -> None:
    address = home.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(30)
        home.write_config("[sentinel]\nlook_every_s = 0.2\n")
        runtime = Runtime(home, WORKING, NOTIFY_SOCKET=str(address))
        try:
            first = manager.recv(4096).decode()
            assert "READY=1" in first and "WATCHDOG=1" in first
            second = manager.recv(4096).decode()
            assert "READY=1" not in second and "WATCHDOG=1" in second
            before = runtime.wait_for("sentinel")
            Supervisor(home.layout.supervisor_socket).stop("sentinel", wait=True)
            Supervisor(home.layout.supervisor_socket).start("sentinel")
            runtime.wait_for("sentinel", other_than=before)
            heard = ""
            while "READY=1" not in heard:  # from the second sentinel
                heard += manager.recv(4096).decode()
            assert "STOPPING" not in heard, "systemd would end all of us when its patience is over"
        finally:
            runtime.close()


BARE = 'mkdir gone; cd gone; rmdir ../gone; ulimit -n 512; exec "$@" <&- >&- 2>&-'


def test_an_ordinary_user_with_few_descriptors_and_none_open_in_a_folder_that_is_gone_starts_it(
    home: Home,
) -> None:
    """`ulimit -n 512`: supervisord asks for 1,024 before it has read what we say."""
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us make a user namespace")
    up = Process(
        "unshare", "-Ur", "sh", "-c", BARE, "sh",
        sys.executable, "-m", "runtime", "--home", str(home.folder), "up",
        log=home.folder / "up.log", cwd=home.folder,
    )  # fmt: skip
    try:
        eventually(home.layout.status_file("sentinel").exists, 40, "the sentinel is at work")
    finally:
        kill_tree(up.pid)
        up.close()


def test_a_relative_path_of_the_environment_means_the_same_file_to_every_worker(home: Home) -> None:
    """It hung on the folder in which `edgectl up` was called, or that of each command."""
    here = home.folder / "here"
    here.mkdir()
    relative = {"EDGE_PLATFORM_CA_FILE": "ca.pem", "EDGE_CONFIG": "../edge.toml"}
    up = Process(
        sys.executable, "-m", "runtime", "--home", str(home.folder), "up",
        log=home.folder / "up.log", cwd=here, **relative,
    )  # fmt: skip
    try:
        upload = eventually(lambda: read_status(home.layout.status_file("upload")), 40, "upload is at work")
        told = Path(f"/proc/{upload['pid']}/environ").read_bytes().split(b"\0")
        assert f"EDGE_PLATFORM_CA_FILE={here}/ca.pem".encode() in told
        assert Path(f"/proc/{upload['pid']}/cwd").readlink() == home.folder
    finally:
        kill_tree(up.pid)
        up.close()


def test_every_worker_may_open_as_many_files_as_we_may(home: Home) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(MOST_FILES, MOST_FILES if hard == resource.RLIM_INFINITY else hard)
    low = ["sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh"]
    up = Process(
        *low, sys.executable, "-m", "runtime", "--home", str(home.folder), "up", log=home.folder / "up.log"
    )
    try:
        eventually(lambda: read_status(home.layout.status_file("upload")), 40, "upload is at work")
        pid = int((read_status(home.layout.status_file("upload")) or {})["pid"])
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == most
    finally:
        kill_tree(up.pid)
        up.close()


ORPHANS = """
[program:orphans]
command=sh -c "(sleep 0.2; exit 3) & (sleep 0.3) & (sleep 0.4) &"
startsecs=0
autorestart=false
"""


def test_as_first_process_of_a_container_it_collects_the_dead_and_stops_everybody_in_order(
    folder: Path,
) -> None:
    """What a container engine does: it starts us as process 1, and ends us with SIGTERM."""
    if subprocess.run(["unshare", "-Urpf", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us make a pid namespace")
    home = Home(folder / "home")
    home.layout.supervisord_conf.write_text(SHIPPED.read_text() + ORPHANS)
    engine = subprocess.Popen(
        ["unshare", "-Urpf", "--mount-proc", "--kill-child", sys.executable, "-m", "runtime",
         "--home", str(home.folder), "up"],
        stdout=(folder / "up.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    log = home.layout.log / "supervisord.log"
    try:
        pid_file = home.layout.supervisor_pid_file
        eventually(pid_file.exists, 30, "supervisord is up")
        assert pid_file.read_text().strip() == "1"
        first = int(Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text())
        eventually(lambda: log.read_text().count("reaped unknown pid") == 3, 30, "orphans are collected")
        assert not _zombies(first)
        for program in PROGRAMS:
            eventually(home.layout.status_file(program).exists, 30, f"{program} is at work")
        kill(first, signal.SIGTERM)
        assert engine.wait(20) == 0
        stopped = re.findall(r"stopped: (\w+)", log.read_text())
        assert stopped == ["upload", "refresh", "provisioning", "ingest", "sentinel"]
    finally:
        engine.kill()
        engine.wait()


def test_orphans_of_a_worker_are_collected_by_whoever_they_fall_to(home: Home) -> None:
    """As above where no namespace can be had: orphans go also to a process that asks the kernel for them."""
    home.layout.supervisord_conf.write_text(SHIPPED.read_text().partition("[eventlistener:")[0] + ORPHANS)
    as_init = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.executable, sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        as_init,
        sys.executable,
        "-m",
        "runtime",
        "--home",
        str(home.folder),
        "up",
    ]
    up = Process(*command, log=home.folder / "up.log")
    log = home.layout.log / "supervisord.log"
    try:
        eventually(lambda: log.exists() and log.read_text().count("reaped unknown pid") == 3, 30)
        assert not _zombies(up.pid)
        assert up.terminate(20) == 0
    finally:
        kill_tree(up.pid)
        up.close()


def _zombies(parent: int) -> list[int]:
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [pid for pid in children if process_state(pid) == "dead"]
