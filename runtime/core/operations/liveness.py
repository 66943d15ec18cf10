"""Liveness: every worker makes progress and the store takes messages, by the status records alone. Pure.

It is the question of a container's health check and of a boot slot that confirms itself. It does not ask if
the cloud can be reached, or if an operator has approved: a device without a network is well, and a check that
fails for it would restart or roll back a sound one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LATE_AFTER_S = 15.0
"""Workers report every 5 s at the latest; a container's check may come in a busy moment."""


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """The contents of a worker's status record."""

    age_s: float | None
    """Seconds since the last report; None: none in this boot."""
    busy: bool = False
    """It is at something that may take long, such as a salvage: lateness is no fault then."""
    store: str = ""
    """ingest's state of the store; empty from the other workers."""
    gone: bool = False
    """No process holds its lock, and none is about to start it again."""


def faults(workers: Mapping[str, WorkerProgress]) -> list[str]:
    """A sentence for every worker that is not well; none: all are."""
    return [fault for name, progress in workers.items() if (fault := _fault(name, progress))]


def _fault(name: str, progress: WorkerProgress) -> str:
    if progress.age_s is None:
        return f"{name} has not reported yet"
    if progress.gone:
        return f"{name} does not run"
    if progress.age_s > LATE_AFTER_S and not progress.busy:
        return f"{name} has made no progress for {progress.age_s:.0f} s"
    if progress.store not in ("", "open"):
        return f"{name} stores nothing now: {progress.store}"
    return ""
