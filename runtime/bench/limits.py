"""The machine's own limits, bare: one flush, one commit, one echo. Ours are shares of these."""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAYLOAD = b"x" * 200

_ECHO = """
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
while True:
    peer, empty, header, *payloads = socket.recv_multipart()
    socket.send_multipart([peer, empty, b'{"ok":true,"stored":1,"ids":[1]}'])
"""

_CHAIN = """
import sqlite3, sys, zmq
database = sqlite3.connect(sys.argv[2], isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = FULL")
database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
with open(sys.argv[2] + "-wal", "r+b") as wal:
    wal.seek(0, 2)
    wal.write(bytes(4194304))
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
while True:
    peer, empty, header, *payloads = socket.recv_multipart()
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO messages (payload) VALUES (?)", [(each,) for each in payloads])
    database.execute("COMMIT")
    socket.send_multipart([peer, empty, b'{"ok":true,"stored":1,"ids":[1]}'])
"""


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on the disk that is measured, short enough for sockets."""
    made = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def median(rounds: int, measure: Callable[[], float]) -> float:
    """The median of several short rounds: one hiccup of the disk does not count."""
    return statistics.median(measure() for _ in range(rounds))


def per_second(seconds: float, step: Callable[[], int]) -> float:
    """The number of times that `step` is done in a second."""
    start = time.perf_counter()
    done = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        done += step()
    return done / elapsed


def flushes_per_s(where: Path, seconds: float) -> float:
    """Bare fdatasync after a write of one page."""
    with (where / "flush").open("wb", buffering=0) as file:

        def step() -> int:
            file.write(b"\0" * 4096)
            os.fdatasync(file.fileno())
            return 1

        return per_second(seconds, step)


def rows_per_s(where: Path, rows: int, seconds: float) -> float:
    """Bare SQLite, WAL and FULL: `rows` of 200 B in each commit."""
    path = where / "bare.db"
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")

    def step() -> int:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO messages (payload) VALUES (?)", [(PAYLOAD,)] * rows)
        db.execute("COMMIT")
        return rows

    try:
        return per_second(seconds, step)
    finally:
        db.close()


@contextmanager
def echo(where: Path) -> Iterator[str]:
    """A bare ROUTER that answers every request at once, in a process of its own; its endpoint."""
    with _serving(_ECHO, f"ipc://{where}/echo") as endpoint:
        yield endpoint


@contextmanager
def chain(where: Path) -> Iterator[str]:
    """A bare ROUTER with a bare commit behind it: no ingest can be faster to a producer that waits."""
    with _serving(_CHAIN, f"ipc://{where}/chain", str(where / "chain.db")) as endpoint:
        yield endpoint


@contextmanager
def _serving(program: str, endpoint: str, *arguments: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", program, endpoint, *arguments])
    try:
        yield endpoint
    finally:
        process.kill()
        process.wait()
