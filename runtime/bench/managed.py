"""Device management from the hub to a program and back: twin, commands, methods, memory, and after a SIGKILL.

Everything is real: upload, ingest and management are processes of their own, and so is the stand-in hub, over
TLS on a loopback address. Times count from the moment at which the hub had it, by its own clock.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import requests

from runtime.adapters.management.database import ManagementDatabase
from runtime.adapters.process.process import memory_bytes
from runtime.bench import FigureRow
from runtime.bench.upload import Rig
from runtime.core.management.command_record import CommandRow, CommandState
from runtime.core.moment import Moment
from runtime.device import Device

REMEMBERED = 10_000
START_S = 60.0
PROGRAMS = 8
_TOML = '[management]\nenabled = true\nbuilt_in = ["ping"]\n'
_WHY_MEMORY = "the interpreter, ZeroMQ, SQLite and the logger take 33 MB in any worker; the commands take 1"
_REPORTER = """
import sys, time
from runtime.device import Device
number, seconds, count = sys.argv[2], float(sys.argv[3]), 0
with Device(sys.argv[1]) as device:
    device.ping()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        count += 1
        device.set(f"/program{number}", {"count": count})
print(count)
"""


def measure(quick: bool) -> list[FigureRow]:
    """The table of management's figures."""
    count = 20 if quick else 200
    rows = []
    with Bench() as bench:
        rows += [bench.desired(count), *bench.commands_one_by_one(count), bench.method(count)]
        rows += bench.reports(3.0 if quick else 15.0)
        rows.append(bench.commands(100 if quick else 1_000))
        rows.append(bench.after_a_kill(2 if quick else 7))
    with Bench(remembered=REMEMBERED) as bench:
        rows.append(bench.memory())
    return rows


