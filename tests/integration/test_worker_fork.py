"""A worker that is forked from supervisord finds what it would find after an exec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.adapters.supervisor import worker_fork
from runtime.adapters.supervisor.internals import ChildEvent, RunningSupervisord
from runtime.adapters.supervisor.worker_fork import WorkerFork
from runtime.layout import PROGRAMS
from tests.support.harness import Home, clean_environment
from tests.support.supervised import Runtime

SEEN = """
import json, os, random, signal, socket, sys, tempfile, threading
def main():
    lines = open("/proc/self/status").read().splitlines()
    status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
    streams = sys.stdin, sys.stdout, sys.stderr
    seen = {
        "descriptors": sorted(set(os.listdir("/proc/self/fd")) - {str(os.open("/", os.O_RDONLY))}),
        "signals": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")},
        "handlers": [str(signal.getsignal(n)) for n in (2, 1, 14, 15, 17)],
        "wakeup": signal.set_wakeup_fd(-1),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "arguments": sys.argv,
        "environment": {k: v for k, v in os.environ.items() if k != "LC_CTYPE"},
        "child's": os.popen("echo $MINE $THEIRS").read(),
        "command": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0")[-3:],
        "name": open("/proc/self/comm").read(),
        "streams": [(s.encoding, s.errors, s.line_buffering, s.write_through) for s in streams],
        "buffers": [(type(s.buffer).__name__, s.fileno()) for s in streams],
        "same": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "temporary": tempfile.gettempdir(),
        "umask": os.umask(0),
        "folder": os.getcwd(),
        "threads": threading.active_count(),
    }
    print(json.dumps(seen))
    print(random.random())
    os.write(2, b"a line of stderr\\n")
    raise SystemExit(7)
"""

SUPERVISORD = """
import os, random, signal, socket, sys, tempfile
from types import SimpleNamespace
from runtime.adapters.supervisor import loop, worker_fork
sys.path.insert(0, sys.argv[1])
import seen
worker_fork.SHARED = ()
forks = worker_fork.WorkerFork()
loop.signal_safe_fork()
for number in (*loop.HANDLED_SIGNALS, signal.SIGALRM):
    signal.signal(number, lambda *_: None)
