"""Faults of the stand-in, on request. All zero: a well-behaved cloud.

A merge makes a new `Faults`; counts (`ack_limit`, `drop_after_messages`, `quota_left`) start over with each.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import Rejected


class BadFault(Rejected):
    """The asked-for fault does not exist or makes no sense."""


@dataclass(slots=True)
class HttpFault:
    """The fault for matching HTTP requests: wait, then cut the connection or give this answer instead."""

    status: int | None = None
    """Answer with this status. None: answer as usual, after `delay_s`."""
    retry_after: float | None = None
    """Seconds in the `Retry-After` header."""
    body: str | None = None
    delay_s: float = 0.0
    cut: bool = False
    """Close the connection without an answer."""
    times: int | None = None
    """The number of requests that it still applies to; None: all."""


@dataclass(frozen=True, slots=True)
class Faults:
    """All faults of this cloud."""

    ack_delay_ms: float = 0.0
    """The delay of every PUBACK; PUBACKs do not wait for one another, as over a long line."""
    withhold_acks: bool = False
    """PUBACKs are kept back, in order, until this ends. The messages are recorded."""
    ack_limit: int | None = None
    """PUBACKs that the hub still sends before it keeps them back."""
    refuse_connect_code: int | None = None
    """CONNACK code, 1 to 5, for every CONNECT."""
    poison: str | None = None
    """A message whose payload contains this is not recorded: its connection is dropped abruptly."""
    throttle_per_s: float | None = None
    """PUBACKs a second for each connection; one that is owed ten seconds of them is dropped."""
    quota_left: int | None = None
    """Messages that the hub still takes before its daily quota is used up: then it ends the connection at the
    first one, polite and without a word, answers twin patches with 403, and 403002 over HTTPS."""
    silent: bool = False
    """TCP and TLS stay open, nothing is read or answered: no CONNACK, no PUBACK, no PINGRESP."""
    drop_after_messages: int | None = None
    """Every connection is dropped abruptly at its n-th message: recorded, not acknowledged."""
    sas_lifetime_s: float | None = None
    """Lifetime of the SAS handed out from now on."""
    registration_token_lifetime_s: float | None = None
    """Lifetime of the Registration Tokens handed out from now on."""
    http: Mapping[str, HttpFault] = field(default_factory=dict)
    """The faults of HTTP requests, by `METHOD /path-prefix`."""

    def merge(self, asked: Mapping[str, Any]) -> Faults:
        """These faults with what a JSON object asks for; null takes a fault back. Raises BadFault."""
        changes: dict[str, Any] = {}
        for name, value in asked.items():
            if name == "http":
                changes[name] = _merge_http(self.http, value)
            else:
                changes[name] = _checked(Faults, name, value)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The faults in force, in the form that `merge` takes."""
        return dataclasses.asdict(self)

    def take_http(self, method: str, path: str) -> HttpFault | None:
        """The fault for a request, the longest matching prefix first; uses up one of its `times`."""
        target = f"{method} {path}"
        for prefix in sorted(self.http, key=len, reverse=True):
            fault = self.http[prefix]
            if target.startswith(prefix) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


_RANGES: Mapping[str, tuple[float, float]] = {
    "refuse_connect_code": (1, 5),
    "throttle_per_s": (0.001, math.inf),
    "drop_after_messages": (1, math.inf),
    "status": (200, 599),
}
"""Least and largest value of a number where it is not simply 0 or more."""


def _merge_http(faults: Mapping[str, HttpFault], asked: object) -> dict[str, HttpFault]:
    if asked is None:
        return {}
    if not isinstance(asked, dict):
        raise BadFault("http must be an object of faults by METHOD /path-prefix")
    merged = dict(faults)
    for target, fields in asked.items():
        if fields is None:
            merged.pop(target, None)
        elif not isinstance(fields, dict) or " /" not in target:
            raise BadFault(f"http: {target!r} must be METHOD /path-prefix, with an object or null")
        else:
            merged[target] = HttpFault(**{k: _checked(HttpFault, k, v) for k, v in fields.items()})
    return merged


def _checked(owner: type, name: str, value: object) -> Any:
    """`value` for the field `name`; null means its default."""
    fields = {f.name: f for f in dataclasses.fields(owner)}
    if name not in fields:
        raise BadFault(f"unknown fault {name!r}; there are {', '.join(fields)}")
    if value is None:
        return fields[name].default
    kind = _kind_of(owner, name)
    if type(value) not in (kind, *((int,) if kind is float else ())):  # exact types: JSON's true is no number
        raise BadFault(f"{name} = {value!r} is not {_WORDS[kind]}")
    low, high = _RANGES.get(name, (0, math.inf))
    if isinstance(value, int | float) and not low <= value <= high:
        rule = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise BadFault(f"{name} = {value!r} must be {rule}")
    return value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _kind_of(owner: type, name: str) -> Any:
    hint = typing.get_type_hints(owner)[name]
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint
