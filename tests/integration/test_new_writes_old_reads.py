"""New writes, old reads: two versions of one schema take turns at one store, killed in the midst of work.

An update that comes back leaves a store that the new version has written. Here they are whole trees with an
interpreter's environment each, as on a device. With EDGE_OLD_TREE (a checkout of an older release whose
SCHEMA_VERSION is this one's) that release takes the part of the old one.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.errors import EdgeError
from runtime.producer import Producer
from tests.support.harness import at_full_size, eventually, short_folder
from tests.support.update_device import PACKAGE, tree_of

ROUNDS = at_full_size(10, 2)
A_ROUND = 40
"""Messages that are acknowledged before the kill; more are under way."""


@pytest.fixture
def place() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def version_in(folder: Path, version: str, package: Path = PACKAGE) -> Path:
    """A version on disk, for the interpreter of the tests."""
    for name, content in tree_of(version, package=package).items():
        path = folder / version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    python = Path(sys.executable).resolve()
    (folder / version / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    (folder / version / "bin/python").symlink_to(python)
    (folder / version / "bin/edgectl").chmod(0o755)
    return folder / version


class Sender(threading.Thread):
    """A producer that never stops, and remembers what was acknowledged."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.acknowledged, self.end = endpoint, list[int](), threading.Event()

    def run(self) -> None:
        with Producer(self.endpoint, name="sender", retry_for_s=20.0) as producer:
            for number in range(1_000_000):
                if self.end.is_set():
                    return
                try:
                    producer.put(b"%d" % number, stream="load")
                except EdgeError:
                    return
                self.acknowledged.append(number)


def test_what_one_version_stored_the_other_reads_and_goes_on_with(place: Path) -> None:
    old = Path(os.environ["EDGE_OLD_TREE"]) / "runtime" if "EDGE_OLD_TREE" in os.environ else PACKAGE
    versions = [version_in(place, "1.1.0"), version_in(place, "1.0.0", old)]
    home = place / "home"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "PYTHON"))}
    sender = Sender(f"ipc://{home}/ingest.sock")
    for turn in range(ROUNDS):
        edgectl = str(versions[turn % 2] / "bin/edgectl")
        command = [edgectl, "--home", str(home), "worker", "ingest"]
        with (place / "log").open("ab") as log:
            ingest = subprocess.Popen(command, env=plain, stdout=log, stderr=log)
        try:
            if turn == 0:
                eventually((home / "ingest.sock").exists, 30)
                sender.start()
            reached = len(sender.acknowledged) + A_ROUND
            eventually(lambda count=reached: len(sender.acknowledged) >= count, 40, f"turn {turn}")
        finally:
            ingest.kill()
            ingest.wait()
    sender.end.set()
    sender.join(30)
    with closing(sqlite3.connect(home / "state/messages.db")) as db:
        stored = [
            (id, int(payload)) for id, payload in db.execute("SELECT id, payload FROM messages ORDER BY id")
        ]
    numbers = [number for _, number in stored]
    assert set(sender.acknowledged) <= set(numbers)
    assert numbers == sorted(set(numbers)), "once each, in order"