reader, writer = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writer)
signal.setitimer(signal.ITIMER_REAL, 1000.0)
kept = [socket.socket(socket.AF_UNIX), os.dup2(1, 90), open("/proc/self/status")]
garbage = [socket.socket(socket.AF_UNIX)]
garbage.append(garbage)
del garbage
tempfile.tempdir = "/nowhere"
random.seed(7)
os.environ["THEIRS"] = "not for the worker"
program = os.path.join(os.path.dirname(sys.executable), "edgectl")
environment = {k: v for k, v in os.environ.items() if k != "THEIRS"} | {"MINE": "yes"}
worker_fork.importlib = SimpleNamespace(import_module=lambda name: seen)
sys.stdout.write("of supervisord, and never flushed by a child")
for how in ("forked", "executed", "forked"):
    pid = os.fork()
    if pid == 0:
        out = os.open(os.path.join(sys.argv[1], how), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1), os.dup2(out, 2)
        os.chdir("/")
        os.umask(0o027)
        if how == "forked":
            forks.run(program, [program, "worker", "ingest"], environment)
        code = f"import sys; sys.path.insert(0, {sys.argv[1]!r}); import seen; "
        code += f"sys.argv = [{program!r}, 'worker', 'ingest']; seen.main()"
        os.set_inheritable(90, False)
        os.closerange(3, 90)
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr)
sys.stdout.flush()
"""


def test_a_forked_worker_finds_what_it_would_find_after_an_exec(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    done = subprocess.run(
        [sys.executable, "-P", "-c", SUPERVISORD, str(tmp_path)],
        capture_output=True, text=True, timeout=60, env=clean_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stderr.split() == ["7", "7", "7"], done.stderr
    assert done.stdout == "of supervisord, and never flushed by a child"
    (found, again), draws, said = _sorted((tmp_path / "forked").read_text())
    (expected,), _, _ = _sorted((tmp_path / "executed").read_text())
    assert (found.pop("command"), found.pop("name")) == (found["arguments"], "edgectl\n")
    del expected["command"], expected["name"]
    assert found == expected
    assert said == ["a line of stderr"] * 2 and again["descriptors"] == expected["descriptors"]
    assert len(set(draws)) == 2, "each has random numbers of its own"


def _sorted(output: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """What was seen, the random numbers, and what came on stderr, of a buffered and an unbuffered stream."""
    lines = output.splitlines()
    seen = [json.loads(line) for line in lines if line.startswith("{")]
    return seen, [line for line in lines if line[0].isdigit()], [line for line in lines if "stderr" in line]


def supervisord(tmp_path: Path) -> tuple[RunningSupervisord, list[str]]:
    warnings: list[str] = []
    logger = SimpleNamespace(warn=warnings.append, critical=warnings.append)
    return RunningSupervisord(
        SimpleNamespace(options=SimpleNamespace(here=str(tmp_path), logger=logger))
    ), warnings


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> WorkerFork:
    monkeypatch.setattr(worker_fork, "_preload", lambda: "")
    monkeypatch.setattr(worker_fork, "_threads", lambda: 1)
    return WorkerFork()


STARTING = ChildEvent("ingest", 0, 2)
OURS = str(Path(sys.executable).with_name("edgectl"))


def test_what_a_fork_cannot_give_is_executed(forks: WorkerFork, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` returns: it would end this process otherwise."""
    here: dict[str, str] = dict(os.environ)
    for program, argv, environment in (
        ("/usr/bin/edgectl", ["edgectl", "worker", "ingest"], here),
        (OURS, ["edgectl", "worker", "another"], here),
        (OURS, ["edgectl", "status"], here),
        (OURS, ["edgectl", "worker", "ingest", "--help"], here),
        (OURS, ["edgectl", "worker", "ingest"], {**here, "PYTHONDEVMODE": "1"}),
        (OURS, ["edgectl", "worker", "ingest"], {**here, "LD_PRELOAD": "/lib/x.so"}),
        (OURS, ["edgectl", "worker", "ingest"], {**here, "TZ": "Asia/Tokyo"}),
    ):
        forks.run(program, argv, environment)
    monkeypatch.setattr(os, "getresuid", lambda: (1, 1, 1))
    forks.run(OURS, ["edgectl", "worker", "ingest"], here)


def test_an_installation_that_changed_is_said_once_and_workers_run_the_new_one(
    forks: WorkerFork, tmp_path: Path
) -> None:
    running, warnings = supervisord(tmp_path)
    forks.look(running)(STARTING)
    assert warnings == []
    forks.files[str(tmp_path / "removed.py")] = forks.files[worker_fork.__file__]
    for _ in range(2):
        forks.look(running)(STARTING)
    assert len(warnings) == 1 and "the installation has changed" in warnings[0]
    forks.run(OURS, ["edgectl", "worker", "ingest"], os.environ)


def test_a_thread_in_supervisord_ends_the_forks(
    forks: WorkerFork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, warnings = supervisord(tmp_path)
    monkeypatch.setattr(worker_fork, "_threads", lambda: 2)
    forks.look(running)(STARTING)
    assert warnings == ["workers start without shared memory: supervisord has more than one thread"]


def test_workers_of_a_real_runtime_share_memory_and_nothing_else(home: Home) -> None:
    runtime = Runtime(home)
    try:
        runtime.all_at_work()
        theirs = _open(runtime.process.pid)
        for name in PROGRAMS:
            if not (pid := runtime.pid(name)):
                continue  # optional
            command = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
            assert command == [sys.executable, OURS, "worker", name]
            assert Path(f"/proc/{pid}/comm").read_text() == "edgectl\n"
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            shared_kb = int(rollup.split("Shared_Dirty:")[1].split()[0])
            assert shared_kb > 5_000, "it was forked"
            common = {file for file in _open(pid) & theirs if "pipe:" not in file}
            assert common <= {"/dev/null"}, "nothing of supervisord's is open"
        assert "without shared memory" not in runtime.log("supervisord")
        before = runtime.pid("ingest")
        os.kill(before, 9)
        runtime.wait_for("ingest", other_than=before)
    finally:
        runtime.close()


def _open(pid: int) -> set[str]:
    files = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.add(str(link.readlink()))
        except OSError:
            continue
    return files
