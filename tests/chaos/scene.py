"""The runtime as it ships, its cloud and its producers; on a small disk and under a clock of its own where
this machine lets us have them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.adapters.process.status_file import beat_of, read_status
from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.errors import EdgeError
from runtime.layout import WORKERS
from tests.chaos.manager import Manager
from tests.support.harness import Cloud, Home, Process, eventually
from tests.support.supervised import INSIDE, switched_on

PRODUCERS = 8
PACE_MS = 40
PROGRAMS = (*WORKERS, "sentinel")
DISK_BYTES = 48 * 1024 * 1024
FAKETIME = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1")
DEVICE = "chaos"
HASTE = {
    "device": f'id = "{DEVICE}"',
    "platform": "timeout_s = 3",
    "store": "min_free_bytes = 4194304",
    "upload": "ack_timeout_s = 4\nconnect_timeout_s = 5",
}
"""Weather is noticed sooner than by default, so that more of it fits into a run."""


class NotSeen(AssertionError):
    """A fault that had no effect that anybody saw: the run has not tested what it says."""


@dataclass
class Facts:
    """What is written down on the way; appended to by every hand."""

    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unseen: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    recovered: list[dict[str, Any]] = field(default_factory=list)


class Scene:
    """One run's world. Everything in it is taken down by `close`."""

    def __init__(self, folder: Path, **tables: str) -> None:
        self.folder = folder
        self.facts = Facts()
        self.over = threading.Event()
        self.under_way: dict[str, str] = {}
        """What each hand is doing at this moment, by field."""
        self._closing = contextlib.ExitStack()
        try:
            self._build(tables)
        except BaseException:
            self._closing.close()
            raise

    def _build(self, tables: dict[str, str]) -> None:
        self.disk = self._closing.enter_context(_small_disk(self.folder / "d"))
        self.cloud = Cloud(self.folder / "cloud")
        self._closing.callback(self.cloud.close)
        self.toml = self.cloud.config_toml(**{**HASTE, **tables})
        self.home = Home((self.disk or self.folder) / "h", self.toml)
        self.clock = FakeClock(self.folder) if FAKETIME.exists() else None
        faked = self.clock.environment() if self.clock else {}
        self.manager = Manager(self.home, self.folder / "up.log", {**INSIDE, **faked})
        self._closing.callback(self.manager.end)
        self.senders: list[tuple[Process, Path]] = []
        self._operator = threading.Thread(target=self._approve, name="operator")
        self._closing.callback(self._operator.join)
        self._closing.callback(self.over.set)

    def start(self) -> None:
        """Return when messages flow all the way."""
        self._operator.start()
        self.manager.start()
        eventually(self.all_running, 90, "everything runs")
        for number in range(PRODUCERS):
            self._start_sender(number)
        eventually(lambda: self.cloud.message_count() > PRODUCERS, 60, "messages arrive")

    def _start_sender(self, number: int) -> None:
        ledger = self.folder / f"ledger-{number}"
        process = Process(
            sys.executable, "-m", "tests.support.sender", self.home.config.producer_endpoint(),
            f"p{number}", str(10**9), str(PACE_MS), str(ledger), log=self.folder / f"p{number}.log",
        )  # fmt: skip
        self._closing.callback(process.close)
        self.senders.append((process, ledger))

    def close(self) -> None:
        self._closing.close()

    def keep(self, place: Path) -> None:
        """Copy everything that explains what happened."""
        shutil.copytree(self.home.folder, place / "home", ignore=shutil.ignore_patterns("*.sock", "*.hints"))
        shutil.copytree(self.cloud.folder, place / "cloud")
        for log in self.folder.glob("*.log"):
            shutil.copy(log, place)

    # --- the runtime ---

    def programs(self) -> dict[str, Program]:
        """What supervisord says; nothing where it does not answer."""
        with contextlib.suppress(EdgeError):
            return switched_on(self.supervisor().programs())
        return {}

    def supervisor(self) -> Supervisor:
        return Supervisor(self.home.layout.supervisor_socket, timeout_s=2.0)

    def pid(self, victim: str) -> int:
        """The process of a program that lives, or supervisord's; 0 where there is none."""
        if victim == "supervisord":
            up = self.manager.up
            return up.pid if up and up.running() else 0
        found = self.programs().get(victim)
        return found.pid if found and found.state in ("RUNNING", "STARTING") else 0

    def in_service(self, program: str) -> int:
        """Its pid, where it lives and has said so."""
        pid = self.pid(program)
        return pid if pid and beat_of(self.home.layout.status_file(program), pid) is not None else 0

    def stands(self, program: str, for_s: float) -> bool:
        """Whether it has been in service for so long, by the clock that does not jump."""
        status = read_status(self.home.layout.status_file(program)) or {}
        at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return bool(self.in_service(program)) and at_s - status.get("started_boot_s", at_s) >= for_s

    def all_in_service(self) -> bool:
        return all(self.in_service(program) for program in PROGRAMS)

    def all_running(self) -> bool:
        programs = self.programs()
        return len(programs) == len(PROGRAMS) and all(p.state == "RUNNING" for p in programs.values())

    def told_wall_s(self) -> float | None:
        """The wall clock as supervisord has it."""
        with contextlib.suppress(EdgeError, IndexError):
            return float(self.supervisor()._call("getAllProcessInfo")[0]["now"])
        return None

    def said(self, program: str, words: str) -> int:
        """How often its logs have these words."""
        found = 0
        for log in self.home.layout.log.glob(f"{program}.log*"):
            with contextlib.suppress(OSError):
                found += log.read_text(errors="replace").count(words)
        return found

    # --- the cloud ---

    def _approve(self) -> None:
        """The operator approves whoever asks."""
        while not self.over.wait(0.5):
            with contextlib.suppress(Exception):  # any weather: he comes back in half a second
                self.cloud.approve_all()

    def end_tokens(self, what: str, how: str = "revoke", **more: str) -> None:
        self.cloud.call("POST", "/admin/tokens", {"what": what, "how": how, "device": DEVICE, **more})

    def answered(self, call: str, status: str) -> int:
        """How often the platform has answered this call so."""
        return int(self.cloud.call("GET", "/admin/answers").get(call, {}).get(status, 0))

    def connections(self, condition: str) -> int:
        """How many CONNECTs the hub has seen of which this holds, in SQL."""
        path = self.cloud.folder / "devcloud.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            row = db.execute(f"SELECT COUNT(*) FROM connections WHERE {condition}").fetchone()
            return int(row[0])

    def newest(self) -> int:
        """The number of the last message that arrived."""
        path = self.cloud.folder / "devcloud.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            return int(db.execute("SELECT coalesce(max(seq), 0) FROM messages").fetchone()[0])

    # --- the producers ---

    def acknowledged(self) -> int:
        """Bytes of all ledgers: grows with every acknowledgement."""
        return sum(ledger.stat().st_size for _, ledger in self.senders if ledger.exists())

    # --- waiting ---

    def until(self, fact: Callable[[], Any], timeout_s: float, what: str) -> float:
        """Wait for a fact; how long it took. Raises NotSeen."""
        began_s = time.monotonic()
        while not fact():
            if time.monotonic() - began_s > timeout_s:
                raise NotSeen(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.05)
        return time.monotonic() - began_s


class FakeClock:
    """libfaketime's clock for a tree of processes: the wall clock jumps when a file says so.

    The clocks that do not jump stay true: FAKETIME_DONT_FAKE_MONOTONIC spares monotonic and boot time.
    Version 0.9.10 then breaks clock_nanosleep, and so time.sleep: `support/inside` mends it. And it has each
    wait for the interpreter's lock end at once: busy threads spun, and upload took three times as long.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")

    def set(self, offset: str) -> None:
        """`+3600`, `-400d`, or `@1970-01-02 00:00:00`."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(offset + "\n")
        fresh.replace(self._file)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # without any, every look at any clock reads the file
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # leave pthread_cond_timedwait alone
            "NO_FAKE_STAT": "1",
        }

    @staticmethod
    def sweep() -> None:
        """Of whoever was killed libfaketime leaves two files in shared memory."""
        for path in Path("/dev/shm").glob("*faketime_*"):
            if not Path(f"/proc/{path.name.rpartition('_')[2]}").exists():
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A file system that can be filled; None where mounting one needs rights that we lack."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def reachable(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