class Bench:
    """A device at the stand-in, its operator, and a program."""

    def __init__(self, remembered: int = 0) -> None:
        self._rig = Rig(_TOML)
        self._remembered = remembered
        self._operator = ThreadPoolExecutor(1)
        self._begun: Future[Any] = self._operator.submit(lambda: None)
        self._local = threading.local()

    def __enter__(self) -> Bench:
        self._rig.__enter__()
        if self._remembered:
            _fill(self._rig, self._remembered)
        self.endpoint = f"ipc://{self._rig.layout.management_socket}"
        for worker in ("ingest", "upload"):
            self._rig.start(worker)
        self._worker = self._rig.start("management")
        self.program = Device(self.endpoint, retry_for_s=START_S)
        self.program.ping()
        _wait(lambda: self.program.get("/", "wanted").state == "level")
        return self

    def __exit__(self, *_: object) -> None:
        self.program.close()
        self._rig.__exit__()

    def call(self, method: str, end: str, **how: Any) -> requests.Response:
        """One call of the operator, over a connection that stays open."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["Authorization"] = f"Bearer {self._rig.facts['operator_token']}"
        path = f"/workspaces/{self._rig.facts['workspace']}/devices/bench/{end}"
        answer: requests.Response = session.request(
            method, self._rig.facts["admin_url"] + path, timeout=30, verify=self._rig.facts["ca_file"], **how
        )
        return answer

    # --- figures ---

    def desired(self, count: int) -> FigureRow:
        """A change of the desired properties, to the program that watches."""
        after = self.program.get("/").change
        taken = []
        for number in range(count):
            self._soon("PATCH", "desired-properties", json={"n": number})
            change = self.program.watch("/n", after=after, wait_s=30.0)
            seen_s = time.time()
            assert change is not None and change.value == number
            taken.append(seen_s - self._desired_at_s())
            after = change.number
        name = f"desired change to the program (99th of 100: {_p99_ms(taken):.0f} ms)"
        return FigureRow(name, statistics.median(taken) * 1e3, "ms", reach="<= 25")

    def commands_one_by_one(self, count: int) -> list[FigureRow]:
        """A command to the program, and its completion on disk."""
        received, completed = [], []
        for number in range(count):
            self._soon("POST", "c2d-messages", data=b"%d" % number)
            command = self.program.receive(wait_s=30.0)
            seen_s = time.time()
            assert command is not None
            with command:
                pass
            done_s, (queued_at_s,) = time.time(), self._at_hub("SELECT max(queued_at) FROM commands")
            received.append(seen_s - queued_at_s)
            completed.append(done_s - queued_at_s)
        name = f"command to the program (99th of 100: {_p99_ms(received):.0f} ms)"
        return [
            FigureRow(name, statistics.median(received) * 1e3, "ms", reach="<= 25"),
            FigureRow("command completed on disk", statistics.median(completed) * 1e3, "ms", reach="<= 40"),
        ]

    def method(self, count: int) -> FigureRow:
        """A built-in method and back; 99th of 100, without the bare cost of the operator's HTTPS call."""
        bare, whole = [], []
        for _ in range(count):
            began_s = time.perf_counter()
            self.call("GET", "desired-properties").raise_for_status()
            bare.append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            self.call("POST", "methods", json={"methodName": "ping"}).raise_for_status()
            whole.append(time.perf_counter() - began_s)
        p99_ms = _p99_ms(whole) - statistics.median(bare) * 1e3
        name = f"built-in method, 99th of 100 (median {statistics.median(whole) * 1e3:.1f} ms with HTTPS)"
        return FigureRow(name, p99_ms, "ms", reach="<= 10")

    def reports(self, seconds: float) -> list[FigureRow]:
        """Reports of 8 programs, and the PATCHes that leave meanwhile."""
        before = self._patches()
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", _REPORTER, self.endpoint, str(n), str(seconds)],
                stdout=subprocess.PIPE,
            )
            for n in range(PROGRAMS)
        ]
        counts = [int(program.communicate()[0]) for program in programs]
        patches = self._patches() - before
        return [
            FigureRow(f"reports of {PROGRAMS} programs", sum(counts) / seconds, "1/s", reach=">= 1000"),
            FigureRow("PATCHes that left meanwhile", patches / (seconds + 1.0), "1/s", reach="<= 1"),
        ]

    def commands(self, count: int) -> FigureRow:
        """Commands that came before, in four lanes: handed to four programs and completed on disk."""
        lanes = [f"lane{n}" for n in range(4)]
        _together([threading.Thread(target=self._send, args=(lane, count // 4)) for lane in lanes])
        _wait(lambda: self._at_hub("SELECT count(*) FROM commands WHERE state <> 'completed'")[0] == 0)
        began_s = time.perf_counter()
        _together([threading.Thread(target=self._carry_out, args=(lane, count // 4)) for lane in lanes])
        rate = 4 * (count // 4) / (time.perf_counter() - began_s)
        return FigureRow("commands handed over and completed", rate, "1/s", reach=">= 200")

    def after_a_kill(self, rounds: int) -> FigureRow:
        """From the SIGKILL of the worker, started again at once, to its next reply."""
        taken = []
        for _ in range(rounds):
            began_s = time.perf_counter()
            self._worker.kill()
            self._worker.wait()
            self._worker = self._rig.start("management")
            with Device(self.endpoint, retry_for_s=START_S, answer_timeout_s=0.1) as program:
                program.ping()
            taken.append(time.perf_counter() - began_s)
        return FigureRow("SIGKILL to the next reply", statistics.median(taken), "s", reach="<= 2.5")

    def memory(self) -> FigureRow:
        """Memory of the worker that remembers 10,000 commands."""
        used_mb = (memory_bytes(self._worker.pid) or 0) / 1e6
        name = f"memory with {REMEMBERED:,} remembered commands"
        return FigureRow(name, used_mb, "MB", reach="<= 35", reason="" if used_mb <= 35 else _WHY_MEMORY)

    # --- helpers ---

    def _soon(self, *call: Any, **how: Any) -> None:
        """Begin a call in the thread that the operator has."""
        self._begun.result()  # the one before has its answer
        self._begun = self._operator.submit(self.call, *call, **how)

    def _send(self, lane: str, count: int) -> None:
        for number in range(count):
            while not self.call("POST", f"c2d-messages?command={lane}", data=b"%d" % number).ok:
                time.sleep(0.005)  # 50 wait at the hub already

    def _carry_out(self, lane: str, count: int) -> None:
        with Device(self.endpoint) as program:
            for _ in range(count):
                command = program.receive(lane, wait_s=60.0)
                assert command is not None
                with command:
                    pass

    def _patches(self) -> int:
        return int(self._at_hub("SELECT count(*) FROM twin_requests WHERE request = 'PATCH'")[0])

    def _desired_at_s(self) -> float:
        """When the hub got the last change of the desired properties."""
        (metadata,) = self._at_hub("SELECT desired_metadata FROM twins")
        return datetime.fromisoformat(json.loads(metadata)["n"]["$lastUpdated"]).timestamp()

    def _at_hub(self, statement: str) -> tuple[Any, ...]:
        path = self._rig.folder / "cloud" / "devcloud.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            row: tuple[Any, ...] = db.execute(statement).fetchone()
        return row


def _fill(rig: Rig, count: int) -> None:
    """Commands that ended long ago, and whose results are in the cloud."""
    database = ManagementDatabase(rig.layout)
    now = Moment(time.time(), 1.0, "bench")
    for seq in range(1, count + 1):
        database.save_command(
            CommandRow(
                seq,
                f"bench-{seq}",
                "recipe",
                b"x" * 500,
                now,
                state=CommandState.DONE,
                ended=now,
                result_stored=True,
            )
        )
    database.commit()
    database.close()


def _together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _p99_ms(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)] * 1e3


def _wait(fact: Callable[[], bool]) -> None:
    until_s = time.monotonic() + START_S
    while not fact():
        assert time.monotonic() < until_s
        time.sleep(0.05)
