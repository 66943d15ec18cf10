"""The proof by which a version confirms itself: its workers live, and a message is stored. No cloud is asked.

A record in run/ may be that of the version before. So what counts is the supervisord that holds the lock of
the home, which has to be of this version, and workers that are younger than it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.process import lock_holder, process_age_s
from runtime.adapters.process.status_file import BUSY, last_record
from runtime.config import Config
from runtime.core.operations.liveness import WorkerProgress, faults
from runtime.core.update.crash_loop import crashing_worker
from runtime.errors import EdgeError
from runtime.layout import WORKERS, Layout
from runtime.producer import Producer

STREAM = "_update"
"""The stream of the probe; as a message it tells the cloud of the new version, too."""
STORE_S = 10.0
SETTLED_S = 10.0
"""A worker that has run for so long does not die at its start."""
SETTLED_SHARE = 6
"""Of a short time to confirm, workers have to run for this part only."""
_AGE_ROUNDING_S = 0.1
"""The kernel says the start of a process in hundredths."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The outcome of a probe."""

    reason: str = ""
    """Why the version does not work; empty: it does."""
    crash_loop: bool = False
    """A worker crashes again and again: no later probe is likely to be better."""


def probe(config: Config, clock: Clock, version: str, prefix: Path | None = None) -> ProbeResult:
    """Find out if this version works in this home. It stores a message."""
    if reason := _not_running(config, clock, prefix or Path(sys.prefix)):
        crashing = _crashing(config.layout, clock)
        return ProbeResult(f"{crashing}; {reason}" if crashing else reason, bool(crashing))
    payload = f'{{"update": "{version}"}}'.encode()
    try:
        with Producer(config.producer_endpoint(), name="edgectl-update", retry_for_s=STORE_S) as producer:
            producer.put(payload, stream=STREAM, content_type="application/json", priority=9)
    except EdgeError as exc:
        return ProbeResult(f"the probe was not stored: {exc}")
    return ProbeResult()


def _crashing(layout: Layout, clock: Clock) -> str:
    supervisor = lock_holder(layout.lock("supervisor"))
    record = last_record(layout.status_file("sentinel"), clock.boot_id())
    return crashing_worker(record.values, supervisor) if supervisor else ""


def _not_running(config: Config, clock: Clock, prefix: Path) -> str:
    layout = config.layout
    supervisor = lock_holder(layout.lock("supervisor"))
    age_s = process_age_s(supervisor) if supervisor else None
    if not supervisor or age_s is None:
        return "no runtime runs in the home"
    if not _is_of(supervisor, prefix):
        return f"the runtime that runs (process {supervisor}) is of another version"
    settled_s = min(SETTLED_S, config.settings.update.confirm_s / SETTLED_SHARE)
    seen = {}
    for name in (*WORKERS, "sentinel"):
        if reason := _not_settled(layout, clock, name, age_s, settled_s):
            return reason
        record = last_record(layout.status_file(name), clock.boot_id())
        progress_s = record.age_s("progress_boot_s", clock.boot_s())
        seen[name] = WorkerProgress(progress_s, record.values.get(BUSY) is True, record.text("store") or "")
    return "; ".join(faults(seen))


def _not_settled(layout: Layout, clock: Clock, name: str, supervisor_age_s: float, settled_s: float) -> str:
    record = last_record(layout.status_file(name), clock.boot_id())
    pid = int(record.number("pid") or 0)
    age_s = process_age_s(pid) if pid else None
    if age_s is None or age_s > supervisor_age_s + _AGE_ROUNDING_S:
        return f"{name} does not run yet"
    return "" if age_s >= settled_s else f"{name} has run for {age_s:.0f} s only"


def _is_of(pid: int, prefix: Path) -> bool:
    """True if the process was started by the interpreter of this environment."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(word.decode(errors="replace")).is_relative_to(prefix) for word in command[:2] if word)
