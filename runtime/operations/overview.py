"""Overview of a whole runtime from outside, out of supervisord, the workers' status files and the disk.

Every source may be missing, or hold anything: what cannot be known is None, and never an error. The record of
a worker that no longer runs is out of date: only its values that cannot have changed are kept. The keys are
documented in deploy/RUNBOOK.md and stay; new ones may come.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime import __version__
from runtime.adapters.process.clock import Clock, read_moment
from runtime.adapters.process.crash import count_crashes
from runtime.adapters.process.logs import last_complaint
from runtime.adapters.process.machine_names import copied_wall_s
from runtime.adapters.process.process import lock_holder, memory_bytes, process_age_s
from runtime.adapters.process.status_file import StatusRecord, last_record, takes_beats
from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.adapters.update.journal_file import journal_facts
from runtime.core.identity import renewal
from runtime.core.message import CorruptRow, StoredMessage
from runtime.core.operations import verdict as condition
from runtime.core.operations.headroom import StoreUsage, headroom
from runtime.errors import EdgeError
from runtime.layout import OPTIONAL_WORKERS, PROGRAMS, Layout
from runtime.operations.disk_report import disk_figures, free_inodes
from runtime.operations.ledger_report import books_in_record, books_on_disk
from runtime.operations.management_report import management_of
from runtime.operations.runway_report import runway_of
from runtime.settings import Settings, StoreSettings, enabled_workers

LOOK_TIMEOUT_S = 2.0
FRESH_S = 3.0
"""A beat of at most this age shows that the folder takes writes: ingest beats every second."""
NO_RECORD = StatusRecord({})


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One program: supervisord's view of it where supervisord answers, else the process
    that holds the worker's lock.
    """

    state: str
    pid: int
    trouble: str
    last: StatusRecord
    """The last status record under this name, perhaps by a process that is gone."""
    lives: bool
    """True if `last` was written by this very process."""

    @property
    def record(self) -> StatusRecord:
        return self.last if self.lives else NO_RECORD


def observe(
    layout: Layout,
    clock: Clock,
    configuration: str = "",
    settings: Settings | None = None,
    *,
    databases: bool = True,
    programs: Mapping[str, Program] | None = None,
) -> dict[str, Any]:
    """The data of `edgectl status`. `configuration` is what is wrong with it; without one, `settings`.

    Without `databases` only status files are read, and `programs` are those that supervisord has just named:
    the sentinel must not wait for a lock, nor ask twice.
    """
    silence = ""
    if programs is None:
        programs, silence = _programs(layout)
    limits = settings.store if settings else None
    absent = condition.HIDDEN if programs or _hidden(layout) else "DOWN"
    seen = {name: _see(layout, name, programs, clock, absent) for name in _shown(programs, settings)}
    sentinel = seen["sentinel"]
    restarts = sentinel.last.counts("restarts")
    overview: dict[str, Any] = {
        "home": str(layout.home),
        "version": __version__,
        "configuration": configuration,
        "supervisor": {"pid": lock_holder(layout.lock("supervisor")) or 0, "trouble": silence},
        "workers": {name: _worker(s, restarts.get(name), clock) for name, s in seen.items()},
        "backlog": _backlog(
            layout, seen["ingest"].record, sentinel.record, clock, limits, databases=databases
        ),
        "hub": _hub(seen["upload"], clock),
        "identity": _identity(
            layout, seen["refresh"].record, seen["provisioning"].record, clock, databases=databases
        ),
        "disk": {"read_only": _read_only(layout, seen, clock), **disk_figures(layout, sentinel.record)},
        "update": journal_facts(settings.update.journal_folder) if settings and databases else None,
        "machine": {"copied_at": _copied_at(layout) if databases else None},
        "crashes": dict(zip(("count", "last"), count_crashes(layout), strict=True)),
        "alarms": _alarms(sentinel.record, {name: seen[name].record for name in seen if name != "sentinel"}),
    }
    overview |= books_on_disk(layout.messages_db) if databases else books_in_record(seen["ingest"].record)
    if "management" in seen:
        overview["management"] = management_of(seen["management"].record)
    overview["latency"] = _latency(seen["ingest"].record, seen["upload"].record)
    overview["runway"] = runway_of(overview, sentinel.record, settings)
    overview["reasons"] = condition.reasons(overview, alarm_limits(settings))
    return {"verdict": condition.verdict(overview), **overview}


