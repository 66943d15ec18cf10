"""The plug is pulled at a thousand points of a recorded run: whatever was acknowledged by then is there.

ingest works under strace; from the record we rebuild messages.db as a cut at any point could have left it
(see tests/support/power.py), open it, and look. The same with `synchronous=NORMAL` must find losses: else
this test would prove nothing.

So it is with a flush that fails: for a while every fdatasync says EIO, once, and the kernel forgets what it
could not write (see runtime/adapters/store/wal.py).
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from runtime.adapters.store.wal import ends_early
from runtime.producer import Producer
from tests.support.harness import Home, clean_environment, eventually, kill_tree, require_tool
from tests.support.power import Acknowledged, Disk, Event, Fate, Sync, SyncFailed, read_trace, record

REQUESTS = 500
MESSAGES_EACH = 2
CUTS = 500
"""Points in the run; each is tried with unsynced writes dropped, kept, and torn."""
FATES: tuple[Fate, ...] = ("dropped", "kept", "torn")
SEED = 20260401
FAILING = "fdatasync:error=EIO:when=30..33"
"""A commit fails, closing fails to write it into the database, opening finds it in the WAL."""


@dataclass
class Verdict:
    states: int = 0
    lost: int = 0
    broken: int = 0


@pytest.fixture
def recorded(home: Home) -> Iterator[Home]:
    require_tool("strace")
    yield home


@pytest.mark.timeout(300)
def test_no_cut_of_power_loses_what_was_acknowledged(recorded: Home) -> None:
    events = run_ingest(recorded, sys.executable, "-m", "tests.support.weak_ingest", "FULL")
    assert sum(isinstance(event, Acknowledged) for event in events) == REQUESTS
    checkpoints = sum(isinstance(e, Sync) and e.path.endswith("messages.db") for e in events)
    assert checkpoints >= 2, "the run must have gone through a checkpoint"
    verdict = pull_the_plug(events)
    assert (verdict.lost, verdict.broken) == (0, 0)
    assert verdict.states >= 3 * CUTS


@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
def test_the_same_cuts_do_find_losses_where_commits_are_not_synced(recorded: Home, level: str) -> None:
    events = run_ingest(recorded, sys.executable, "-m", "tests.support.weak_ingest", level)
    verdict = pull_the_plug(events, cuts=CUTS // 5)
    assert verdict.lost > verdict.states / 20


def test_a_flush_that_failed_and_then_works_again_loses_nothing_that_was_acknowledged(
    recorded: Home,
) -> None:
    """What failed and is still in the page cache must not be built upon."""
    events = run_ingest(recorded, sys.executable, "-m", "tests.support.weak_ingest", "FULL", inject=FAILING)
    assert sum(isinstance(event, SyncFailed) for event in events) >= 3, "it was to fail in the middle"
    verdict = pull_the_plug(events, cuts=CUTS // 5)
    assert (verdict.lost, verdict.broken) == (0, 0)


def test_the_same_failing_flush_does_lose_where_the_page_cache_is_believed(recorded: Home) -> None:
    events = run_ingest(
        recorded, sys.executable, "-m", "tests.support.weak_ingest", "credulous", inject=FAILING
    )
    assert pull_the_plug(events, cuts=CUTS // 5).lost


def run_ingest(home: Home, *argv: str, inject: str | None = None) -> list[Event]:
    """ingest under strace and load; everything that it wrote, synced and acknowledged."""
    trace = home.folder / "trace"
    process = record(
        list(argv), trace, clean_environment(EDGE_HOME=str(home.folder)), home.folder / "ingest.log", inject
    )
    try:
        eventually(lambda: home.layout.producer_socket.exists() or process.poll() is not None, 60)
        _send(home) if inject is None else _send_in_bad_weather(home)
    finally:
        kill_tree(process.pid)  # strace keeps SIGTERM to itself
        process.wait(10)
    return list(read_trace(trace, "messages.db"))


def _send(home: Home) -> None:
    """One producer, one request after the other: so the n-th reply acknowledges the n-th request."""
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.connect(f"ipc://{home.layout.producer_socket}")
    try:
        for number in range(REQUESTS):
            payloads = [f"{number:06d}.{part}".encode().ljust(150, b".") for part in range(MESSAGES_EACH)]
            socket.send_multipart([b'{"stream": "cut"}', *payloads])
            assert b'"ok": true' in socket.recv().replace(b'"ok":true', b'"ok": true')
    finally:
        socket.close()


def _send_in_bad_weather(home: Home) -> None:
    """Fewer, and every request until it is acknowledged."""
    with Producer(home.config.producer_endpoint(), answer_timeout_s=30, retry_for_s=60) as producer:
        for number in range(REQUESTS // 5):
            producer.put_many([f"{number:06d}.{part}".encode() for part in range(MESSAGES_EACH)])


def pull_the_plug(events: list[Event], cuts: int = CUTS) -> Verdict:
    """Cut at random points behind the first acknowledgement, and look at what the next boot finds."""
    chance = random.Random(SEED)
    first = next(i for i, event in enumerate(events) if isinstance(event, Acknowledged))
    points = sorted(chance.sample(range(first, len(events)), min(cuts, len(events) - first)))
    disk, acknowledged, done, verdict = Disk(), 0, 0, Verdict()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        for point in points:
            for event in events[done : point + 1]:
                acknowledged += isinstance(event, Acknowledged)
                disk.take(event)
            done = point + 1
            for fate in FATES:
                _examine(Path(folder), disk.after_a_cut(fate, chance), acknowledged, verdict)
    return verdict


def _examine(folder: Path, files: dict[str, bytes], acknowledged: int, verdict: Verdict) -> None:
    """Open it as the next ingest would."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    verdict.states += 1
    db = sqlite3.connect(folder / "messages.db")
    try:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            verdict.broken += 1
        there = {row[0] for row in db.execute("SELECT CAST(substr(payload, 1, 8) AS TEXT) FROM messages")}
        verdict.broken += ends_early(db, folder / "messages.db")  # a WAL that was cut off is not damaged
    except sqlite3.OperationalError:  # not even the table reached the disk
        there = set()
    except sqlite3.DatabaseError:
        verdict.broken += 1
        there = set()
    finally:
        db.close()
    wanted = {f"{number:06d}.{part}" for number in range(acknowledged) for part in range(MESSAGES_EACH)}
    verdict.lost += bool(wanted - there)


def _memory_folder() -> str | None:
    """Thousands of databases are written and thrown away: not on somebody's flash."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
