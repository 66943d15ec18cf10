"""The demo's processes: the stand-in cloud and the supervised runtime, in a folder that is removed at the
end.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.config import Config, load
from runtime.core.operations.ledger import Ledger
from runtime.demo.tally import Arrival
from runtime.devcloud.remote import Remote
from runtime.errors import EdgeError, Retryable
from runtime.layout import WORKERS, Layout

KILLED = (*WORKERS, "management")
"""The workers that the demo kills."""
RESULTS = "command-results"
"""The stream in which the results of commands arrive."""
COMMAND_LOCK_S = 2.0
"""The hub's lock of a command that was sent and not acknowledged, in place of its 60 s: the demo is short."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class Stage:
    """The demo's context: however it is left, no process and no file of it stays."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edge-demo-"))
        self.layout = Layout(self._folder / "home")
        self._cloud_folder = self._folder / "cloud"
        self._children: list[subprocess.Popen[bytes]] = []
        self._seen: dict[str, set[int]] = {worker: set() for worker in KILLED}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            _end(child)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_cloud(self) -> None:
        """Start the stand-in; returns when it serves."""
        child = self._start("devcloud", "devcloud", "--dir", str(self._cloud_folder))
        facts = self._cloud_folder / "devcloud.json"
        wait_for(
            lambda: facts.exists() or child.poll() is not None, START_TIMEOUT_S, "the stand-in cloud starts"
        )
        if not facts.exists():
            raise Retryable(f"the stand-in cloud did not start: {self._last_words('devcloud')}")
        self.remote = Remote(self._cloud_folder)
        self.remote.call("POST", "/admin/limits", {"command_lock_s": COMMAND_LOCK_S})

    def start_runtime(self) -> Config:
        """Start supervisord with every worker, configured for the stand-in."""
        self.layout.create()
        facts = self.remote.facts
        token = self._folder / "provisioning-token"
        token.touch(0o600)
        token.write_text(facts["provisioning_token"])
        (self.layout.home / "edge.toml").write_text(
            f'[platform]\ninstance = "{facts["instance"]}"\nca_file = "{facts["ca_file"]}"\n'
            f'provisioning_token_file = "{token}"\n[provisioning]\npoll_s = 1.0\n'
            f"[upload]\nhttps_port = {facts['https_port']}\nretry_max_s = 2.0\n"
            "[management]\nenabled = true\n"
        )
        self._supervisord = self._start("up", "--home", str(self.layout.home), "up")
        return load({}, home=self.layout.home)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
        with (self._folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "runtime", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean,
                start_new_session=True,  # Ctrl-C is for us; we end the processes in order
            )
        self._children.append(child)
        return child

    def _last_words(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def waiting_devices(self) -> list[dict[str, Any]]:
        """Provisioning operations that wait for an operator."""
        path = f"{self.remote.workspace}/provisioning-operations"
        operations: list[dict[str, Any]] = self.remote.call("GET", path)["provisioningOperations"]
        return [operation for operation in operations if operation["status"] == "Pending"]

    def approve(self, operation: dict[str, Any]) -> str:
        """Approve a device; its id."""
        body = {"provisioningOperationId": operation["provisioningOperationId"]}
        path = f"{self.remote.workspace}/provisioning-operations/approve"
        return str(self.remote.call("PUT", path, body)["deviceId"])

    def registered(self) -> str:
        """The id of the device that the platform knows; empty for none."""
        devices = self.remote.call("GET", f"{self.remote.workspace}/devices")["devices"]
        return str(devices[0]["deviceId"]) if devices else ""

    def page_address(self) -> str:
        return str(self.remote.call("POST", "/admin/page-link")["url"])

    def hub(self, *, up: bool) -> None:
        self.remote.call("POST", "/admin/hub", {"up": up})

    def look(self) -> None:
        """Record the workers' process ids, to count their restarts."""
        if self._supervisord.poll() is not None:
            raise Retryable(f"supervisord ended: {self._last_words('up')}")
        with contextlib.suppress(EdgeError):  # supervisord may be busy starting
            for name, program in Supervisor(self.layout.supervisor_socket).programs().items():
                if name in self._seen and program.pid:
                    self._seen[name].add(program.pid)

    def kill(self, worker: str) -> int:
        """SIGKILL a worker; the process id it had."""

        def pid() -> int:
            with contextlib.suppress(EdgeError):
                return Supervisor(self.layout.supervisor_socket).programs()[worker].pid
            return 0

        victim: int = wait_for(pid, START_TIMEOUT_S, f"{worker} runs")
        self.look()
        os.kill(victim, signal.SIGKILL)
        return victim

    def restarts(self) -> dict[str, int]:
        """The number of times that each worker was restarted."""
        return {worker: max(0, len(pids) - 1) for worker, pids in self._seen.items()}

    def ledger(self) -> tuple[int, int]:
        """Messages that the store ever took, results of commands included, and those of them that its ledger
        does not account for.
        """
        with contextlib.closing(StoreReader(self.layout.messages_db)) as reader:
            ledger = reader.ledger() or Ledger()
        return ledger.total.stored, ledger.total.difference

    def arrived(self) -> int:
        """The number of arrivals at the hub, repeats included."""
        with self._cloud_database() as db:
            return int(db.execute("SELECT COALESCE(MAX(seq), 0) FROM messages").fetchone()[0])

    def arrivals(self) -> list[Arrival]:
        """All arrivals of the producers' messages, in order."""
        return [
            Arrival((body["from"], body["n"]), mid, stream)
            for body, mid, stream in self._received()
            if stream != RESULTS
        ]

    def results(self) -> list[dict[str, Any]]:
        """The results of commands that arrived, each once."""
        return list({mid: body for body, mid, stream in self._received() if stream == RESULTS}.values())

    def _received(self) -> list[tuple[dict[str, Any], str, str]]:
        """Payload, message id and stream of every arrival."""
        with self._cloud_database() as db:
            rows = db.execute("SELECT payload, message_id, properties FROM messages ORDER BY seq").fetchall()
        return [
            (json.loads(body), mid, json.loads(props).get("stream-name", "")) for body, mid, props in rows
        ]

    @contextlib.contextmanager
    def _cloud_database(self) -> Iterator[sqlite3.Connection]:
        path = self._cloud_folder / "devcloud.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            yield db


def wait_for(fact: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first truthy value of `fact`. Raises Retryable when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := fact()):
        if time.monotonic() > deadline_s:
            raise Retryable(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)
    return value


def _end(child: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, and where that is not enough, SIGKILL to all of its session."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
