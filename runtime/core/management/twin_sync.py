"""Twin synchronisation: events in, actions out, until the cloud's twin equals what the programs want.

Theory of operation

Two documents stand on disk: `wanted`, which programs change, and `confirmed`, which the hub is known to have.
What is sent is their difference, computed when it is sent; what was sent is never queued or replayed. Where
it is not certain what the hub has, a GET says so, and the difference is computed again.

                  subscribed                      GET 200, no gap
    AWAY -----------------------------> ASKING ---------------------> LEVEL
      ^                                  |  ^                          |
      |            connection lost       |  | gap, silence, 5xx, a foreign writer, a check, daily
      +----------------------------------+--+--------------------------+

Invariants:

1. A program is answered `kept` after the commit that holds its report.
2. At most one request is in flight, and a PATCH leaves at most once in `report_every_s`.
3. `confirmed` changes only by a GET, or by the 204 of the PATCH that is in flight.
4. A GET always counts, also with a lower version: then the device was deleted and created again.
5. Nothing is sent for ever: a section that the hub refuses is left alone until its value changes, and so
   is one that the hub acknowledged twice and shows differently. Both are tried again once a day.

Every change of state is a value: a shell whose commit fails keeps the one from before.

Considered and left: queueing operations (two of them have no common patch); waiting for desired patches alone
(those sent while the device was away never come); believing any answer (a 429 acknowledges nothing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from runtime.core.backoff import pause_s
from runtime.core.management.twin import difference, merged, sharing
from runtime.core.management.twin_reading import AcknowledgedPatch, halves, marked_altered, patched, read
from runtime.core.management.twin_record import (
    AskTwin,
    ChangeApplied,
    DesiredPatch,
    RefusedSection,
    ReportMade,
    SaveTwin,
    SendReported,
    TwinAction,
    TwinEvent,
    TwinLinkDown,
    TwinLinkUp,
    TwinRecord,
    TwinRefreshAsked,
    TwinResponse,
    WakeWatchers,
)
from runtime.core.management.twin_reports import apply_change, apply_report
from runtime.core.management.twin_rules import Document, same

MAX_WAITING_PATCHES = 100
MAX_WAITING_BYTES = 262_144
"""Desired patches kept while a GET is under way; beyond either the GET is asked again instead."""
PAUSE_BASE_S, PAUSE_MAX_S = 5.0, 600.0
PARKED_S = 3_600.0
"""Ceiling and half of it the floor of the pause after a 403: the hub's quota is used up."""
REFRESH_SPREAD = 0.2
"""The daily GET comes up to a fifth earlier or later, so that a fleet does not ask at once."""


class TwinPhase(Enum):
    """The worker's progress with the hub's twin."""

    AWAY = "away"
    """No connection, or no subscription."""
    ASKING = "asking"
    """A GET is under way, or waits for the end of a pause."""
    LEVEL = "level"
    """Desired is what the hub has; differences of reported are sent."""


TRANSITIONS: Mapping[TwinPhase, frozenset[TwinPhase]] = {
    TwinPhase.AWAY: frozenset((TwinPhase.ASKING,)),
    TwinPhase.ASKING: frozenset((TwinPhase.ASKING, TwinPhase.LEVEL, TwinPhase.AWAY)),
    TwinPhase.LEVEL: frozenset((TwinPhase.ASKING, TwinPhase.AWAY)),
}


@dataclass(frozen=True, slots=True)
class TwinLimits:
    """Times in seconds."""

    report_every_s: float = 1.0
    silence_s: float = 30.0
    """A request without an answer for so long is given up."""
    refresh_s: float = 86_400.0


class PendingGet(NamedTuple):
    """The GET in flight."""

    rid: str
    since_s: float


class PendingReport(NamedTuple):
    """The PATCH in flight."""

    rid: str
    since_s: float
    patch: Document
    wanted: Document
    """The wanted document that it was computed from."""


@dataclass(frozen=True, slots=True)
class TwinSync:
    """The whole state. A new process begins with the record from disk and a session of its own."""

    record: TwinRecord
    session: str
    """Part of every request id, so that an answer to a process before this one is known as such."""
    limits: TwinLimits = TwinLimits()
    phase: TwinPhase = TwinPhase.AWAY
    device_id: str = ""
    requests: int = 0
    get: PendingGet | None = None
    report: PendingReport | None = None
    waiting: tuple[DesiredPatch, ...] = ()
    """Desired patches that came while the GET was under way."""
    not_before_s: float = -math.inf
    """End of the pause that the hub's refusals brought."""
    throttled: bool = False
    """The pause is for a 403 or 429: a new connection does not end it."""
    failures: int = 0
    report_at_s: float = -math.inf
    refresh_at_s: float = math.inf
    suspects: frozenset[str] | None = None
    """After a 400 for several sections: those that the next PATCH is narrowed to."""
    acknowledged: Mapping[str, AcknowledgedPatch] = field(default_factory=dict)


