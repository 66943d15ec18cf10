"""What tests share: waiting for facts, homes of their own, and the stand-in cloud as a real process.

Everything listens on a loopback address of its own and lives in a folder of its own, so that two runs at
once do not disturb each other.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.config import Config, load
from runtime.layout import WORKERS, Layout
from runtime.workers.heartbeat import Heartbeat
from tests.support import fork_server

T = TypeVar("T")

PROMPT = {"EDGE_STORE_FOLD_S": "0"}
"""What is delivered leaves the store at once, for tests that wait for it."""
START_TIMEOUT_S = 40.0  # a cold interpreter on a busy machine, importing azure


def eventually(fact: Callable[[], T | None], timeout_s: float = 20.0, what: str = "") -> T:
    """Return the first truthy value of `fact`; fail with its last value when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = fact()
        if value:
            return value
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {timeout_s:g} s: {what or fact} (last: {value!r})", pytrace=True)
        time.sleep(0.02)


def at_full_size(full: T, shrunk: T) -> T:
    """`full` where FULL_SIZE is set (minutes more), else what brings the same edge in seconds."""
    return full if os.environ.get("FULL_SIZE") else shrunk


def require_tool(name: str) -> str:
    """Path of a system tool. Without it the test skips at a user's home and fails in CI."""
    found = shutil.which(name)
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing; .ci/run has to install it")
    pytest.skip(f"{name} is not installed")


