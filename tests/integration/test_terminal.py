"""What a person at a terminal is told while something takes long; a pipe is told nothing of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.cli.announce import facts
from tests.support.harness import Cloud, Home, clean_environment, eventually


class Terminal:
    """What was written to a terminal."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._read = b""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while chunk := os.read(self._ours, 65_536):
                self._read += chunk
        except OSError:  # the other end is closed
            pass

    def says(self, text: str) -> bool:
        return text in self._read.decode(errors="replace")


@contextmanager
def at_a_terminal(home: Home, *arguments: str) -> Iterator[Terminal]:
    """`edgectl` with its stderr on a terminal, ended afterwards."""
    terminal = Terminal()
    command = [sys.executable, "-m", "runtime", "--home", str(home.folder), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal.theirs,
        env=clean_environment(),
    )
    os.close(terminal.theirs)
    try:
        yield terminal
    finally:
        process.terminate()
        process.wait(30)


def test_up_tells_a_person_the_code_the_device_and_the_hub(device: Home, cloud: Cloud) -> None:
    with at_a_terminal(device, "up") as terminal:
        eventually(lambda: terminal.says("verification code "), 40)
        cloud.approve_all()
        eventually(lambda: terminal.says("registered as "), 40)
        eventually(lambda: terminal.says("hub up: messages are delivered; `edgectl status`"), 40)


def test_send_tells_a_person_what_it_waits_for(home: Home) -> None:
    with at_a_terminal(home, "send", "x", "--retry-for", "30") as terminal:
        eventually(lambda: terminal.says(f"waiting for ingest at ipc://{home.folder}"), 20)


def test_a_fact_is_said_when_it_is_true() -> None:
    assert facts(None, None, "down") == []
    assert facts("ABCD-EFGH", None, "down") == [
        "verification code ABCD-EFGH: an operator approves the device by it"
    ]
    assert [sentence.split(":")[0] for sentence in facts(None, "dev-1", "up")] == [
        "registered as dev-1",
        "hub up",
    ]
