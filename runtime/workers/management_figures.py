"""The figures of the worker management, for its status file and for the built-in methods."""

from __future__ import annotations

from typing import Any

from runtime import __version__
from runtime.core.management.twin_record import TwinRecord
from runtime.workers.management_turn import ManagementState

MOST_NAMED = 3


def figures_of(
    state: ManagementState, hub: str, commands_at_hub: int, lost_results: dict[str, int], trouble: str
) -> dict[str, Any]:
    """All of them. `trouble` is what the disk does not take; it and what the hub refuses are an alarm."""
    record = state.twin.record
    states = [command.state.value for command in state.commands.open.values()]
    alarm = _alarm(record, trouble)
    return {
        "state": "serving",
        "hub": hub,
        "twin": state.twin.phase.value,
        "desired_version": record.desired_version,
        "reported_version": record.reported_version,
        "twin_restarts": record.restarts,
        "refused": {name: mark.reason for name, mark in record.refused.items()},
        "altered": sorted(record.altered),
        "not_applied": _not_applied(record),
        "commands": {name: states.count(name) for name in sorted(set(states))},
        "commands_at_hub": commands_at_hub,
        "calls": len(state.calls.open),
        "lost_results": lost_results,
        "version": __version__,
        **({"alarm": alarm} if alarm else {}),
    }


def _not_applied(record: TwinRecord) -> list[str]:
    """Sections of the desired properties of which no program said that it applied their last change."""
    return sorted(
        name
        for name, change in record.desired_changes.items()
        if not any(path[:1] == (name,) and word.change == change for path, word in record.applied.items())
    )


def _alarm(record: TwinRecord, trouble: str) -> str:
    refused = [f"the hub refuses /{name}: {mark.reason}" for name, mark in record.refused.items()]
    altered = [f"the hub shows /{name} differently from what was reported" for name in record.altered]
    return "; ".join([*([trouble] if trouble else []), *refused[:MOST_NAMED], *altered[:MOST_NAMED]])