def alarm_limits(settings: Settings | None) -> condition.AlarmLimits:
    """The limits that the settings name; without settings the usual ones."""
    if settings is None:
        return condition.AlarmLimits()
    return condition.AlarmLimits(settings.alarm.full_s, settings.alarm.token_s, settings.alarm.quota_s)


def _shown(programs: Mapping[str, Program] | None, settings: Settings | None) -> list[str]:
    """The programs to show: an optional one where it is switched on, or runs all the same."""
    wanted = enabled_workers(settings) if settings else frozenset()
    wanted |= {name for name, program in (programs or {}).items() if program.state != "STOPPED"}
    return [name for name in PROGRAMS if name not in OPTIONAL_WORKERS or name in wanted]


def _programs(layout: Layout) -> tuple[dict[str, Program] | None, str]:
    """Every program, or None and the reason."""
    try:
        return Supervisor(layout.supervisor_socket, LOOK_TIMEOUT_S).programs(), ""
    except EdgeError as exc:
        return None, str(exc)


def _hidden(layout: Layout) -> bool:
    """True if this user may not even look which processes are there."""
    try:
        layout.supervisor_socket.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _see(
    layout: Layout, name: str, programs: Mapping[str, Program] | None, clock: Clock, absent: str
) -> ProcessView:
    last = last_record(layout.status_file(name), clock.boot_id())
    program = (programs or {}).get(name)
    if program:
        state, pid, trouble = program.state, program.pid, program.trouble or _why(layout, program)
    else:
        pid = lock_holder(layout.lock(name)) or 0
        state, trouble = "UNSUPERVISED" if pid else absent, ""
    return ProcessView(state, pid, trouble, last, lives=pid != 0 and last.number("pid") == pid)


def _why(layout: Layout, program: Program) -> str:
    """The last log line of a worker that does not stay up: supervisord knows no reason."""
    log = layout.log / f"{program.name}.log"
    if program.state in ("BACKOFF", "FATAL", "EXITED"):
        return last_complaint(log)
    return last_complaint(log, only_at_the_end=True) if program.state == "STARTING" else ""


def _worker(seen: ProcessView, restarts: int | None, clock: Clock) -> dict[str, Any]:
    return {
        "state": seen.state,
        "pid": seen.pid,
        "uptime_s": process_age_s(seen.pid) if seen.pid else None,
        "restarts": restarts,
        "progress_age_s": seen.record.age_s("progress_boot_s", clock.boot_s()),
        "memory_bytes": memory_bytes(seen.pid) if seen.pid else None,
        "trouble": seen.trouble,
    }


def _alarms(sentinel: StatusRecord, workers: Mapping[str, StatusRecord]) -> list[dict[str, str]]:
    reported = sentinel.values.get("alarms")
    alarms_seen = [a for a in reported if isinstance(a, dict)] if isinstance(reported, list) else []
    alarms = [{"worker": str(a.get("worker")), "text": str(a.get("text"))} for a in alarms_seen]
    own = [
        {"worker": name, "text": text} for name, record in workers.items() if (text := record.text("alarm"))
    ]
    return [*alarms, *own]


def _backlog(
    layout: Layout,
    ingest: StatusRecord,
    sentinel: StatusRecord,
    clock: Clock,
    limits: StoreSettings | None,
    *,
    databases: bool,
) -> dict[str, Any]:
    """The backlog from the disk, so that it is known when no worker runs; only ingest
    can tell what was refused.
    """
    counted = ingest.counts("counted")
    backlog = {
        **dict.fromkeys(("messages", "bytes", "oldest_age_s", "quarantine"), None),
        "dropped": {},
        "store": ingest.text("store"),
        **(_on_disk(layout.messages_db, clock) if databases else _in_record(ingest)),
        "stored": counted.get("stored", 0) if ingest.values else None,
        "leaves": ingest.number("leaves"),
        "new_leaves": counted.get("new_leaves", 0) if ingest.values else None,
        "refused": {k.removeprefix("refused_"): n for k, n in counted.items() if k.startswith("refused_")},
        "refused_lately": ingest.counts("refused_lately"),
    }
    return {**backlog, **_room(backlog, ingest, sentinel, limits, free_inodes(layout))}


