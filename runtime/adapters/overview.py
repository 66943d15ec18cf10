"""One look at a whole runtime from outside: what supervisord, the workers' status files and the disk say.

Every source may be missing; what cannot be known is None, and never an error.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from runtime.adapters.clock import Clock
from runtime.adapters.crash import count_crashes
from runtime.adapters.status import read_status
from runtime.adapters.store_reader import StoreReader
from runtime.adapters.supervisor import Program, Supervisor
from runtime.config import Config
from runtime.core.message import CorruptRow, StoredMessage
from runtime.errors import EdgeError
from runtime.layout import WORKERS, Layout

LOOK_TIMEOUT_S = 2.0
LATE_AFTER_S = 15.0
"""A worker's loop comes round every 5 s at the latest; three times that is no accident."""

QUARANTINE_COUNTED = 1_000
LEAST_GROWTH_BYTES_PER_S = 100.0
GOOD_HUB = ("up", "draining")
GOOD_IDENTITY = "registered"


def take(config: Config, clock: Clock) -> dict[str, Any]:
    """Everything `edgectl status` shows."""
    layout = config.layout
    programs, silence = _programs(layout)
    sentinel = read_status(layout.status_file("sentinel")) or {}
    restarts = sentinel.get("restarts", {})
    workers = {name: _worker(layout, name, programs, restarts, clock) for name in (*WORKERS, "sentinel")}
    alarms = sentinel.get("alarms", []) if workers["sentinel"]["state"] == "RUNNING" else []
    hub, identity = _figures(layout, "upload"), _identity(layout)
    reasons = [silence] if programs is None else _reasons(workers, alarms, hub, identity)
    return {
        "verdict": "down" if programs is None else "degraded" if reasons else "healthy",
        "reasons": reasons,
        "home": str(layout.home),
        "workers": workers,
        "backlog": _backlog(layout, clock),
        "hub": hub,
        "identity": identity,
        "disk": _disk(layout, sentinel.get("disk_growth_bytes_per_s")),
        "crashes": dict(zip(("count", "last"), count_crashes(layout), strict=True)),
        "alarms": alarms,
    }


def _reasons(
    workers: dict[str, Any], alarms: list[dict[str, str]], hub: dict[str, Any], identity: dict[str, Any]
) -> list[str]:
    """Everything that makes the runtime less than healthy, one sentence each."""
    found = [why for name, worker in workers.items() if (why := _trouble(name, worker))]
    found += [f"{alarm['worker']}: {alarm['text']}" for alarm in alarms]
    if identity.get("state", GOOD_IDENTITY) != GOOD_IDENTITY:
        found.append(f"identity: {identity['state']}")
    if hub.get("state", GOOD_HUB[0]) not in GOOD_HUB:
        found.append(f"hub: {hub['state']}")
    return found


def _programs(layout: Layout) -> tuple[dict[str, Program] | None, str]:
    """Every program, or None and why."""
    try:
        return Supervisor(layout.supervisor_socket, LOOK_TIMEOUT_S).programs(), ""
    except EdgeError as exc:
        return None, str(exc)


def _worker(
    layout: Layout, name: str, programs: dict[str, Program] | None, restarts: dict[str, int], clock: Clock
) -> dict[str, Any]:
    program = (programs or {}).get(name)
    status = read_status(layout.status_file(name)) or {}
    if program and program.pid and status.get("pid") != program.pid:
        status = {}  # its predecessor's
    same_boot = status.get("boot_id") == clock.boot_id()
    progress = status.get("progress_boot_s")
    return {
        "state": program.state if program else "UNKNOWN" if programs else "DOWN",
        "pid": program.pid if program else 0,
        "uptime_s": program.since_s if program and program.pid else None,
        "restarts": restarts.get(name),
        "progress_age_s": round(clock.boot_s() - progress, 1) if same_boot and progress else None,
        "memory_bytes": memory_bytes(program.pid) if program and program.pid else None,
        "trouble": program.trouble if program else "",
    }


def _trouble(name: str, worker: dict[str, Any]) -> str:
    """Why this worker makes the runtime less than healthy, or nothing."""
    if worker["state"] != "RUNNING":
        return f"{name} is {worker['state']}" + (f": {worker['trouble']}" if worker["trouble"] else "")
    age = worker["progress_age_s"]
    if age is None and worker["uptime_s"] > LATE_AFTER_S:
        return f"{name} never reported progress"
    if age is not None and age > LATE_AFTER_S:
        return f"{name} has made no progress for {age:.0f} s"
    return ""


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _backlog(layout: Layout, clock: Clock) -> dict[str, Any]:
    """From the disk, so that it is known when nobody runs; what was refused and lost only ingest can say."""
    figures = _figures(layout, "ingest")
    reader = StoreReader(layout.messages_db)
    try:
        backlog = reader.backlog()
        oldest = reader.after(backlog.oldest_id - 1, 1, 1) if backlog.oldest_id is not None else []
        return {
            "messages": backlog.messages,
            "bytes": backlog.bytes,
            "oldest_age_s": _age_s(oldest[0], clock) if oldest else None,
            "quarantine": len(reader.quarantine(limit=QUARANTINE_COUNTED)),
            "counted": figures.get("counted", {}),
            "store": figures.get("store"),
        }
    except EdgeError as exc:
        return {"store": str(exc)}
    finally:
        reader.close()


def _age_s(message: StoredMessage | CorruptRow, clock: Clock) -> float | None:
    """By the clock that does not jump where it is the same boot, else by the wall."""
    if isinstance(message, CorruptRow):
        return None
    if message.stored_boot_id == clock.boot_id():
        return round(clock.boot_s() - message.stored_boot_s, 1)
    if message.stored_wall_s is None:
        return None
    return round(max(0.0, clock.wall_s() - message.stored_wall_s), 1)


def _figures(layout: Layout, worker: str) -> dict[str, Any]:
    """What the worker said about its own matter, without what every worker says."""
    status = read_status(layout.status_file(worker)) or {}
    common = {"worker", "pid", "started_boot_s", "progress_boot_s", "boot_id"}
    return {name: value for name, value in status.items() if name not in common}


def _identity(layout: Layout) -> dict[str, Any]:
    """What refresh says, and while a person has to approve, what provisioning shows that person."""
    found = _figures(layout, "refresh")
    enrolment = _figures(layout, "provisioning")
    if enrolment.get("state"):
        found["provisioning"] = enrolment["state"]
    if enrolment.get("verification_code"):
        found["verification_code"] = enrolment["verification_code"]
    return found


def _disk(layout: Layout, growth_bytes_per_s: float | None) -> dict[str, Any]:
    """Free space, and how long it lasts at the rate of late."""
    place = next((p for p in (layout.state, *layout.state.parents) if p.exists()), None)
    if place is None:
        return {}
    usage = shutil.disk_usage(place)
    filling = growth_bytes_per_s is not None and growth_bytes_per_s > LEAST_GROWTH_BYTES_PER_S
    return {
        "free_bytes": usage.free,
        "total_bytes": usage.total,
        "full_in_s": round(usage.free / growth_bytes_per_s) if filling and growth_bytes_per_s else None,
    }
