"""Ingest against this machine's disk and sockets. Ratios are taken in turns: limit, ours, limit, ours."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import process_state
from runtime.adapters.store.writer import MessageStore
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.bench import FigureRow
from runtime.bench.limits import PAYLOAD, chain, echo, flushes_per_s, folder, rows_per_s
from runtime.bench.load import acknowledged_per_s, producing
from runtime.config import load
from runtime.layout import Layout
from runtime.producer import Producer

SETTINGS = "[store]\nmax_bytes = 1000000000000\nmax_messages = 100000000\nmin_free_bytes = 0\n"
AT_THE_LIMIT = 20_000
"""Messages of a store at its limit: where a hundredth of them gives way at a time, it soon fills up again."""
UNFOLDED = 450
UNFOLDED_WITHIN_S = 120.0
FILL_AT_ONCE = 100_000
FOLDING_ALWAYS = """
import sys
from runtime.__main__ import main
from runtime.adapters.store import fold
fold.FOLD_ROWS = 0
sys.exit(main())
"""
"""An ingest whose every commit writes what it changes: rows, memory of producers, counters."""

# Found with a profile of each load; printed beside a figure that is out of reach.
BARE_COMMIT = (
    "no REQ producer gets there on such a disk: the chain, a bare ROUTER with a bare commit behind it, "
    "reaches {bound:.2f}"
)
ROUND_TRIP = (
    "ours adds to the chain what makes a message of it: on a busy machine without a disk 165 us, of which 13 "
    "decoding, 40 deciding, 17 reading the store's state, 85 a row of 11 columns and the counters in memory"
)
A_CORE = (
    "both cores are busy: a message takes 37 us of ingest's thread (receiving 5, decoding 4, deciding 11, "
    "storing 10, answering 3 where no other runs) and 14 of zmq's, where the echo takes 18 in all, and 56 "
    "of its producer, whom the echo costs 46"
)
COLUMNS = (
    "of some 4.5 us for a message, receiving its frame takes 1, deciding 0.5, inserting 10 columns 1, pages "
    "and flush 2; the bare row takes 3, of which 2 are pages and flush"
)
FEW_AT_ONCE = (
    "a flush takes 0.2 ms, in which two cores let about 14 of the 64 producers ask again; on a slower disk "
    "more of them share a flush"
)


ONE_COMMIT = (
    "a bare commit of such a row writes 9,007 B here, of which 8,192 are one frame of the WAL across two "
    "pages; the checkpoint and the fold of a thousand commits are among the rest"
)
AFTER_A_KILL = (
    "a producer that asks first 0.1 s after the kill has its answer 0.01 s later; one whose connection was "
    "open does not notice its end, and asks again when its time-out of 1 s is over"
)


def measure(quick: bool) -> list[FigureRow]:
    """All figures of ingest."""
    rounds, seconds, backlog = (3, 0.4, 100_000) if quick else (5, 1.5, 5_000_000)
    rows = []
    with folder() as where, echo(where) as bare, running(where / "home") as ours:
        with chain(where) as chained:
            rows += _one_producer(where, chained, ours, rounds, seconds)
        rows += _shares(where, bare, ours, rounds, seconds)
        rows.append(_written(ours, where / "home", seconds))
        rows.append(_written_alone(ours, where / "home", seconds))
        with running(where / "whole", program=("-c", FOLDING_ALWAYS)) as whole:
            rows.append(_eight(whole, ours, rounds, seconds))
    with folder() as where:
        rows.append(_written_at_the_limit(where / "home", seconds))
    with folder() as where:
        rows.append(_fsyncs(where, rounds, seconds))
    with folder() as where:
        rows += _backlog(where, backlog, rounds, seconds)
        rows.append(_opening(where / "full", backlog, min(rounds, 3)))
    with folder() as where:
        rows += _restart(where / "home", rounds)
    return rows


def _shares(where: Path, bare: str, ours: str, rounds: int, seconds: float) -> list[FigureRow]:
    flushes = statistics.median(flushes_per_s(where, seconds) for _ in range(rounds))
    alone = statistics.median(acknowledged_per_s(bare, 1, 1, seconds) for _ in range(rounds))
    rows = [
        FigureRow("bare fdatasync", flushes, "1/s"),
        FigureRow("bare ROUTER echo, 1 producer", alone, "requests/s"),
    ]
    for name, size, pack, limit, reach, why in (
        ("64 producers, 1 message a request, against a bare ROUTER echo", 64, 1, None, ">= 0.65", A_CORE),
        ("4 producers, 100 messages a request, against bare 100-row commits", 4, 100, 100, ">= 0.6", COLUMNS),
    ):
        limits, rates = [], []
        for _ in range(rounds):
            limits.append(
                rows_per_s(where, limit, seconds) if limit else acknowledged_per_s(bare, size, pack, seconds)
            )
            rates.append(acknowledged_per_s(ours, size, pack, seconds))
        bare_rate, rate = statistics.median(limits), statistics.median(rates)
        rows.append(FigureRow(name, rate, "acknowledged/s", bare_rate, rate / bare_rate, reach, why))
    return rows


def _one_producer(where: Path, chained: str, ours: str, rounds: int, seconds: float) -> list[FigureRow]:
    """One message a request, against the chain, and beside it against commits that nothing waits for."""
    turns = [
        (
            rows_per_s(where, 1, seconds),
            acknowledged_per_s(chained, 1, 1, seconds),
            acknowledged_per_s(ours, 1, 1, seconds),
        )
        for _ in range(rounds)
    ]
    bare, limit, rate = (statistics.median(each) for each in zip(*turns, strict=True))
    name, why = "1 producer, 1 message a request, against", BARE_COMMIT.format(bound=limit / bare)
    return [
        FigureRow(
            f"{name} a bare ROUTER with a bare commit behind it",
            rate, "acknowledged/s", limit, rate / limit, ">= 0.8", ROUND_TRIP,
        ),
        FigureRow(f"{name} bare 1-row commits", rate, "acknowledged/s", bare, rate / bare, reason=why),
    ]  # fmt: skip


def _written_alone(endpoint: str, home: Path, seconds: float) -> FigureRow:
    """Bytes that ingest gave to the disk for a keyed message of 200 B with a commit of its own."""
    written_bytes = _written_for_one(endpoint, home, seconds)
    name = "written to disk for a commit of one message"
    return FigureRow(name, written_bytes, "B", reach="<= 10000", reason=ONE_COMMIT)


def _written_at_the_limit(home: Path, seconds: float) -> FigureRow:
    """The same in a full store, whose oldest messages give way."""
    _fill(home, AT_THE_LIMIT)
    with running(
        home, settings=f'[store]\nmax_messages = {AT_THE_LIMIT}\npolicy = "drop-oldest"\n'
    ) as endpoint:
        written_bytes = _written_for_one(endpoint, home, 2 * seconds)
    name = "written to disk for a commit of one message, in a full store whose oldest give way"
    return FigureRow(name, written_bytes, "B", reach="<= 12000")


def _written_for_one(endpoint: str, home: Path, seconds: float) -> float:
    pid = _pid(home)
    with producing(endpoint, 1, 1) as acknowledged:
        before, written = acknowledged(), _io(pid)
        time.sleep(max(seconds, 1.0))
        return (_io(pid) - written) / (acknowledged() - before)


def _eight(whole: str, ours: str, rounds: int, seconds: float) -> FigureRow:
    """Eight producers, against an ingest that writes its counters in every commit."""
    pairs = [
        (acknowledged_per_s(whole, 8, 1, seconds), acknowledged_per_s(ours, 8, 1, seconds))
        for _ in range(rounds)
    ]
    before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
    return FigureRow(
        "8 producers, 1 message a request, against an ingest that folds at every commit",
        after, "acknowledged/s", before, after / before, ">= 1.3", FEW_AT_ONCE,
    )  # fmt: skip


def _written(endpoint: str, home: Path, seconds: float) -> FigureRow:
    """Bytes that ingest gave to the disk, by the kernel's count."""
    pid = _pid(home)
    with producing(endpoint, 4, 100) as acknowledged:
        before, written = acknowledged(), _io(pid)
        time.sleep(max(seconds, 1.0))
        payload_bytes, written = (acknowledged() - before) * len(PAYLOAD), _io(pid) - written
    return FigureRow(
        "written to disk for each payload byte (200 B, 100 a request)",
        written / payload_bytes,
        "B/B",
        reach="<= 4",
    )


