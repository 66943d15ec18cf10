"""Metrics report: the overview of a runtime as metrics, for a scraper and for a collector.

The overview is what `edgectl status --json` shows, with the ledger and the runway in it. A figure that is
unknown has no series; one that is never reached is infinite. docs/operations.md lists the names, which stay.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtime.core.operations.metrics import (
    DELIVERY_BOUNDS_S,
    LATENCY_BOUNDS_S,
    Histogram,
    Labels,
    Metric,
    MetricType,
    Sample,
    summed,
    top,
)
from runtime.operations.runway_report import NEVER

HISTOGRAMS = {
    "commit": ("Time of a commit to the store, with its flush.", LATENCY_BOUNDS_S),
    "ack": ("Time from reading a request to its acknowledgement.", LATENCY_BOUNDS_S),
    "delivery": ("Time from storing a message to the hub's acknowledgement.", DELIVERY_BOUNDS_S),
}
"""Histograms by the name that they have in the overview."""


def report(state: Mapping[str, Any], *, now_s: float) -> list[Metric]:
    """Every metric of an overview; `now_s` is the Unix time at which it was taken."""
    return [
        *_ledger(state.get("ledger") or {}),
        *_backlog(state),
        *_disk(state["disk"]),
        *_runway(state),
        *_hub(state["hub"]),
        *_workers(state["workers"]),
        *_latencies(state.get("latency") or {}),
        _one(
            "edge_clock_skew_seconds", "gauge", "The platform's clock less ours.", state["identity"]["skew_s"]
        ),
        _build(state),
        Metric("edge_alarm", "gauge", "An alarm that stands.", _alarms(state["alarms"])),
        _one("edge_reasons", "gauge", "Reasons why the runtime is not healthy.", len(state["reasons"])),
        _one("edge_metrics_written_timestamp_seconds", "gauge", "Unix time of these figures.", now_s),
    ]


def _one(name: str, type_: MetricType, help_: str, value: object, labels: Labels = ()) -> Metric:
    """A metric with one sample; with none where the value is unknown."""
    number = _number(value)
    return Metric(name, type_, help_, [] if number is None else [Sample(number, labels)])


def _number(value: object) -> float | None:
    if value == NEVER:
        return math.inf
    if isinstance(value, bool):
        return float(value)
    return value if isinstance(value, int | float) else None


def _ledger(ledger: Mapping[str, Any]) -> Iterable[Metric]:
    """The books by stream; the heaviest streams have series of their own."""
    streams = [one for one in ledger.get("streams", ()) if isinstance(one, dict)]
    labels = top({one["stream"]: one.get("stored", 0) for one in streams})

    def counted(name: str, help_: str, key: str) -> Metric:
        samples = [Sample(one.get(key, 0), (("stream", labels[one["stream"]]),)) for one in streams]
        return Metric(name, "counter", help_, summed(samples))

    lost = [
        Sample(count, (("stream", labels[one["stream"]]), ("reason", reason)))
        for one in streams
        for part in ("lost", "late")  # what is no longer lost was counted: a counter never goes back
        for reason, count in (one.get(part) or {}).items()
    ]
    yield counted("edge_messages_stored_total", "Messages that were ever stored.", "stored")
    yield counted("edge_messages_delivered_total", "Messages that the hub acknowledged.", "delivered")
    yield counted("edge_messages_requeued_total", "Messages taken back from quarantine.", "requeued")
    yield Metric("edge_messages_lost_total", "counter", "Messages lost, by the reason.", summed(lost))
    yield _one(
        "edge_ledger_difference_messages",
        "gauge",
        "Stored less delivered, waiting, set aside and lost: 0, or the books do not close.",
        ledger.get("difference"),
    )


def _backlog(state: Mapping[str, Any]) -> Iterable[Metric]:
    backlog = state["backlog"]
    streams = [one for one in state.get("streams") or () if isinstance(one, dict)]
    labels = top({one["stream"]: one.get("bytes") or 0 for one in streams})

    def waiting(key: str, whole: object) -> list[Sample]:
        if streams:
            return summed(Sample(one.get(key) or 0, (("stream", labels[one["stream"]]),)) for one in streams)
        number = _number(whole)
        return [] if number is None else [Sample(number, (("stream", "-"),))]

    yield Metric(
        "edge_backlog_messages", "gauge", "Messages that wait.", waiting("messages", backlog["messages"])
    )
    yield Metric("edge_backlog_bytes", "gauge", "Bytes that wait.", waiting("bytes", backlog["bytes"]))
    oldest_s = backlog["oldest_age_s"] if backlog["messages"] else 0
    yield _one("edge_backlog_oldest_age_seconds", "gauge", "Age of the oldest message that waits.", oldest_s)
    yield _one("edge_quarantine_messages", "gauge", "Messages set aside.", backlog["quarantine"])
    refused = [Sample(count, (("code", code),)) for code, count in backlog["refused"].items()]
    yield Metric("edge_messages_refused_total", "counter", "Requests refused, since ingest started.", refused)
    yield _one("edge_store_room_bytes", "gauge", "Bytes that can still be stored.", backlog["room_bytes"])
    yield _one("edge_store_open", "gauge", "1 where messages are stored.", backlog["store"] == "open")


def _disk(disk: Mapping[str, Any]) -> Iterable[Metric]:
    yield _one("edge_disk_free_bytes", "gauge", "Free bytes of the state folder's disk.", disk["free_bytes"])
    yield _one("edge_disk_free_inodes", "gauge", "Files that can still be made on it.", disk["free_inodes"])
    yield _one("edge_disk_read_only", "gauge", "1 where it takes no writes.", disk["read_only"])


def _runway(state: Mapping[str, Any]) -> Iterable[Metric]:
    runway, identity = state.get("runway") or {}, state["identity"]
    tokens = {"sas": "sas_remaining_s", "registration": "registration_remaining_s"}
    ends = [
        Sample(left_s, (("token", token),))
        for token, key in tokens.items()
        if (left_s := _number(identity[key])) is not None
    ]
    yield _one("edge_runway_full_seconds", "gauge", "Until the store is full.", runway.get("full_in_s"))
    yield _one(
        "edge_runway_drained_seconds", "gauge", "Until nothing waits any more.", runway.get("drained_in_s")
    )
    yield _one("edge_runway_quota_seconds", "gauge", "Until the quota is used up.", runway.get("quota_in_s"))
    yield _one(
        "edge_runway_units_per_day",
        "gauge",
        "Units of 4 KiB that the hub bills a day, at the rate of the last hour.",
        runway.get("units_a_day"),
    )
    yield Metric("edge_runway_token_seconds", "gauge", "Until a token ends.", ends)


def _hub(hub: Mapping[str, Any]) -> Iterable[Metric]:
    yield _one("edge_hub_connected", "gauge", "1 while a connection to the hub stands.", hub["state"] == "up")
    yield _one("edge_hub_parked", "gauge", "1 while the link may not be used.", bool(hub["barred"]))
    for name, key, help_ in (
        ("in_flight", "in_flight", "Messages sent and not acknowledged yet."),
        ("window", "window", "Most messages in flight at present."),
        ("unconfirmed", "unconfirmed", "Delivered messages that ingest has not removed yet."),
        ("suspects", "suspects", "Messages that may be what the hub drops connections for."),
        ("puback_age_seconds", "puback_age_s", "Age of the last acknowledgement of the hub's."),
        ("oldest_waited_seconds", "oldest_waited_s", "Time that the oldest sendable message has waited."),
    ):
        yield _one(f"edge_hub_{name}", "gauge", help_, hub[key])
    yield _one("edge_hub_connections_lost_total", "counter", "Connections that were lost.", hub["losses"])
    link = (("stream", "-"),)
    yield _one("edge_link_sent_bytes_today", "gauge", "Bytes sent since 00:00 UTC.", hub["bytes_today"], link)
    yield from _bill(hub)


def _bill(hub: Mapping[str, Any]) -> Iterable[Metric]:
    """What the hub bills for, by stream; the heaviest streams have series of their own."""
    streams: Mapping[str, Mapping[str, int]] = hub.get("units_by_stream") or {}
    labels = top({stream: counts["units"] for stream, counts in streams.items()})
    for name, key, help_ in (
        ("units", "units", "Units of 4 KiB that the hub bills for, since upload started."),
        ("repeat_units", "repeat_units", "Those of them that were sent again."),
        ("metered_bytes", "bytes", "Bytes that fill them, by the documented size."),
    ):
        samples = summed(Sample(one[key], (("stream", labels[name_]),)) for name_, one in streams.items())
        yield Metric(f"edge_link_{name}_total", "counter", help_, samples)
    yield _one("edge_link_units_today", "gauge", "Units since 00:00 UTC.", hub.get("units_today"))
    yield _one("edge_link_units_month", "gauge", "Units since the 1st, UTC.", hub.get("units_month"))
    over = bool(hub.get("over_budget"))
    yield _one("edge_link_over_budget", "gauge", "1 while the budget of units cannot hold what comes.", over)


def _workers(workers: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    def each(value: Callable[[Mapping[str, Any]], object]) -> list[Sample]:
        numbers = ((name, _number(value(worker))) for name, worker in workers.items())
        return [Sample(number, (("worker", name),)) for name, number in numbers if number is not None]

    yield Metric("edge_worker_up", "gauge", "1 while it runs.", each(lambda one: one["state"] == "RUNNING"))
    yield Metric(
        "edge_worker_restarts_total", "counter", "Restarts after a crash.", each(lambda one: one["restarts"])
    )
    yield Metric(
        "edge_worker_memory_bytes", "gauge", "Resident memory.", each(lambda one: one["memory_bytes"])
    )
    yield Metric(
        "edge_worker_progress_age_seconds",
        "gauge",
        "Time since its loop came round.",
        each(lambda one: one["progress_age_s"]),
    )
    yield Metric(
        "edge_written_bytes_total",
        "counter",
        "Bytes handed to the disk by this process.",
        each(lambda one: one.get("written_bytes")),
    )


def _latencies(latency: Mapping[str, Any]) -> Iterable[Metric]:
    for name, (help_, bounds) in HISTOGRAMS.items():
        histogram = Histogram.of_record(latency.get(name), bounds)
        yield Metric(
            f"edge_{name}_seconds", "histogram", help_, histograms=[((), histogram)] if histogram else ()
        )


def _alarms(alarms: Iterable[Mapping[str, str]]) -> list[Sample]:
    """One sample for each alarm; the text is not a label, as it changes while the alarm stands."""
    kinds = {(alarm["worker"], alarm.get("name") or "alarm") for alarm in alarms}
    return [Sample(1, (("worker", worker), ("alarm", kind))) for worker, kind in sorted(kinds)]


def _build(state: Mapping[str, Any]) -> Metric:
    labels = (
        ("version", str(state["version"])),
        ("python", platform.python_version()),
        ("device", str(state["identity"]["device_id"] or "")),
    )
    return Metric("edge_build_info", "gauge", "Always 1; the labels are what matters.", [Sample(1, labels)])
