"""Crash loop: the evidence that a version on trial ends again and again, so that waiting is of no use. Pure.

Invariants
    Evidence is a count of ends, and no time: a slow device starts late, but what works does not end.
    Each count is kept by the parent of what ends, which sees every end:
        a worker     by the sentinel, for as long as the same supervisord runs
        the service  by the service manager, as systemd's NRestarts
    Without evidence the whole time to confirm is waited out: a count that is missing returns nothing early.
    A version that returns early loses nothing: the one before runs, and the bundle may be applied again.

Considered and left: exit statuses (a worker that is killed for its memory has none of its own), looks at the
processes (what starts and ends between two looks is not seen).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CRASHES = 5
"""Restarts after which a version counts as one that crashes: the sentinel's own number for an alarm."""


@dataclass(frozen=True, slots=True)
class ServiceRestarts:
    """Restarts of the service by its manager, over several looks at its counter."""

    counter: int | None = None
    """The counter at the last look; None: it was not known yet."""
    seen: int = 0

    def after(self, counter: int | None) -> ServiceRestarts:
        """The restarts after one more look. A restart by a person sets the counter to 0."""
        if counter is None:
            return self
        more = 0 if self.counter is None else max(0, counter - self.counter)
        return ServiceRestarts(counter, self.seen + more)


def crashing_worker(record: Mapping[str, object], supervisor_pid: int) -> str:
    """The worker that was restarted too often, in a sentence; empty: none.

    `record` is the sentinel's status record. What it counted under another supervisord says nothing of this
    version.
    """
    memory = record.get("memory")
    watches = memory.get("watches") if isinstance(memory, dict) else None
    if record.get("supervisor_pid") != supervisor_pid or not isinstance(watches, dict):
        return ""
    for worker, watch in watches.items():
        restarts = watch.get("restarted_at_s") if isinstance(watch, dict) else None
        if isinstance(restarts, list) and len(restarts) >= CRASHES:
            return f"{worker} was restarted {len(restarts)} times"
    return ""


def reason_to_return(why_not: str, restarts: ServiceRestarts, *, worker_crashes: bool) -> str:
    """The reason for which a version on trial returns now; empty: it may still confirm itself.

    `why_not` is the last probe's reason.
    """
    if worker_crashes:
        return f"it crashes: {why_not}"
    if restarts.seen >= CRASHES:
        return f"it crashes: the service was restarted {restarts.seen} times; {why_not}"
    return ""