def mount_ext4(image: Path, place: Path, size_bytes: int) -> None:
    """A disk of its own at `place`; made at the first time, mounted as it was at the next."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    if not image.exists():
        with image.open("wb") as disk:
            disk.truncate(size_bytes)
        subprocess.run([require_tool("mkfs.ext4"), "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True).returncode:
        pytest.skip("cannot mount a file here")


@contextlib.contextmanager
def short_folder(below: Path | None = None) -> Iterator[Path]:
    """A folder with a name short enough for unix sockets, removed afterwards, with all on a tmpfs."""
    folder = Path(tempfile.mkdtemp(prefix="edge-", dir=below))
    try:
        yield folder
    finally:
        for run in (folder / "run", *folder.glob("*/run")):
            if run.is_symlink() and run.readlink().name.startswith("run-"):
                shutil.rmtree(run.readlink(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without the settings of whoever runs the tests, and with our `edgectl` first."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    mine["PATH"] = f"{Path(sys.executable).parent}:{mine.get('PATH', os.defpath)}"
    return {**mine, **more}


class Process:
    """A child whose output goes to a file, killed at the end come what may."""

    def __init__(self, *argv: str, log: Path, cwd: Path | None = None, **environment: Any) -> None:
        self.log = log
        self.popen: subprocess.Popen[bytes] | fork_server.ForkedProcess
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                argv,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=clean_environment(**environment),
            )

    @classmethod
    def of_edgectl(cls, *arguments: str, log: Path, **environment: Any) -> Process:
        """`edgectl` with these arguments, out of the fork server."""
        process = cls.__new__(cls)
        process.log = log
        with log.open("ab") as out, Path(os.devnull).open("rb") as nothing:
            process.popen = fork_server.start(
                arguments, clean_environment(**environment),
                stdin=nothing.fileno(), stdout=out.fileno(), stderr=out.fileno(),
            )  # fmt: skip
        return process

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone: one that is traced goes when its tracer has had its turn."""
        self.popen.kill()
        self.popen.wait(60)

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM; the exit status. Fails where it does not end in time."""
        self.popen.terminate()
        return self.popen.wait(timeout_s)

    def close(self) -> None:
        if self.running():
            self.kill()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass(frozen=True)
class Arrived:
    """A message as the stand-in cloud has it, in order of arrival."""

    seq: int
    device_id: str
    message_id: str
    dup: bool
    properties: dict[str, str]
    system: dict[str, str]
    payload: bytes


class Cloud:
    """`edgectl devcloud` as a process of its own, on a loopback address of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it (again): same folder, same address, same port, same keys."""
        facts = self.folder / "devcloud.json"
        facts.unlink(missing_ok=True)
        self.process = Process.of_edgectl(
            "devcloud", "--dir", str(self.folder), "--address", "auto", "--https-port", "0", *self._options,
            log=self.folder.with_suffix(".log"),
        )  # fmt: skip
        eventually(lambda: facts.exists() or not self.process.running(), START_TIMEOUT_S, "devcloud starts")
        if not facts.exists():
            pytest.fail(f"devcloud did not start: {self.process.said()[-2000:]}")
        self.facts: dict[str, Any] = json.loads(facts.read_text())

    def close(self) -> None:
        self.process.close()

    def config_toml(self, **tables: str) -> str:
        """What a device's edge.toml says to reach this cloud; `tables` adds lines to a table."""
        token = self.folder / "device-provisioning-token"
        if not token.exists():
            token.write_text(self.facts["provisioning_token"])
            token.chmod(0o600)
        lines = {
            "platform": f'instance = "{self.facts["instance"]}"\nca_file = "{self.facts["ca_file"]}"\n'
            f'provisioning_token_file = "{token}"\n',
            "provisioning": "poll_s = 0.2\nretry_max_s = 2\n",
            "refresh": "retry_max_s = 2\n",
            "upload": f"https_port = {self.facts['https_port']}\nretry_max_s = 2\n",
        }
        for table, more in tables.items():
            lines[table] = lines.get(table, "") + more + "\n"
        return "".join(f"[{table}]\n{text}" for table, text in lines.items())

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the operators' or admin API; the decoded answer."""
        answer = requests.request(
            method,
            self.facts["admin_url"] + path,
            json=body,
            headers={"Authorization": f"Bearer {self.facts['operator_token']}"},
            verify=self.facts["ca_file"],
            timeout=10,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def faults(self, **fields: Any) -> Any:
        return self.call("POST", "/admin/faults", fields)

    def no_faults(self) -> None:
        self.call("DELETE", "/admin/faults")

    def drop(self, mode: str = "abrupt") -> None:
        self.call("POST", "/admin/drop", {"mode": mode})

    def hub(self, *, up: bool) -> None:
        self.call("POST", "/admin/hub", {"up": up})

    def approve(self, operation_id: str, device_id: str | None = None) -> None:
        body = {"provisioningOperationId": operation_id, **({"deviceId": device_id} if device_id else {})}
        self.call("PUT", f"{self._workspace}/provisioning-operations/approve", body)

    def waiting(self) -> list[dict[str, Any]]:
        """Provisioning operations that wait for an operator."""
        found = self.call("GET", f"{self._workspace}/provisioning-operations")
        listed = found if isinstance(found, list) else next(v for v in found.values() if isinstance(v, list))
        return [op for op in listed if str(op.get("status", op.get("state"))).lower() == "pending"]

    def approve_all(self) -> int:
        """Approve whoever waits; how many."""
        waiting = self.waiting()
        for operation in waiting:
            self.approve(operation["provisioningOperationId"])
        return len(waiting)

    @property
    def _workspace(self) -> str:
        return f"/workspaces/{self.facts['workspace']}"

    def messages(self, after: int = 0) -> list[Arrived]:
        """What arrived, oldest first."""
        with self._database() as db:
            rows = db.execute(
                "SELECT seq, device_id, message_id, dup, properties, system, payload FROM messages"
                " WHERE seq > ? ORDER BY seq",
                (after,),
            ).fetchall()
        return [Arrived(r[0], r[1], r[2], bool(r[3]), json.loads(r[4]), json.loads(r[5]), r[6]) for r in rows]

    def message_count(self) -> int:
        """Distinct message ids that arrived."""
        with self._database() as db:
            return int(db.execute("SELECT COUNT(DISTINCT message_id) FROM messages").fetchone()[0])

    def batch_files(self, separator: str = "newline") -> dict[str, bytes]:
        """The batch files that the platform makes of the messages, by stream and batch."""
        files = self.call("GET", f"/admin/batches?separator={separator}")["files"]
        return {
            f"{one['stream']}/{one['batch']}": one["text"].encode()
            if "text" in one
            else base64.b64decode(one["base64"])
            for one in files
        }

    def metered_units(self) -> int:
        """The units that the hub bills for all messages so far."""
        return int(self.call("GET", "/admin/metering")["units"])

    def connections(self) -> list[str | None]:
        """How each connection to the hub ended, oldest first; None for one that lives."""
        with self._database() as db:
            return [row[0] for row in db.execute("SELECT end_reason FROM connections ORDER BY seq")]

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(f"file:{self.folder / 'devcloud.db'}?mode=ro", uri=True, timeout=10)
        try:
            yield db
        finally:
            db.close()


class Home:
    """A runtime's home with an edge.toml, and the workers a test starts in it by hand."""

    prompt = True
    """Whether PROMPT holds, where the test's configuration says nothing else."""

    def __init__(self, folder: Path, toml: str = "") -> None:
        self.folder = folder
        self.layout = Layout(folder)
        self.layout.create()
        self.write_config(toml)
        self.workers: dict[str, Process] = {}

    def write_config(self, toml: str) -> None:
        (self.folder / "edge.toml").write_text(toml)
        self._environment = PROMPT if self.prompt and "fold_s" not in toml else {}

    @property
    def config(self) -> Config:
        return load(self._environment, home=self.folder)

    def start_worker(self, name: str, *, fresh: bool = False, **environment: Any) -> Process:
        """Start one worker; its output is in log/<name>.log. `fresh`: in an interpreter of its own."""
        words = ("--home", str(self.folder), "worker", name)
        log = self.layout.log / f"{name}.log"
        environment = {**self._environment, **environment}
        if fresh:
            process = Process(sys.executable, "-m", "runtime", *words, log=log, **environment)
        else:
            process = Process.of_edgectl(*words, log=log, **environment)
        self.workers[name] = process
        return process

    def start_all(self, *, fresh: bool = False) -> None:
        for name in WORKERS:
            self.start_worker(name, fresh=fresh)

    def edgectl(
        self, *arguments: str, stdin: str | bytes | None = None, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run one command of the command line against this home."""
        text = stdin.decode() if isinstance(stdin, bytes) else stdin
        words = ("--home", str(self.folder), *arguments)
        return fork_server.run(words, clean_environment(), stdin=text, timeout_s=timeout_s)

    def stop(self) -> None:
        for process in self.workers.values():
            process.close()


def heart(home: Home, worker: str, stop: Stop | None = None) -> Heartbeat:
    """For a worker that a test turns by hand."""
    return Heartbeat(home.layout, worker, SystemClock(), stop or Stop())


def kill_tree(pid: int) -> None:
    """SIGKILL a process and what descends from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):
        for child in children.read_text().split():
            kill_tree(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
