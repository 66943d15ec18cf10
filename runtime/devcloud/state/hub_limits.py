"""Limits of the hub that an operator chooses: its tier, and the lives of commands and method calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runtime.devcloud.state.problems import Problem, bad_request

MOST_TTL_S = 2 * 24 * 3600.0
"""The longest life of a command that the hub can be set to."""
_RANGES: Mapping[str, tuple[float, float]] = {
    "command_ttl_s": (0.001, MOST_TTL_S),
    "command_lock_s": (0.001, 300),
    "commands_pending": (1, 50),
    "command_deliveries": (1, 100),
    "method_least_timeout_s": (0.001, 5),
}
"""Least and largest value; the hub's own ranges, but open below, so that a test sees the rare at once."""


class Tier(StrEnum):
    """Tiers of the hub."""

    STANDARD = "standard"
    BASIC = "basic"
    """Telemetry only: any packet of twins, methods or commands ends the connection."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Set by the admin API; remembered across restarts. The defaults are the real hub's."""

    tier: Tier = Tier.STANDARD
    commands_pending: int = 50
    """Commands of one device that may wait; one more is refused to its sender."""
    command_ttl_s: float = 3600.0
    """Life of a command whose sender names no expiry."""
    command_lock_s: float = 60.0
    """Time for which a command that was sent waits for its PUBACK, before it is sent again."""
    command_deliveries: int = 10
    """Deliveries after which an abandoned command is dead-lettered."""
    lock_end_counts: bool = False
    """True if the end of a lock abandons the command, as the documentation has it; false as the real hub was
    seen to behave over MQTT: a command without PUBACK comes again until it expires."""
    method_least_timeout_s: float = 5.0
    """The shortest response time-out that a caller of a method may ask for."""

    def merge(self, asked: Mapping[str, Any]) -> HubLimits:
        """These limits with some replaced; null restores a default. Raises Problem."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for name, value in asked.items():
            if name not in defaults:
                raise bad_request(f"unknown limit {name}; there are {', '.join(defaults)}")
            changes[name] = defaults[name] if value is None else _checked(name, value, defaults[name])
        return dataclasses.replace(self, **changes)

    def require_management(self) -> None:
        """Raise Problem on a tier without twins, commands and methods."""
        if self.tier is Tier.BASIC:
            detail = "the basic tier has no twins, no methods and no cloud-to-device messages"
            raise Problem(400, "hub/notSupported", "The hub's tier does not support this", detail)


def _checked(name: str, value: object, default: object) -> Any:
    if name == "tier":
        try:
            return Tier(str(value))
        except ValueError:
            raise bad_request(f"tier is not one of {', '.join(Tier)}") from None
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise bad_request(f"{name} is not true or false")
        return value
    least, most = _RANGES[name]
    kinds = int if isinstance(default, int) else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise bad_request(f"{name} is not a number from {least:g} to {most:g}")
    return value
