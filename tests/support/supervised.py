"""A whole runtime under a real supervisord, for tests of supervision."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.errors import EdgeError
from runtime.layout import OPTIONAL_WORKERS, WORKERS
from runtime.workers.refresh import TURN_S
from tests.support.harness import Home, Process, eventually, kill_tree

PROGRAMS = (*WORKERS, "sentinel")
PATIENCE_S = 15.0
"""A supervisord that starts five programs on a busy machine answers late: that is not "nobody runs"."""
SHIPPED = Path(__file__).parents[2] / "supervisord.conf"

HANG_AFTER_S = 2 * TURN_S
"""A worker with nothing to do beats once a turn: with less patience the sentinel kills the healthy."""
QUICK = f"""
[sentinel]
look_every_s = 0.3
hang_after_s = {HANG_AFTER_S}
"""
"""Limits shrunk so that the rare arrives at once."""


INSIDE: dict[str, Any] = {"PYTHONPATH": str(Path(__file__).parent / "inside")}
"""The environment of processes that can be deadlocked."""
DEADLOCK = signal.SIGRTMIN + 1
"""Of such a process the main thread then waits for itself, for good."""
SELF_LOCKED = "in _deadlock"
"""Then in a dump of its stacks."""

WORKING = dict.fromkeys(WORKERS, "work")
"""A stand-in for each worker."""


def switched_on(programs: dict[str, Program]) -> dict[str, Program]:
    """The programs without those that no setting switches on."""
    off = {n for n, program in programs.items() if n in OPTIONAL_WORKERS and program.state == "STOPPED"}
    return {name: program for name, program in programs.items() if name not in off}


class Runtime:
    """`edgectl up` on a home. `behaviours` puts tests/support/fake_worker.py in the place of a worker."""

    def __init__(self, home: Home, behaviours: Mapping[str, str] | None = None, **environment: Any) -> None:
        self.home = home
        self._environment = environment
        for worker, behaviour in (behaviours or {}).items():
            self.behave(worker, behaviour)
        if behaviours:
            home.layout.supervisord_conf.write_text(_with_stand_ins(list(behaviours)))
        self.start()

    def start(self) -> None:
        self.process = Process(
            sys.executable, "-m", "runtime", "--home", str(self.home.folder), "up",
            log=self.home.folder / "up.log", **self._environment,
        )  # fmt: skip
        eventually(lambda: self.programs() or not self.process.running(), 40, "supervisord answers")
        assert self.process.running(), self.process.said()

    def all_at_work(self) -> None:
        """Return when every program beats."""
        for program in PROGRAMS:
            self.wait_for(program)

    def behave(self, worker: str, behaviour: str) -> None:
        """From its next turn on the stand-in does so."""
        (self.home.folder / f"{worker}.behaviour").write_text(behaviour)

    def programs(self, patience_s: float = PATIENCE_S) -> dict[str, Program]:
        """What supervisord says, but for optional programs that are off; nothing where it does not answer."""
        try:
            return switched_on(
                Supervisor(self.home.layout.supervisor_socket, timeout_s=patience_s).programs()
            )
        except EdgeError:
            return {}

    def state(self, program: str) -> str:
        """What supervisord calls the state of a program; nothing where it does not answer."""
        found = self.programs().get(program)
        return found.state if found else ""

    def pid(self, program: str) -> int:
        """The process of a program that lives, else 0."""
        found = self.programs().get(program)
        return found.pid if found and found.state in ("RUNNING", "STARTING") else 0

    def wait_for(self, program: str, *, other_than: int = 0, timeout_s: float = 40) -> int:
        """Wait until the program beats, as another process than `other_than`; its pid."""

        def back() -> int:
            pid = self.pid(program)
            return pid if pid != other_than and self.beats(program, pid) else 0

        return eventually(back, timeout_s, f"{program} is in service")

    def all_running(self) -> bool:
        """Whether every program stands for so long that its death would not pass for a failed start."""
        programs = self.programs()
        return all(name in programs and programs[name].state == "RUNNING" for name in PROGRAMS)

    def beats(self, program: str, pid: int) -> bool:
        from runtime.adapters.process.status_file import beat_of

        return pid != 0 and beat_of(self.home.layout.status_file(program), pid) is not None

    def log(self, program: str) -> str:
        return (self.home.layout.log / f"{program}.log").read_text(errors="replace")

    def all_pids(self) -> list[int]:
        return [self.process.pid, *(p.pid for p in self.programs().values() if p.pid)]

    def close(self) -> None:
        kill_tree(self.process.pid)
        self.process.close()


@contextlib.contextmanager
def stand_ins(home: Home, toml: str = "") -> Iterator[Runtime]:
    """A runtime under this configuration, with a stand-in for each worker, all of them at work."""
    home.write_config(toml)
    runtime = Runtime(home, WORKING)
    try:
        runtime.all_at_work()
        yield runtime
    finally:
        runtime.close()


def _with_stand_ins(workers: list[str]) -> str:
    text = SHIPPED.read_text()
    for worker in workers:
        command = f"{sys.executable} -m tests.support.fake_worker {worker}"
        text = text.replace(
            f"command=edgectl worker {worker}\n", f"command={command}\ndirectory={SHIPPED.parent}\n"
        )
    return text


def gone(pids: list[int]) -> bool:
    """Whether none of these processes lives (a zombie that awaits its parent's look is dead)."""
    return not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def deadlocked(pid: int) -> bool:
    """Whether `DEADLOCK` has struck this process; or it is gone already."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "deadlocked\n"
    except OSError:
        return True


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    """Send a signal; the moment of it, to measure from."""
    assert pid > 0, "no such process: a signal to 0 would end this run of the tests, and all that it started"
    os.kill(pid, number)
    return time.monotonic()