def _room(
    backlog: Mapping[str, Any],
    ingest: StatusRecord,
    sentinel: StatusRecord,
    limits: StoreSettings | None,
    free_inodes: int | None,
) -> dict[str, Any]:
    """The space left for messages, and for how long it lasts."""
    disk_bytes = ingest.number("room_bytes")
    short = free_inodes is not None and limits is not None and free_inodes < limits.min_free_inodes
    left = headroom(
        StoreUsage(
            backlog["messages"],
            backlog["bytes"],
            limits.max_messages if limits else None,
            limits.max_bytes if limits else None,
            disk_bytes,
            "inodes" if short else "disk",
            sentinel.number("store_growth_messages_per_s"),
            sentinel.number("store_growth_bytes_per_s"),
        )
    )
    return {
        "room_bytes": left.bytes if ingest.values else None,
        "room_messages": left.messages if ingest.values else None,
        "room_limit": left.limit if ingest.values else None,
        "disk_room_bytes": disk_bytes,
        "full_in_s": None if left.full_in_s is None else round(left.full_in_s),
    }


def _in_record(ingest: StatusRecord) -> dict[str, Any]:
    return {"messages": ingest.number("messages"), "bytes": ingest.number("bytes")}


def _on_disk(path: Path, clock: Clock) -> dict[str, Any]:
    from runtime.adapters.store.reader import StoreReader

    reader = StoreReader(path)
    try:
        if not path.exists():
            return {}
        backlog = reader.backlog()
        oldest = reader.after(backlog.oldest_id - 1, 1, 1) if backlog.oldest_id is not None else []
        return {
            "messages": backlog.messages,
            "bytes": backlog.bytes,
            "oldest_age_s": _age_s(oldest[0], clock) if oldest else None,
            "quarantine": reader.quarantined(),
            "dropped": reader.lost(),
        }
    except (EdgeError, OSError) as exc:
        return {"store": str(exc)}
    finally:
        reader.close()


def _age_s(message: StoredMessage | CorruptRow, clock: Clock) -> float | None:
    """Age by the clock that does not jump where it is the same boot, else by the wall clock."""
    if isinstance(message, CorruptRow):
        return None
    if message.stored_boot_id == clock.boot_id():
        return round(clock.boot_s() - message.stored_boot_s, 1)
    if message.stored_wall_s is None:
        return None
    return round(max(0.0, clock.wall_s() - message.stored_wall_s), 1)


def _hub(upload: ProcessView, clock: Clock) -> dict[str, Any]:
    record, now = upload.record, clock.boot_s()
    connected_s = record.age_s("connected_boot_s", now)
    whole = (
        "in_flight",
        "window",
        "ack_patience_s",
        "in_hand",
        "uploading",
        "unconfirmed",
        "suspects",
        "losses",
        "failed_attempts",
    )
    counts = ("delivered", "quarantined", "dropped", "sent_today", "bytes_today", "units_today")
    return {
        "state": record.text("state") or condition.UNKNOWN,
        "device": record.text("device"),
        "connected_since": _date(clock, connected_s),
        "connected_s": connected_s,
        "puback_age_s": upload.last.age_s("puback_boot_s", now),
        "rate_per_s": record.number("rate_per_s"),
        **{name: record.number(name) for name in (*whole, *counts, "units_month", "unit_every_s")},
        "units_by_stream": _units_by_stream(record),
        "over_budget": record.values.get("over_budget") is True,
        "last_loss": record.text("last_loss"),
        "trouble": record.text("trouble"),
        "barred": record.text("barred"),
        "management": record.text("management"),
        "oldest_waited_s": record.number("oldest_waited_s"),
        "oldest_stream": record.text("oldest_stream"),
        "failing": _failing(record, now),
    }


def _units_by_stream(upload: StatusRecord) -> dict[str, dict[str, int]]:
    """What the hub billed for since upload started, by stream."""
    table = upload.values.get("units_by_stream")
    keys = ("units", "repeat_units", "bytes")
    return {
        stream: dict(zip(keys, counts, strict=True))
        for stream, counts in (table.items() if isinstance(table, dict) else ())
        if isinstance(counts, list) and [type(one) for one in counts] == [int] * len(keys)
    }