def _fsyncs(where: Path, rounds: int, seconds: float) -> FigureRow:
    """Flushes counted by strace, which stops at these calls only. Each round begins with other producers."""
    name = "fsyncs for each message, 64 producers"
    strace = shutil.which("strace")
    if strace is None:
        return FigureRow(name, float("nan"), "fsync", reason="strace is not installed")
    trace = where / "trace"
    command = [strace, "-f", "--seccomp-bpf", "-o", str(trace), "-e", "trace=fsync,fdatasync"]
    with running(where / "home", *command) as endpoint:
        flushes = [_flushes_per_message(trace, endpoint, seconds) for _ in range(rounds)]
    return FigureRow(name, statistics.median(flushes), "fsync", reach="<= 0.05", reason=FEW_AT_ONCE)


def _flushes_per_message(trace: Path, endpoint: str, seconds: float) -> float:
    with producing(endpoint, 64, 1) as acknowledged:
        before, flushes = acknowledged(), _flushes(trace)
        time.sleep(max(seconds, 1.0))
        messages, flushes = acknowledged() - before, _flushes(trace) - flushes
    return flushes / messages


def _flushes(trace: Path) -> int:
    return sum(1 for line in trace.read_text(errors="replace").splitlines() if "sync(" in line)


def _backlog(where: Path, backlog: int, rounds: int, seconds: float) -> list[FigureRow]:
    """The same load on an empty and on a full store, in turns."""
    _fill(where / "full", backlog)
    with running(where / "empty") as empty, running(where / "full") as full:
        pairs = [
            (acknowledged_per_s(empty, 4, 100, seconds), acknowledged_per_s(full, 4, 100, seconds))
            for _ in range(rounds)
        ]
        rss_mb = _rss_kib(_pid(where / "full")) / 1024
    before, after = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    million = f"{backlog / 1e6:g} million"
    return [
        FigureRow(
            f"a backlog of {million} against an empty store",
            after,
            "acknowledged/s",
            before,
            after / before,
            ">= 0.9",
        ),
        FigureRow(f"memory with a backlog of {million}", rss_mb, "MB RSS", reach="<= 45"),
    ]


