"""The whole runtime with everything on that can be switched on, against the same with it off.

*On* is: the observer, scraped every 5 s (a collector asks every 15 to 60 s); its push of metrics to a
collector every 5 s; the metrics file every 5 s; log shipping; a command for alarms. *Off* is none of these.
Both are `edgectl up`, with supervisord and its sentinel. Histograms and the ledger are part of every commit
and cannot be switched off: what a histogram takes for a message is measured by itself.

Runs alternate, and which of a pair comes first as well: the load of a shared machine hits both. What a
scraper and a collector take of the processor counts against *on*, though they would run elsewhere. Where
others use the machine the rates say little; the processor time of the runtime for a message, of all its
processes together, says the same and hardly depends on them. A run begins when all stands, was scraped twice
and has pushed: what their start takes is not measured. Last, what it takes while there is nothing to do: a
rate that one core bounds loses about that share of a core.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from runtime.adapters.hub.usage_file import UsageFile
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.bench import FigureRow
from runtime.bench.hub import processor_s
from runtime.bench.limits import folder
from runtime.bench.load import producing
from runtime.bench.upload import START_TIMEOUT_S, Rig, wait_for
from runtime.config import load
from runtime.core.operations.metrics import LATENCY_BOUNDS_S, Histogram
from runtime.errors import EdgeError
from runtime.layout import WORKERS, Layout
from runtime.producer import Producer

EVERY_S = 5.0
REACH = ">= 0.98"
SETTLED_S = 5.0
"""After so long nothing of a start is left to do."""
_ON = """
[observer]
enabled = true
listen = "ipc://{socket}"
otlp_url = "{url}"
otlp_every_s = {every_s}
[sentinel]
metrics_every_s = {every_s}
[log]
ship = true
[alarm]
command = ["/bin/cat"]
"""
_STORE = "[store]\nmax_messages = 100000000\nmax_bytes = 100000000000\nmin_free_bytes = 0\n"


def measure(quick: bool) -> list[FigureRow]:
    """Both rates as shares, in as many pairs of runs, and the cost of a histogram."""
    pairs, seconds, backlog = (1, 5.0, 10_000) if quick else (5, 10.0, 60_000)
    with _collecting() as collector:
        acknowledged = _alternate(pairs, lambda on: _acknowledged(seconds, collector if on else None))
        delivered = _alternate(pairs, lambda on: _delivered(backlog, collector if on else None))
        resting = [_resting(2 * seconds, each) for each in (None, collector)]
    return [
        *_rows("acknowledged, 4 producers, 100 a request", "acknowledged/s", acknowledged),
        *_rows("delivered", "msg/s", delivered),
        FigureRow(
            "everything on: processor time beyond that of everything off, nothing to do",
            (resting[1] - resting[0]) * 100,
            "% of a core",
            reach="<= 2",
        ),
        _histogram(),
    ]


@dataclass(frozen=True, slots=True)
class _Rates:
    """The outcome of one run."""

    per_s: float
    """Messages a second."""
    used_us: float
    """Processor time of all processes of the runtime for a message."""


def _alternate(pairs: int, run: Callable[[bool], _Rates]) -> list[tuple[_Rates, _Rates]]:
    """(off, on) of each pair; every other pair begins with the other one."""
    rates = []
    for number in range(pairs):
        first = number % 2 == 1
        rate = {first: run(first)}
        rate[not first] = run(not first)
        rates.append((rate[False], rate[True]))
    return rates


def _rows(what: str, unit: str, pairs: list[tuple[_Rates, _Rates]]) -> list[FigureRow]:
    rates = [(off.per_s, on.per_s) for off, on in pairs]
    times = [(off.used_us, on.used_us) for off, on in pairs]
    used = f"everything off against on: processor time, {what}"
    return [
        _row(f"everything on against off: {what}", unit, rates, [on / off for off, on in rates]),
        _row(used, "us/msg", times, [off / on for off, on in times]),
    ]


def _row(name: str, unit: str, values: list[tuple[float, float]], shares: list[float]) -> FigureRow:
    off, on = (statistics.median(each) for each in zip(*values, strict=True))
    spread = f"the median of {len(shares)} pairs, which go from {min(shares):.3f} to {max(shares):.3f}"
    return FigureRow(name, on, unit, off, statistics.median(shares), REACH, spread)


def _acknowledged(seconds: float, collector: _Collector | None) -> _Rates:
    """Messages acknowledged in a second, without a platform: nothing but ingest has work."""
    with folder() as where, _running(where / "home", _STORE, collector) as processor:
        endpoint = load({}, home=where / "home").producer_endpoint()
        with Producer(endpoint, retry_for_s=60) as producer:
            producer.ping()
        with producing(endpoint, 4, 100) as acknowledged:
            time.sleep(1.0)  # caches, and the file's first growth
            return _rates(acknowledged, processor, lambda: time.sleep(seconds))


def _delivered(backlog: int, collector: _Collector | None) -> _Rates:
    """Arrivals in a second while a backlog is drained."""
    with Rig() as rig:
        rig.fill(backlog)
        usage = UsageFile(rig.layout)
        usage.switch(on=False)  # until all stands
        with _running(rig.layout.home, (rig.layout.home / "edge.toml").read_text(), collector) as processor:
            usage.switch(on=True)
            wait_for(lambda: rig.arrivals() >= backlog // 10)
            return _rates(rig.arrivals, processor, lambda: wait_for(lambda: rig.arrivals() >= backlog))


def _resting(seconds: float, collector: _Collector | None) -> float:
    """Processor time a second of a runtime without work: no producer, no platform."""
    with folder() as where, _running(where / "home", _STORE, collector) as processor:
        time.sleep(SETTLED_S)
        began_s, before_s = time.perf_counter(), processor()
        time.sleep(seconds)
        return (processor() - before_s) / (time.perf_counter() - began_s)


def _rates(count: Callable[[], int], processor: Callable[[], float], work: Callable[[], None]) -> _Rates:
    began_s, first, before_s = time.perf_counter(), count(), processor()
    work()
    took_s, messages, used_s = time.perf_counter() - began_s, count() - first, processor() - before_s
    return _Rates(messages / took_s, used_s / messages * 1e6)


@contextmanager
def _running(home: Path, toml: str, collector: _Collector | None) -> Iterator[Callable[[], float]]:
    """`edgectl up` in this home, with everything on where there is a collector; its processor time."""
    home.mkdir(exist_ok=True)
    path = Layout(home).run / "observer.sock"
    on = "" if collector is None else _ON.format(socket=path, url=collector.url, every_s=EVERY_S)
    (home / "edge.toml").write_text(toml + on)
    command = [sys.executable, "-m", "runtime", "--home", str(home), "up"]
    with (home / "bench.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: _stands(home, observed=collector is not None), START_TIMEOUT_S)
        with contextlib.ExitStack() as scraping:
            if collector is not None:
                scraper, pushes = scraping.enter_context(_Scraper(path)), collector.pushes
                wait_for(lambda: scraper.scrapes > 1 and collector.pushes > pushes, START_TIMEOUT_S)
            yield lambda: _processor_s(child.pid)
    finally:
        child.terminate()
        child.wait(60)


def _processor_s(supervisor: int) -> float:
    """Processor time of supervisord and of all its programs."""
    total_s = processor_s(supervisor)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == supervisor:
                total_s += processor_s(int(stat.parent.name))
    return total_s


def _stands(home: Path, *, observed: bool) -> bool:
    """True once every worker that is wanted runs."""
    wanted = (*WORKERS, "sentinel", *(("observer",) if observed else ()))
    try:
        programs = Supervisor(Layout(home).supervisor_socket).programs()
    except EdgeError:
        return False
    return all(name in programs and programs[name].state == "RUNNING" for name in wanted)


class _Scraper:
    """Asks the observer for the metrics every few seconds, from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._scrape)
        self.scrapes = 0

    def __enter__(self) -> _Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._ends.wait(EVERY_S if self.scrapes > 1 else 0.2):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as observer:
                observer.settimeout(EVERY_S)
                observer.connect(str(self._path))
                observer.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: observer.recv(65_536), b""))
                self.scrapes += answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))


@dataclass(slots=True)
class _Collector:
    """What became of the pushes to a collector."""

    url: str = ""
    pushes: int = 0


@contextmanager
def _collecting() -> Iterator[_Collector]:
    """A collector that takes every push."""
    collector = _Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            collector.pushes += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            collector.url = f"http://127.0.0.1:{server.server_port}/v1/metrics"
            yield collector
        finally:
            server.shutdown()
            serving.join()


def _histogram() -> FigureRow:
    """What an observation takes: ingest makes one for each commit and one for each request."""
    histogram, count = Histogram(LATENCY_BOUNDS_S), 200_000
    began_s = time.process_time()
    for number in range(count):
        histogram.observe(number * 1e-7)
    took_us = (time.process_time() - began_s) / count * 1e6
    return FigureRow("an observation of a histogram, which is always on", took_us, "us", reach="<= 2")
