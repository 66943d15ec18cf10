"""The metrics as text: Prometheus' own parser finds in it what was put in."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from runtime.core.operations.metrics import (
    DELIVERY_BOUNDS_S,
    LATENCY_BOUNDS_S,
    OTHER,
    Histogram,
    Metric,
    Sample,
    otlp,
    prometheus_text,
    summed,
    top,
)

VALUES = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(st.dictionaries(ANY_TEXT.filter(lambda text: "\r" not in text), VALUES, max_size=5), ANY_TEXT)
def test_any_streams_name_is_a_label_and_forges_no_line(streams: dict[str, float], help_: str) -> None:
    samples = [Sample(value, (("stream", name),)) for name, value in streams.items()]
    text = prometheus_text([Metric("edge_backlog_bytes", "gauge", help_.replace("\r", ""), samples)])
    assert parsed(text) == {
        ("edge_backlog_bytes", frozenset({("stream", name)})): value for name, value in streams.items()
    }


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_each_observation_once(values: list[float]) -> None:
    histogram = Histogram(LATENCY_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    found = parsed(
        prometheus_text([Metric("edge_ack_seconds", "histogram", "x", histograms=[((), histogram)])])
    )
    for bound in LATENCY_BOUNDS_S:
        series = "edge_ack_seconds_bucket", frozenset({("le", repr(bound) if bound != 10.0 else "10")})
        assert found[series] == sum(value <= bound for value in values)
    assert found["edge_ack_seconds_count", frozenset()] == len(values)
    assert found["edge_ack_seconds_sum", frozenset()] == pytest.approx(sum(values))


def test_a_histogram_survives_the_status_file_and_one_of_another_shape_is_left_out() -> None:
    histogram = Histogram(LATENCY_BOUNDS_S)
    histogram.observe(0.003, times=4)
    record = json.loads(json.dumps(histogram.as_record()))
    assert Histogram.of_record(record, LATENCY_BOUNDS_S) == histogram
    for damaged in (
        None,
        7,
        {},
        {**record, "counts": [1]},
        {**record, "sum": "x"},
        {**record, "sum": math.nan},
    ):
        assert Histogram.of_record(damaged, LATENCY_BOUNDS_S) is None
    assert Histogram.of_record({"counts": [-1] * 11, "sum": 0}, DELIVERY_BOUNDS_S) is None


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 1e9), max_size=60))
def test_ten_thousand_streams_would_be_twenty_series_and_one(weights: dict[str, float]) -> None:
    labels = top(weights, 20)
    samples = summed(Sample(weight, (("stream", labels[name]),)) for name, weight in weights.items())
    assert len(samples) <= 21
    assert sum(sample.value for sample in samples) == pytest.approx(sum(weights.values()))
    others = [weights[name] for name, label in labels.items() if label == OTHER and name != OTHER]
    kept = [weights[name] for name, label in labels.items() if label != OTHER]
    assert not others or max(others) <= min(kept)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Metric("Edge", "gauge", ""),
        lambda: Metric("edge_bytes", "counter", ""),
        lambda: Metric("edge_bytes_total", "gauge", ""),
        lambda: prometheus_text([Metric("a", "gauge", ""), Metric("a", "gauge", "")]),
        lambda: prometheus_text([Metric("a", "gauge", "", [Sample(1), Sample(2)])]),
        lambda: Histogram(LATENCY_BOUNDS_S, [1]),
    ],
)
def test_a_series_that_is_written_twice_or_misnamed_is_a_bug(wrong: object) -> None:
    with pytest.raises(AssertionError):
        wrong()  # type: ignore[operator]


def test_infinity_and_no_number_are_written_as_prometheus_reads_them() -> None:
    samples = [Sample(v, (("n", str(i)),)) for i, v in enumerate([math.inf, -math.inf, math.nan, 1e300, 3.0])]
    text = prometheus_text([Metric("edge_runway_full_seconds", "gauge", "x", samples)])
    assert [line.split()[-1] for line in text.splitlines()[2:]] == ["+Inf", "-Inf", "NaN", "1e+300", "3"]


def test_a_collector_gets_the_same_figures_and_json_that_every_reader_takes() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5)
    request = otlp(
        [
            Metric("edge_up", "gauge", "up", [Sample(1, (("worker", "ingest"),))]),
            Metric("edge_stored_total", "counter", "stored", [Sample(7)]),
            Metric("edge_ack_seconds", "histogram", "ack", histograms=[((), histogram)]),
            Metric("edge_runway_full_seconds", "gauge", "never", [Sample(math.inf)]),
            Metric("edge_empty", "gauge", "none"),
        ],
        {"service.name": "edge-runtime"},
        "1.0",
        5,
        9,
    )
    json.dumps(request, allow_nan=False)
    metrics = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert [metric["name"] for metric in metrics] == ["edge_up", "edge_stored_total", "edge_ack_seconds"]
    assert metrics[1]["sum"] == {
        "aggregationTemporality": 2,
        "isMonotonic": True,
        "dataPoints": [{"attributes": [], "startTimeUnixNano": "5", "timeUnixNano": "9", "asDouble": 7}],
    }
    assert metrics[2]["histogram"]["dataPoints"][0]["bucketCounts"] == ["0", "1", "0"]
