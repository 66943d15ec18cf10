"""How long what the stand-in hands out stays valid, in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.devcloud.state.problems import bad_request

LONGEST_S = 1e10
"""About three centuries: what ends later has no date that everybody can write."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Set by flags of `edgectl devcloud` and by the admin API; remembered across restarts."""

    sas_s: float = 24 * 3600.0
    registration_token_s: float | None = 30 * 24 * 3600.0
    """None: for ever."""
    grace_s: float = 600.0
    """How long the parent of a refreshed Registration Token stays valid."""
    operation_s: float = 3600.0
    upload_s: float = 3600.0
    """An upload's address, and how long an upload without notification counts as open."""

    def merge(self, asked: Mapping[str, Any]) -> Lifetimes:
        """These with some replaced. Raises Problem."""
        known = {item.name for item in dataclasses.fields(self)}
        for name, value in asked.items():
            if name not in known:
                raise bad_request(f"unknown lifetime {name}; there are {', '.join(sorted(known))}")
            if value is None and name == "registration_token_s":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_S:
                raise bad_request(f"{name} is not a number of seconds above zero")
        return dataclasses.replace(self, **asked)