class _Instant(NamedTuple):
    now_s: float
    draw: float


Step = tuple[TwinSync, list[TwinAction]]


def after(sync: TwinSync, event: TwinEvent, now_s: float, draw: float) -> Step:
    """The state after an event, and the actions due, in order; `draw` is random in [0, 1)."""
    at = _Instant(now_s, draw)
    sync, actions = _handled(sync, event, at)
    sync = _timed_out(sync, at)
    sync, due = _requests_due(sync, at)
    return sync, [*actions, *due]


def due_s(sync: TwinSync) -> float:
    """The time at which a tick is due, if no event comes before."""
    silence_s = sync.limits.silence_s
    if sync.phase is TwinPhase.ASKING:
        return sync.get.since_s + silence_s if sync.get else sync.not_before_s
    if sync.phase is TwinPhase.LEVEL:
        if sync.report:
            return min(sync.refresh_at_s, sync.report.since_s + silence_s)
        waits_s = max(sync.not_before_s, sync.report_at_s) if _patch_due(sync) else math.inf
        return min(sync.refresh_at_s, waits_s)
    return math.inf


# --- events ---


def _handled(sync: TwinSync, event: TwinEvent, at: _Instant) -> Step:
    match event:
        case TwinLinkUp(device_id):
            not_before_s = sync.not_before_s if sync.throttled else -math.inf
            return _ask(replace(_away(sync), device_id=device_id, not_before_s=not_before_s)), []
        case TwinLinkDown():
            return _away(sync), []
        case TwinResponse() if sync.get and event.rid == sync.get.rid:
            return _on_get(sync, event, at)
        case TwinResponse() if sync.report and event.rid == sync.report.rid:
            return _on_report(sync, sync.report, event, at)
        case DesiredPatch():
            return _on_desired(sync, event)
        case ReportMade() | ChangeApplied():
            return _on_program(sync, event)
        case TwinRefreshAsked() if sync.phase is TwinPhase.LEVEL:
            return _ask(_forgiven(sync)), []
        case _:
            return sync, []


def _on_program(sync: TwinSync, event: ReportMade | ChangeApplied) -> Step:
    if isinstance(event, ReportMade):
        record, answer = apply_report(sync.record, event)
    else:
        record, answer = apply_change(sync.record, event)
    if record is sync.record:
        return sync, [answer]
    return replace(sync, record=record), [SaveTwin(record), answer]  # on disk, and only then told


def _on_desired(sync: TwinSync, event: DesiredPatch) -> Step:
    if sync.phase is TwinPhase.ASKING:
        waiting = (*sync.waiting, event)
        if len(waiting) > MAX_WAITING_PATCHES or sum(p.size_bytes for p in waiting) > MAX_WAITING_BYTES:
            return replace(sync, waiting=(), get=None), []
        return replace(sync, waiting=waiting), []
    if sync.phase is not TwinPhase.LEVEL or event.version <= (sync.record.desired_version or 0):
        return sync, []
    record = patched(sync.record, event)
    if record is None:
        return _ask(sync), []
    return replace(sync, record=record), [SaveTwin(record), WakeWatchers()]


# --- answers of the hub ---


def _on_get(sync: TwinSync, event: TwinResponse, at: _Instant) -> Step:
    twin = halves(event.body) if event.status == 200 else None
    if twin is None:
        return _paused(replace(sync, get=None), event, at), []
    desired, reported = twin
    record = read(sync.record, sync.device_id, desired, reported)
    record, acknowledged = marked_altered(record, sync.acknowledged)
    gap = False
    for waiting in sync.waiting:
        if waiting.version > (record.desired_version or 0):
            later = patched(record, waiting)
            gap = gap or later is None
            record = later or record
    sync = replace(sync, record=record, get=None, waiting=(), failures=0, acknowledged=acknowledged)
    return _ask(sync) if gap else _level(sync, at), [SaveTwin(record), WakeWatchers()]


def _acknowledges(status: int) -> bool:
    """True if the hub took the PATCH."""
    return 200 <= status < 300


def _on_report(sync: TwinSync, sent: PendingReport, event: TwinResponse, at: _Instant) -> Step:
    sync = replace(sync, report=None)
    if _acknowledges(event.status):
        return _on_acknowledged(sync, sent, event.version)
    if event.status == 400:
        return _on_bad_request(sync, sent, event.reason)
    sync = _paused(sync, event, at)
    return (sync if event.status in (403, 429) else _ask(sync)), []  # else it may have been taken


def _on_acknowledged(sync: TwinSync, sent: PendingReport, version: int | None) -> Step:
    before = sync.record.reported_version
    record = replace(
        sync.record,
        confirmed=sharing(merged(sync.record.confirmed, sent.patch), sync.record.wanted),
        reported_version=before if version is None else version,
    )
    acknowledged = {**sync.acknowledged}
    for name, patch in sent.patch.items():
        known = acknowledged.get(name)
        repeats = known.times if known and same(known.patch, patch) else 0
        acknowledged[name] = AcknowledgedPatch(patch, repeats + 1)
    check = any(acknowledged[name].times >= 2 for name in sent.patch)
    sync = replace(sync, record=record, failures=0, suspects=None, acknowledged=acknowledged)
    actions: list[TwinAction] = [SaveTwin(record), WakeWatchers()]
    if check or before is None or version != before + 1:  # or another client wrote, too
        return _ask(sync), actions
    return sync, actions


