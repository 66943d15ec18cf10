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
from runtime.adapters.supervisor import Program, Supervisor
from runtime.config import Config
from runtime.errors import EdgeError
from runtime.layout import WORKERS, Layout

LOOK_TIMEOUT_S = 2.0
LATE_AFTER_S = 15.0
"""A worker's loop comes round every 5 s at the latest; three times that is no accident."""


def take(config: Config, clock: Clock) -> dict[str, Any]:
    """Everything `edgectl status` shows."""
    layout = config.layout
    programs = _programs(layout)
    sentinel = read_status(layout.status_file("sentinel")) or {}
    restarts = sentinel.get("restarts", {})
    workers = {name: _worker(layout, name, programs, restarts, clock) for name in (*WORKERS, "sentinel")}
    alarms = sentinel.get("alarms", []) if workers["sentinel"]["state"] == "RUNNING" else []
    reasons = [why for name, worker in workers.items() if (why := _trouble(name, worker))]
    reasons += [f"{alarm['worker']}: {alarm['text']}" for alarm in alarms]
    if programs is None:
        verdict, reasons = "down", ["supervisord does not answer: nothing runs here, or nothing that listens"]
    else:
        verdict = "degraded" if reasons else "healthy"
    return {
        "verdict": verdict,
        "reasons": reasons,
        "home": str(layout.home),
        "workers": workers,
        "backlog": _backlog(layout),
        "hub": _figures(layout, "upload"),
        "identity": _figures(layout, "refresh"),
        "disk": _disk(layout),
        "crashes": dict(zip(("count", "last"), count_crashes(layout), strict=True)),
        "alarms": alarms,
    }


def _programs(layout: Layout) -> dict[str, Program] | None:
    try:
        return Supervisor(layout.supervisor_socket, LOOK_TIMEOUT_S).programs()
    except EdgeError:
        return None


def _worker(
    layout: Layout, name: str, programs: dict[str, Program] | None, restarts: dict[str, int], clock: Clock
) -> dict[str, Any]:
    status = read_status(layout.status_file(name)) or {}
    program = (programs or {}).get(name)
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


def _backlog(layout: Layout) -> dict[str, Any]:
    return _figures(layout, "ingest")


def _figures(layout: Layout, worker: str) -> dict[str, Any]:
    """What the worker said about its own matter, without what every worker says."""
    status = read_status(layout.status_file(worker)) or {}
    common = {"worker", "pid", "started_boot_s", "progress_boot_s", "boot_id"}
    return {name: value for name, value in status.items() if name not in common}


def _disk(layout: Layout) -> dict[str, Any]:
    place = next((p for p in (layout.state, *layout.state.parents) if p.exists()), None)
    if place is None:
        return {}
    usage = shutil.disk_usage(place)
    return {"free_bytes": usage.free, "total_bytes": usage.total}
