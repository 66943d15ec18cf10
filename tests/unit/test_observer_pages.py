"""What an observer reads is what `edgectl status` shows, in forms that others' programs take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.adapters.process import history_file
from runtime.adapters.process.history_file import HistoryFile
from runtime.core.operations.metrics import LATENCY_BOUNDS_S, Histogram
from runtime.operations.observer_pages import ObserverPages
from tests.support.overview import overview


def pages(state: dict[str, Any], now_s: list[float] | None = None) -> ObserverPages:
    clock = now_s or [0.0]
    return ObserverPages(lambda: state, lambda: [{"at_s": 1}], lambda: clock[0], lambda: 1_800_000_000.0)


def metrics(state: dict[str, Any]) -> dict[tuple[str, ...], float]:
    answer = pages(state).answer("/metrics")
    assert answer is not None and answer.content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_prometheus_reads_the_books_and_how_long_it_lasts() -> None:
    found = metrics(overview())
    assert found["edge_messages_stored_total", "a"] == 9
    assert found["edge_messages_lost_total", "a", "expired"] == 1
    assert found["edge_ledger_difference_messages",] == 0
    assert found["edge_runway_full_seconds",] == float("inf")
    assert found["edge_runway_token_seconds", "sas"] == 60
    assert found["edge_worker_up", "ingest"] == 1 and found["edge_worker_up", "upload"] == 0
    assert found["edge_alarm", "hung", "upload"] == 1
    assert not {name for name, *_ in found} & {"edge_runway_quota_seconds", "edge_hub_puback_age_seconds"}, (
        "what is unknown has no series"
    )


def test_ten_thousand_streams_are_twenty_one_series() -> None:
    streams = [
        {"stream": f"s{n}", "stored": n, "delivered": n, "requeued": 0, "lost": {}} for n in range(10_000)
    ]
    found = metrics(overview(ledger={"difference": 0, "streams": streams}))
    stored = {key: value for key, value in found.items() if key[0] == "edge_messages_stored_total"}
    assert len(stored) == 21 and sum(stored.values()) == sum(range(10_000))


def test_latencies_are_histograms() -> None:
    histogram = Histogram(LATENCY_BOUNDS_S)
    histogram.observe(0.004)
    found = metrics(overview(latency={"commit": histogram.as_record(), "ack": {"counts": [1], "sum": 1}}))
    assert found["edge_commit_seconds_count",] == 1 and found["edge_commit_seconds_bucket", "0.005"] == 1
    assert ("edge_ack_seconds_count",) not in found


@pytest.mark.parametrize(
    ("ingest", "store", "status"),
    [
        ("RUNNING", "open", 200),
        ("UNSUPERVISED", "open", 200),
        ("RUNNING", "salvage", 503),
        ("FATAL", "open", 503),
    ],
)
def test_ready_means_that_messages_are_stored_and_nothing_else(ingest: str, store: str, status: int) -> None:
    state = overview(verdict="down")
    state["workers"]["ingest"] = {**state["workers"]["ingest"], "state": ingest}
    state["backlog"]["store"] = store
    answer = pages(state).answer("/readyz")
    assert answer is not None and answer.status == status


def test_an_overview_is_taken_once_a_second_however_many_ask() -> None:
    taken, clock = [], [0.0]
    observed = ObserverPages(lambda: taken.append(1) or overview(), list, lambda: clock[0], lambda: 0.0)
    for _ in range(5):
        observed.answer("/status.json")
    assert len(taken) == 1
    clock[0] = 1.0
    observed.answer("/metrics")
    assert len(taken) == 2


def test_the_page_stands_alone_and_runs_its_own_script_only() -> None:
    answer = pages(overview()).answer("/")
    assert answer is not None
    text = answer.body.decode()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "unsafe" not in policy


def test_the_verification_code_is_drawn_while_it_waits() -> None:
    state = overview()
    assert pages(state).answer("/qr.svg").status == 404  # type: ignore[union-attr]
    state["identity"]["verification_code"] = "B334-P9GT"
    drawn = pages(state).answer("/qr.svg")
    assert drawn is not None and drawn.body.startswith(b"<?xml") and b"<svg" in drawn.body
    assert pages(state).answer("/../etc/passwd") is None


def test_a_day_of_history_survives_and_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "MOST_POINTS", 3)
    path = tmp_path / "history"
    path.write_text('{"at_s": 0}\nnothing\n[1]\n')
    history = HistoryFile(path)
    for n in range(1, 20):
        history.add({"at_s": n})
    assert [point["at_s"] for point in history.points()] == [17, 18, 19]
    assert len(path.read_text().splitlines()) <= 6
    assert [point["at_s"] for point in HistoryFile(path).points()] == [17, 18, 19]
    json.dumps(history.points())
    path.unlink()
    tmp_path.rmdir()
    history.add({"at_s": 20})  # the disk is gone: the curve goes on
    assert history.points()[-1] == {"at_s": 20}