def _on_bad_request(sync: TwinSync, sent: PendingReport, reason: str) -> Step:
    """Halve the patch by sections until the one is found that the hub refuses."""
    sections = sorted(sent.patch)
    if len(sections) > 1:
        return replace(sync, suspects=frozenset(sections[: len(sections) // 2])), []
    mark = RefusedSection(sent.wanted.get(sections[0]), reason or "bad request")
    record = replace(sync.record, refused={**sync.record.refused, sections[0]: mark})
    return replace(sync, record=record, suspects=None), [SaveTwin(record), WakeWatchers()]


# --- phases and times ---


def _moved(sync: TwinSync, phase: TwinPhase) -> TwinSync:
    assert phase in TRANSITIONS[sync.phase], f"no way from {sync.phase} to {phase}"
    return replace(sync, phase=phase)


def _away(sync: TwinSync) -> TwinSync:
    sync = replace(sync, get=None, report=None, waiting=(), suspects=None)
    return sync if sync.phase is TwinPhase.AWAY else _moved(sync, TwinPhase.AWAY)


def _ask(sync: TwinSync) -> TwinSync:
    return replace(_moved(sync, TwinPhase.ASKING), get=None, report=None, waiting=())


def _level(sync: TwinSync, at: _Instant) -> TwinSync:
    spread = 1 - REFRESH_SPREAD + 2 * REFRESH_SPREAD * at.draw
    refresh_at_s = at.now_s + sync.limits.refresh_s * spread
    return replace(_moved(sync, TwinPhase.LEVEL), refresh_at_s=refresh_at_s, get=None, waiting=())


def _paused(sync: TwinSync, event: TwinResponse | None, at: _Instant) -> TwinSync:
    if event and event.status == 403:
        pause = PARKED_S * (1 + at.draw) / 2
    else:
        pause = pause_s(
            sync.failures,
            at.draw,
            base_s=PAUSE_BASE_S / 2,  # the first ceiling is twice the base
            max_s=PAUSE_MAX_S,
            retry_after_s=event.retry_after_s if event else None,
        )
    throttled = event is not None and event.status in (403, 429)
    return replace(sync, failures=sync.failures + 1, not_before_s=at.now_s + pause, throttled=throttled)


def _forgiven(sync: TwinSync) -> TwinSync:
    """Sections that were given up are tried once more: what was too large may fit by now."""
    return replace(sync, record=replace(sync.record, refused={}, altered={}), acknowledged={})


def _after_silence(sync: TwinSync) -> TwinSync:
    """A PATCH was not answered: only a GET says whether the hub has it."""
    return _ask(sync)


def _timed_out(sync: TwinSync, at: _Instant) -> TwinSync:
    limits = sync.limits
    if sync.get and at.now_s >= sync.get.since_s + limits.silence_s:
        return _paused(replace(sync, get=None), None, at)
    if sync.report and at.now_s >= sync.report.since_s + limits.silence_s:
        return _after_silence(sync)
    if sync.phase is TwinPhase.LEVEL and at.now_s >= sync.refresh_at_s:
        return _ask(_forgiven(sync))
    return sync


# --- requests ---


def _patch_due(sync: TwinSync) -> Document:
    """The difference that may be sent; empty for none."""
    record = sync.record
    withheld = record.withheld()
    patch = difference(record.confirmed, record.wanted)
    due = {name: value for name, value in patch.items() if name not in withheld}
    suspected = {name: value for name, value in due.items() if name in (sync.suspects or ())}
    return suspected or due  # the suspects may be as the hub has them by now


def _requests_due(sync: TwinSync, at: _Instant) -> Step:
    if at.now_s < sync.not_before_s:
        return sync, []
    if sync.phase is TwinPhase.ASKING and sync.get is None:
        sync, rid = _with_rid(sync)
        return replace(sync, get=PendingGet(rid, at.now_s)), [AskTwin(rid)]
    free = sync.phase is TwinPhase.LEVEL and sync.report is None and at.now_s >= sync.report_at_s
    if free and (patch := _patch_due(sync)):
        sync, rid = _with_rid(sync)
        pending = PendingReport(rid, at.now_s, patch, sync.record.wanted)
        sync = replace(sync, report=pending, report_at_s=at.now_s + sync.limits.report_every_s)
        return sync, [SendReported(rid, patch)]
    return sync, []


def _with_rid(sync: TwinSync) -> tuple[TwinSync, str]:
    number = sync.requests + 1
    return replace(sync, requests=number), f"{sync.session}-{number}"
