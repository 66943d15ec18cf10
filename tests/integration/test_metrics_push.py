"""A collector gets metrics that OTLP's own reader takes, and one that refuses or hangs costs nothing more."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Lock, Stop
from runtime.adapters.process.status_file import StatusFile
from runtime.core.operations.metrics import LATENCY_BOUNDS_S, Histogram
from runtime.workers import metrics_push
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.metrics_push import LONGEST_PAUSE_S, SAY_EVERY_S
from runtime.workers.observer import ObserverLoop
from tests.support.harness import Home, eventually

EVERY_S = 60.0
HANGS, DRIPS = -1, -2


class Clock(SystemClock):
    """The real clock, put forward by a test."""

    ahead_s = 0.0

    def boot_s(self) -> float:
        return super().boot_s() + self.ahead_s


@dataclass
class Collector:
    """A real HTTP server that answers as a test says."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"{}"
    requests: list[tuple[str, Any, bytes]] = field(default_factory=list)
    ends: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((request.path, request.headers, body))
        if self.status == HANGS:
            self.ends.wait(30)
            return
        request.send_response_only(200 if self.status == DRIPS else self.status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(OSError):
            while self.status == DRIPS and not self.ends.wait(0.02):
                request.wfile.write(b" ")
            request.wfile.write(self.answer)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.handle(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        made.url = f"http://127.0.0.1:{server.server_port}/v1/metrics"
        yield made
        made.ends.set()
        server.shutdown()
        serving.join()


class Observer:
    """The observer's loop as its worker turns it, under a clock that a test puts forward."""

    def __init__(self, home: Home, url: str) -> None:
        home.write_config(f'[observer]\notlp_url = "{url}"\notlp_every_s = {EVERY_S}\n')
        home.layout.create()
        self.clock = Clock()
        self.loop = ObserverLoop(
            home.config, Heartbeat(home.layout, "observer", self.clock, Stop()), self.clock
        )

    def turn(self, after_s: float = EVERY_S) -> None:
        self.clock.ahead_s += after_s
        self.loop.turn()


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


def test_a_collector_gets_every_figure_in_a_form_that_otlps_own_reader_takes(
    home: Home, collector: Collector
) -> None:
    observer = Observer(home, collector.url)
    commits = Histogram(LATENCY_BOUNDS_S)
    commits.observe(0.002, 3)
    lock = Lock(home.layout.lock("ingest"))  # so that the record is that of a living worker
    StatusFile(home.layout.status_file("ingest"), "ingest").progress(
        {"store": "open", "latency": {"commit": commits.as_record()}}
    )
    before_ns = time.time_ns()
    observer.turn()
    lock.release()
    ((path, headers, body),) = collector.requests
    assert (path, headers["Content-Type"]) == ("/v1/metrics", "application/json")
    sent = json.loads(body)
    (of_resource,) = sent["resourceMetrics"]
    assert {"key": "service.name", "value": {"stringValue": "edge-runtime"}} in of_resource["resource"][
        "attributes"
    ]
    metrics = {metric["name"]: metric for metric in of_resource["scopeMetrics"][0]["metrics"]}
    (buckets,) = metrics["edge_commit_seconds"]["histogram"]["dataPoints"]
    assert (buckets["count"], sum(map(int, buckets["bucketCounts"]))) == ("3", 3)
    assert len(buckets["bucketCounts"]) == len(buckets["explicitBounds"]) + 1
    assert int(buckets["startTimeUnixNano"]) <= int(buckets["timeUnixNano"])
    assert abs(int(buckets["timeUnixNano"]) - before_ns) < 60e9
    assert metrics["edge_store_open"]["gauge"]["dataPoints"][0]["asDouble"] == 1
    _read_by_otlp(body, len(metrics))


def _read_by_otlp(body: bytes, count: int) -> None:
    """The protocol's own definition, which knows every field, its type and no other."""
    if not os.environ.get("CI"):
        pytest.importorskip("opentelemetry.proto", reason="no opentelemetry-proto here: make .venv/.ready")
    service = importlib.import_module("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    request = service.ExportMetricsServiceRequest()
    importlib.import_module("google.protobuf.json_format").Parse(body, request)
    read = request.resource_metrics[0].scope_metrics[0].metrics
    assert len(read) == count
    assert {metric.WhichOneof("data") for metric in read} >= {"gauge", "histogram"}


@pytest.mark.parametrize(
    ("status", "asks", "pause_s"),
    [
        (429, "300", 300.0),
        (503, "1", EVERY_S),
        (503, "999999", LONGEST_PAUSE_S),
        (503, "Sun, 06 Nov 2094 08:51:37 GMT", 120.0),
        (503, "soon", EVERY_S),
        (400, None, EVERY_S),
        (302, None, EVERY_S),
    ],
)
def test_a_collector_that_refuses_is_asked_again_when_it_says_and_that_is_logged_once(
    home: Home, collector: Collector, said: list[str], status: int, asks: str | None, pause_s: float
) -> None:
    observer = Observer(home, collector.url)
    collector.status, collector.headers = status, {} if asks is None else {"Retry-After": asks}
    if asks is not None and "GMT" in asks:
        collector.headers["Date"] = "Sun, 06 Nov 2094 08:49:37 GMT"  # its clock, which may be another
    if status == 302:
        collector.headers["Location"] = "/elsewhere"
    observer.turn()
    observer.turn(pause_s - 5)
    assert len(collector.requests) == 1
    observer.turn(6)
    assert len(collector.requests) == 2
    assert said[0] == f"the collector did not take the metrics: HTTP {status}\n"
    assert len(said) == (1 if pause_s < SAY_EVERY_S else 2)
    observer.turn(SAY_EVERY_S + pause_s)
    assert len(said) == (2 if pause_s < SAY_EVERY_S else 3)


def test_points_that_a_collector_rejects_out_of_a_request_that_it_took_are_named(
    home: Home, collector: Collector, said: list[str]
) -> None:
    observer = Observer(home, collector.url)
    collector.answer = json.dumps(
        {"partialSuccess": {"rejectedDataPoints": "3", "errorMessage": "too old\n"}}
    ).encode()
    observer.turn()
    assert said == [r"the collector did not take the metrics: 3 points were rejected: 'too old\n'" + "\n"]
    for answer in (b"", b"{}", b'{"partialSuccess": {}}', b"<html>", b"[1]", b'{"partialSuccess": 7}'):
        collector.answer = answer
        observer.turn(SAY_EVERY_S)
    assert len(said) == 1 and len(collector.requests) == 7


@pytest.mark.parametrize("how", [HANGS, DRIPS], ids=["is silent", "sends a byte now and then"])
def test_a_collector_that_hangs_is_given_up_and_leaves_nothing_behind(
    home: Home, collector: Collector, said: list[str], monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    monkeypatch.setattr(metrics_push, "PUSH_TIMEOUT_S", 0.2)
    observer = Observer(home, collector.url)
    collector.status = how
    began_s = time.monotonic()
    for _ in range(3):
        observer.turn()
    assert time.monotonic() - began_s < 5
    assert len(collector.requests) == 3 and len(said) == 1
    ours = [thread for thread in threading.enumerate() if thread.name == "https"]
    eventually(lambda: not any(thread.is_alive() for thread in ours), 5, "the exchanges have ended")
