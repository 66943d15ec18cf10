"""A whole device with management on, a real hub, and a program; workers are started and killed by hand."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, Home, clean_environment, eventually
from tests.support.managed import Managed

PROGRAM = """
import sys
from runtime.device import Device
device = Device(sys.argv[1])
with open(sys.argv[2], "a", buffering=1) as seen:
    while True:
        command = device.receive(wait_s=60)
        if command is not None:
            with command:
                seen.write(command.payload.decode() + "\\n")
                command.result = {"did": command.payload.decode()}
"""


class ManagedDevice:
    """The device, its operator, and the program that carries commands out."""

    def __init__(self, folder: Path, cloud: Cloud, toml: str = "") -> None:
        self.cloud, self.folder = cloud, folder
        self.operator = Managed(Client(cloud), "dev-1")
        secret = folder / "connection-string"
        secret.write_text(self.operator.connection_string)
        secret.chmod(0o600)
        self.home = Home(
            folder / "home",
            cloud.config_toml(
                identity=f'mode = "connection-string"\nconnection_string_file = "{secret}"',
                management=f"enabled = true\nreport_every_s = 0.2\n{toml}",
            ),
        )
        self.seen = folder / "seen"
        self.program: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.home.layout.management_socket}"

    def start(self) -> None:
        self.home.start_all()
        self.home.start_worker("management")

    def start_program(self) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.endpoint, str(self.seen)],
            env=clean_environment(),
            stderr=subprocess.DEVNULL,
        )

    def kill(self, name: str) -> None:
        """SIGKILL a worker, or the program, and start it again."""
        if name != "program":
            self.home.workers[name].kill()
            self.home.start_worker(name)
        elif self.program is not None:
            self.program.kill()
            self.program.wait(10)
            self.start_program()

    def send(self, payload: str, **headers: str) -> None:
        """Send a command; where 50 wait at the hub already, later."""
        eventually(lambda: self.operator.send(payload.encode(), **headers).ok, 60, "the hub takes a command")

    def desire(self, patch: dict[str, Any]) -> None:
        answer = self.operator.call("PATCH", "desired-properties", patch)
        assert answer.ok, answer.text

    def reported(self) -> dict[str, Any]:
        return dict(self.operator.call("GET", "reported-properties").json())

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of management.db."""
        path = self.home.layout.management_db
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute(statement).fetchall()

    def commands(self) -> list[dict[str, Any]]:
        rows = self.ask("SELECT seq, payload, ended_no, result_stored, row FROM commands ORDER BY seq")
        return [
            {**json.loads(text), "seq": seq, "payload": payload.decode(), "ended": ended, "stored": stored}
            for seq, payload, ended, stored, text in rows
        ]

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """Results that arrived, by command id; a repeat of one message counts once."""
        by_message = {
            one.message_id: json.loads(one.payload)
            for one in self.cloud.messages()
            if b'"command":' in one.payload
        }
        found: dict[str, list[dict[str, Any]]] = {}
        for result in by_message.values():
            found.setdefault(result["id"], []).append(result)
        return found

    def close(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program.wait(10)
        self.home.stop()
