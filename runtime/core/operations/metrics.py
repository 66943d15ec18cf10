"""Metrics: what a scraper reads of a runtime, as Prometheus text and as OTLP JSON. Pure.

A metric is a name, a type, a help text and samples; a sample is labels and a number. Both forms are
written by hand: a client library would cost a process 9 to 19 MB, and the two formats are a page each. The
tests hold the text against Prometheus' own parser.

Invariants:

1. A name is written once, with one type; a series (name and labels) has one value.
2. Cardinality is bounded: `top` keeps the heaviest series of a label and sums the others under "other".
3. Any text may be the value of a label: it is escaped, so that a stream's name cannot forge a line.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]
MetricType: TypeAlias = Literal["counter", "gauge", "histogram"]

TOP_SERIES = 20
"""Streams that have a series of their own (docs/operations.md): the heaviest; the others are one."""
OTHER = "other"
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds of the buckets of commit and acknowledgement: from a flash's flush to REQ's patience."""
DELIVERY_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 600.0, 3600.0, 86400.0)
"""Upper bounds of the buckets of delivery: from a round trip to a day without a network."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, under its labels."""

    value: float
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its samples; those of a histogram are Histograms under labels."""

    name: str
    type: MetricType
    help: str
    samples: Sequence[Sample] = ()
    histograms: Sequence[tuple[Labels, Histogram]] = ()

    def __post_init__(self) -> None:
        assert _NAME.fullmatch(self.name), f"{self.name} is no name for a metric"
        assert (self.type == "counter") == self.name.endswith("_total"), f"{self.name} is no {self.type}"


@dataclass(slots=True)
class Histogram:
    """Counts of observations by fixed upper bounds. One bisection an observation."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    """By bucket, not cumulative; the last is beyond all bounds."""
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)
        assert len(self.counts) == len(self.bounds) + 1, "a histogram has one bucket more than bounds"

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `times` observations of `value`."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(upper bound, observations up to it); the last bound is infinite."""
        total = 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            yield bound, total

    def as_record(self) -> dict[str, Any]:
        """The record in a status file, which `of_record` reads."""
        return {"counts": self.counts, "sum": round(self.sum, 6)}

    @classmethod
    def of_record(cls, record: object, bounds: Sequence[float]) -> Histogram | None:
        """The histogram in a status file; None where it is something else, e.g. of another version."""
        if not isinstance(record, Mapping):
            return None
        counts, total = record.get("counts"), record.get("sum")
        if not isinstance(counts, list) or len(counts) != len(bounds) + 1 or not _is_finite(total):
            return None
        if not all(type(count) is int and count >= 0 for count in counts):
            return None
        return cls(bounds, list(counts), float(total))  # type: ignore[arg-type]


def top(weights: Mapping[str, float], most: int = TOP_SERIES) -> dict[str, str]:
    """The label of each name: itself for the `most` heaviest, `other` for the rest.

    Equal weights go by name, so that the choice stays the same from scrape to scrape.
    """
    heaviest = sorted(weights, key=lambda name: (-weights[name], name))
    return {name: name if place < most else OTHER for place, name in enumerate(heaviest)}


def summed(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each set of labels: their sum."""
    sums: dict[Labels, float] = {}
    for sample in samples:
        sums[sample.labels] = sums.get(sample.labels, 0) + sample.value
    return [Sample(value, labels) for labels, value in sums.items()]


def prometheus_text(metrics: Iterable[Metric]) -> str:
    """The text exposition format, version 0.0.4; metrics without samples are left out."""
    lines: list[str] = []
    names: set[str] = set()
    for metric in metrics:
        assert metric.name not in names, f"{metric.name} is written twice"
        names.add(metric.name)
        if metric.samples or metric.histograms:
            lines += [f"# HELP {metric.name} {metric.help.translate(_HELP_ESCAPES)}"]
            lines += [f"# TYPE {metric.name} {metric.type}"]
            lines += _lines(metric)
    return "".join(f"{line}\n" for line in lines)


def _lines(metric: Metric) -> Iterator[str]:
    written: set[Labels] = set()
    for sample in metric.samples:
        assert sample.labels not in written, f"{metric.name}{_label_text(sample.labels)} is written twice"
        written.add(sample.labels)
        yield f"{metric.name}{_label_text(sample.labels)} {_number_text(sample.value)}"
    for labels, histogram in metric.histograms:
        for bound, count in histogram.cumulative():
            yield f"{metric.name}_bucket{_label_text((*labels, ('le', _number_text(bound))))} {count}"
        yield f"{metric.name}_sum{_label_text(labels)} {_number_text(histogram.sum)}"
        yield f"{metric.name}_count{_label_text(labels)} {histogram.count}"


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"


def _number_text(value: float) -> str:
    """The shortest text that gives the same number; infinity and no number as Prometheus writes them."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


def otlp(
    metrics: Iterable[Metric], resource: Mapping[str, str], version: str, start_ns: int, now_ns: int
) -> dict[str, Any]:
    """An ExportMetricsServiceRequest in OTLP's JSON form, for POST /v1/metrics.

    Times are Unix times in nanoseconds: `start_ns` is when the counters began, `now_ns` when they were read.
    A gauge that is infinite or no number is left out: the JSON form has no such number.
    """
    written = [body for metric in metrics if (body := _otlp_metric(metric, start_ns, now_ns))]
    scope = {"scope": {"name": "edge-runtime", "version": version}, "metrics": written}
    attributes = {"attributes": _otlp_attributes(tuple(resource.items()))}
    return {"resourceMetrics": [{"resource": attributes, "scopeMetrics": [scope]}]}


def _otlp_metric(metric: Metric, start_ns: int, now_ns: int) -> dict[str, Any] | None:
    times = {"startTimeUnixNano": str(start_ns), "timeUnixNano": str(now_ns)}
    named = {"name": metric.name, "description": metric.help}
    if metric.type == "histogram":
        points = [
            {
                "attributes": _otlp_attributes(labels),
                **times,
                "count": str(histogram.count),
                "sum": histogram.sum,
                "bucketCounts": [str(count) for count in histogram.counts],
                "explicitBounds": list(histogram.bounds),
            }
            for labels, histogram in metric.histograms
        ]
        return {**named, "histogram": {"aggregationTemporality": 2, "dataPoints": points}} if points else None
    points = [
        {"attributes": _otlp_attributes(sample.labels), **times, "asDouble": sample.value}
        for sample in metric.samples
        if _is_finite(sample.value)
    ]
    if not points:
        return None
    if metric.type == "counter":
        return {**named, "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": points}}
    return {**named, "gauge": {"dataPoints": points}}


def _otlp_attributes(labels: Labels) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in labels]


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