def _opening(home: Path, backlog: int, rounds: int) -> FigureRow:
    """Seconds to open a full store as a power cut leaves it: rows unfolded, nothing in the page cache."""
    path, times = Layout(home).messages_db, []
    for _ in range(rounds):
        with running(home) as endpoint, Producer(endpoint, retry_for_s=30) as producer:  # killed at the end
            deadline_s = time.monotonic() + UNFOLDED_WITHIN_S
            while _unfolded(path) < UNFOLDED:  # an ingest that counts what is stored folds in every commit
                assert time.monotonic() < deadline_s, "no commit leaves rows unfolded"
                time.sleep(1.0)  # it counts while nothing comes
                producer.put_many([PAYLOAD] * UNFOLDED, stream="bench")
        for file in (path, path.with_name(f"{path.name}-wal")):
            _forget_pages(file)
        began_s = time.perf_counter()
        store = MessageStore(path, SystemClock())
        times.append(time.perf_counter() - began_s)
        store.leave()
    name = f"opening a store of {backlog / 1e6:g} million after a power cut"
    return FigureRow(name, statistics.median(times), "s", reach="<= 1")


def _unfolded(path: Path) -> int:
    """The number of rows that no counter knows yet."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        query = "SELECT count(*) FROM messages WHERE id > (SELECT folded FROM store)"
        return int(db.execute(query).fetchone()[0])


def _forget_pages(file: Path) -> None:
    """Have the kernel drop a file's pages from its cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fill(home: Path, messages: int) -> None:
    """A store with a backlog, made without a flush for each commit."""
    layout = Layout(home)
    layout.create()
    MessageStore(layout.messages_db, SystemClock()).close()
    db = sqlite3.connect(layout.messages_db, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("INSERT INTO streams (id, stream) VALUES (1, 'bench')")
    for start in range(1, messages + 1, FILL_AT_ONCE):
        end = min(messages, start + FILL_AT_ONCE - 1)
        db.execute(
            "WITH RECURSIVE n(id) AS (SELECT ? UNION ALL SELECT id + 1 FROM n WHERE id < ?) "
            "INSERT INTO messages (id, stream, kind, priority, stored_boot_s, boot, key, bytes, payload) "
            "SELECT id, 1, 0, 4, 1.0, 1, 'bench/0123456789abcdef/' || id, 200, ? FROM n",
            (start, end, PAYLOAD),
        )
    db.execute("INSERT INTO levels VALUES (1, 4, ?, ?, ?, 0)", (messages, messages * 200, messages))
    db.execute("UPDATE store SET next_id = ?1 + 1, folded = ?1, next_stream = 2", (messages,))
    db.close()


def _restart(home: Path, rounds: int) -> list[FigureRow]:
    """Seconds from SIGKILL to the next acknowledgement, with supervisord restarting it.

    The request goes once the process is dead: one that it took with it waits for its client's `timeout_s`.
    """
    _prepare(home)
    command = [sys.executable, "-m", "runtime", "--home", str(home), "up"]
    with _child(command, home) as supervisor, Producer(_endpoint(home), retry_for_s=30) as producer:
        producer.put(b"up")
        times = []
        for _ in range(rounds):
            _wait_until_it_stands(home)
            killed = _pid(home)
            os.kill(killed, signal.SIGKILL)
            start = time.perf_counter()
            while process_state(killed) not in ("dead", "gone"):
                time.sleep(0.001)
            producer.put(b"again")
            times.append(time.perf_counter() - start)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(30)
    return [
        FigureRow(
            "from SIGKILL to the next acknowledgement",
            statistics.median(times),
            "s",
            None,
            None,
            "<= 0.6",
            AFTER_A_KILL,
        ),
    ]


def _wait_until_it_stands(home: Path) -> None:
    """Wait until supervisord calls it RUNNING: a process that dies before that has failed
    to start, and has to wait.
    """
    supervisor = Supervisor(Layout(home).supervisor_socket)
    while supervisor.programs()["ingest"].state != "RUNNING":
        time.sleep(0.1)


@contextmanager
def running(
    home: Path, *prefix: str, program: Sequence[str] = ("-m", "runtime"), settings: str = SETTINGS
) -> Iterator[str]:
    """A real ingest in a home of its own; its endpoint."""
    _prepare(home, settings)
    command = [*prefix, sys.executable, *program, "--home", str(home), "worker", "ingest"]
    with _child(command, home):
        with Producer(_endpoint(home), retry_for_s=30) as producer:
            producer.ping()
        try:
            yield _endpoint(home)
        finally:
            os.kill(_pid(home), signal.SIGKILL)


def _prepare(home: Path, settings: str = SETTINGS) -> None:
    home.mkdir(exist_ok=True)
    (home / "edge.toml").write_text(settings)


@contextmanager
def _child(command: list[str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    with (home / "bench.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def _endpoint(home: Path) -> str:
    return load({}, home=home).producer_endpoint()


def _pid(home: Path) -> int:
    return int(Layout(home).lock("ingest").read_text())


def _io(pid: int) -> int:
    """Bytes this process caused to be written to the disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