def _failing(upload: StatusRecord, now_boot_s: float) -> list[dict[str, Any]]:
    """Lanes that fail again and again, in the other side's words."""
    lanes = map(upload.part, upload.parts("failing"))
    return [
        {
            "lane": lane.text("lane"),
            "stream": lane.text("stream"),
            "failures": lane.number("failures") or 0,
            "since_s": lane.age_s("since_boot_s", now_boot_s),
            "words": lane.text("words") or "",
        }
        for lane in lanes
    ]


def _latency(ingest: StatusRecord, upload: StatusRecord) -> dict[str, Any]:
    """The histograms of how long things take; None where their worker does not live."""
    reported = [record.values.get("latency") for record in (upload, ingest)]
    times = {name: times for each in reported if isinstance(each, dict) for name, times in each.items()}
    return {name: times.get(name) for name in ("commit", "ack", "delivery")}


def _date(clock: Clock, ago_s: float | None) -> str | None:
    """A date for people only: by a wall clock that may be wrong."""
    if ago_s is None:
        return None
    return datetime.fromtimestamp(clock.wall_s() - ago_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _copied_at(layout: Layout) -> str | None:
    """When a start found that the home was copied from another machine, for people only."""
    wall_s = copied_wall_s(layout)
    return None if wall_s is None else datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _identity(
    layout: Layout, refresh: StatusRecord, provisioning: StatusRecord, clock: Clock, *, databases: bool
) -> dict[str, Any]:
    """The identity by refresh's record, else by the disk; and the code that provisioning shows a person."""
    now = clock.boot_s()
    stored = {} if refresh.text("state") or not databases else _identity_on_disk(layout, clock)
    record = StatusRecord(stored) if stored else refresh
    # a worker that waits for provisioning reports nothing beside it: the cause of that wait is the reason
    blamed = provisioning if provisioning.text("state") not in condition.SETTLED else NO_RECORD
    return {
        "state": record.text("state") or condition.UNKNOWN,
        "device_id": record.text("device_id"),
        "next": record.text("next"),
        "next_in_s": _left_s(record, "next_in_s", now),
        "sas_remaining_s": _left_s(record, "sas_remaining_s", now),
        "registration_remaining_s": _left_s(record, "registration_remaining_s", now),
        "trouble": blamed.text("trouble") or record.text("trouble"),
        "reason": blamed.text("reason") or record.text("reason"),
        "skew_s": record.number("skew_s"),
        "provisioning": provisioning.text("state"),
        "verification_code": provisioning.text("verification_code"),
    }


def _left_s(record: StatusRecord, name: str, now_boot_s: float) -> float | None:
    """The rest of a time span that a worker stated when it last made progress."""
    stated_s = record.number(name)
    return (
        None if stated_s is None else round(stated_s - (record.age_s("progress_boot_s", now_boot_s) or 0.0))
    )


def _identity_on_disk(layout: Layout, clock: Clock) -> dict[str, Any]:
    from runtime.adapters.identity.database import IdentityReader

    try:
        identity = IdentityReader(layout).read()
    except (EdgeError, OSError) as exc:
        return {"reason": str(exc)}
    now = read_moment(clock)
    held = replace(identity.held(now), locked="")  # this user has no key that refresh may well have
    return {
        "state": renewal.registration_state(held, now).value,
        "device_id": identity.hub.device_id if identity.hub else None,
        "sas_remaining_s": renewal.sas_left_s(held, now),
        "registration_remaining_s": held.registration.remaining_s(now) if held.registration else None,
        "skew_s": identity.skew(now),
    }


def _read_only(layout: Layout, seen: Mapping[str, ProcessView], clock: Clock) -> bool:
    """True if the disk is read-only for every process: ingest met it, or no worker can beat. For ours alone
    it may be (under a monitor of the service manager's, or in another container).
    """
    if os.strerror(errno.EROFS) in (seen["ingest"].record.text("store") or ""):
        return True
    ages_s = [one.record.age_s("progress_boot_s", clock.boot_s()) for one in seen.values()]
    return not takes_beats(layout.run) and not any(age is not None and age < FRESH_S for age in ages_s)
