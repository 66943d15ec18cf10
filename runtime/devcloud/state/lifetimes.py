"""Lifetimes of the tokens and addresses that the stand-in hands out, in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.devcloud.state.problems import bad_request

LONGEST_S = 1e10
"""About three centuries: a later end has no date that all libraries can write."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Set by flags of `edgectl devcloud` and by the admin API; remembered across restarts."""

    sas_s: float = 24 * 3600.0
    registration_token_s: float | None = 30 * 24 * 3600.0
    """None: unlimited."""
    grace_s: float = 600.0
    """Time for which the parent of a refreshed Registration Token stays valid."""
    operation_s: float = 3600.0
    upload_s: float = 3600.0
    """Lifetime of an upload's address, and the time for which an upload without notification counts as
    open.
    """

    def merge(self, asked: Mapping[str, Any]) -> Lifetimes:
        """These lifetimes with some replaced. Raises Problem."""
        known = {item.name for item in dataclasses.fields(self)}
        for name, value in asked.items():
            if name not in known:
                raise bad_request(f"unknown lifetime {name}; there are {', '.join(sorted(known))}")
            if value is None and name == "registration_token_s":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_S:
                raise bad_request(f"{name} is not a number of seconds above zero")
        return dataclasses.replace(self, **asked)
