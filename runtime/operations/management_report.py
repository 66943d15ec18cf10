"""The part of `edgectl status` about twin, commands and calls, by the worker's status file."""

from __future__ import annotations

from typing import Any

from runtime.adapters.process.status_file import StatusRecord


def management_of(record: StatusRecord) -> dict[str, Any]:
    """The facts; what the worker did not say is None or empty."""
    return {
        "twin": record.text("twin"),
        "hub": record.text("hub"),
        "desired_version": record.number("desired_version"),
        "reported_version": record.number("reported_version"),
        "refused": _texts(record, "refused"),
        "altered": _names(record, "altered"),
        "not_applied": _names(record, "not_applied"),
        "commands": record.counts("commands"),
        "commands_at_hub": record.number("commands_at_hub"),
        "calls": record.number("calls"),
        "lost_results": record.counts("lost_results"),
    }


def _texts(record: StatusRecord, name: str) -> dict[str, str]:
    value = record.values.get(name)
    pairs = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in pairs if isinstance(text, str)}


def _names(record: StatusRecord, name: str) -> list[str]:
    value = record.values.get(name)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
