"""Faults of the stand-in, on request. All zero: a well-behaved cloud.

A merge makes a new `Faults`; counts (`ack_limit`, `drop_after_messages`, `quota_left`) start over with each.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from runtime.errors import Rejected

Fault = TypeVar("Fault")


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


@dataclass(slots=True)
class TwinFault:
    """The fault for twin requests of one kind, `GET` or `PATCH`."""

    status: int | None = None
    """Answer with this status, and change nothing. None: do as usual."""
    applied: bool = False
    """With a `status`: do what was asked for nevertheless."""
    body: str | None = None
    """The body of the answer, in place of the right one."""
    delay_s: float = 0.0
    """Answer so much later; the twin changes at once."""
    lost: bool = False
    """The answer never comes; what was asked for is done, unless `status` refuses it."""
    drop: bool = False
    """Drop the connection abruptly instead of answering; what was asked for is done, as with `lost`."""
    times: int | None = None
    """The number of requests that it still applies to; None: all."""


class DropAt(StrEnum):
    """Packets of a device at whose arrival the hub may drop the connection, before it looks at them."""

    SUBSCRIBE = "subscribe"
    PUBACK = "puback"
    TWIN_GET = "twin-get"
    TWIN_PATCH = "twin-patch"
    METHOD_ANSWER = "method-answer"


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
    first one, polite and without a word, answers twin requests with 403, and 403002 over HTTPS. Twin
    requests, commands and method calls count, too."""
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
    twin: Mapping[str, TwinFault] = field(default_factory=dict)
    """The faults of twin requests, by `GET` or `PATCH`."""
    twin_altered: Mapping[str, Any] = field(default_factory=dict)
    """Values that the hub stores in place of those reported or desired at the same keys, nested alike."""
    twin_siblings_lost: bool = False
    """null for a key that is not there also removes all its siblings, as the real hub once did."""
    desired_lost: bool = False
    """Changes of desired properties are not sent to the device."""
    desired_delay_s: float = 0.0
    """Changes of desired properties are sent so much later."""
    desired_repeated: bool = False
    """Changes of desired properties are sent to the device twice."""
    refuse_subscribe: bool = False
    """SUBACK refuses every filter (0x80), and no subscription is made."""
    puback_lost: bool = False
    """The hub takes no notice of a device's PUBACK: it delivers the command again at the end of its lock."""
    dup_omitted: bool = False
    """Commands that are sent again do not carry DUP."""
    drop_at: DropAt | None = None
    """Every connection is dropped abruptly at the first such packet of the device."""

    def merge(self, asked: Mapping[str, Any]) -> Faults:
        """These faults with what a JSON object asks for; null takes a fault back. Raises BadFault."""
        changes: dict[str, Any] = {}
        for name, value in asked.items():
            if name == "http":
                changes[name] = _merge_table(name, self.http, value, HttpFault, _is_http_target)
            elif name == "twin":
                changes[name] = _merge_table(name, self.twin, value, TwinFault, TWIN_REQUESTS.__contains__)
            elif name == "twin_altered":
                changes[name] = _replacements(value)
            else:
                changes[name] = _checked(Faults, name, value)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The faults in force, in the form that `merge` takes."""
        return dataclasses.asdict(self)

    def next_http(self, method: str, path: str) -> HttpFault | None:
        """The fault for a request, the longest matching prefix first; uses up one of its `times`."""
        target = f"{method} {path}"
        for prefix in sorted(self.http, key=len, reverse=True):
            fault = self.http[prefix]
            if target.startswith(prefix) and _use_up(fault):
                return fault
        return None

    def next_twin(self, request: str) -> TwinFault:
        """The fault for a twin request, `GET` or `PATCH`; uses up one of its `times`."""
        fault = self.twin.get(request)
        return fault if fault is not None and _use_up(fault) else TwinFault()


_RANGES: Mapping[str, tuple[float, float]] = {
    "refuse_connect_code": (1, 5),
    "throttle_per_s": (0.001, math.inf),
    "drop_after_messages": (1, math.inf),
    "status": (200, 599),
}
"""Least and largest value of a number where it is not simply 0 or more."""


TWIN_REQUESTS = ("GET", "PATCH")
_KEYS = {"http": "METHOD /path-prefix", "twin": " or ".join(TWIN_REQUESTS)}


def _is_http_target(text: str) -> bool:
    return " /" in text


def _merge_table(
    name: str, faults: Mapping[str, Fault], asked: object, kind: type[Fault], is_key: Callable[[str], bool]
) -> dict[str, Fault]:
    """The faults of one table with what `asked` names replaced. Raises BadFault."""
    if asked is None:
        return {}
    if not isinstance(asked, dict):
        raise BadFault(f"{name} must be an object of faults by {_KEYS[name]}")
    merged = dict(faults)
    for key, fields in asked.items():
        if not is_key(key) or not (fields is None or isinstance(fields, dict)):
            raise BadFault(f"{name}: {key!r} must be {_KEYS[name]}, with an object or null")
        if fields is None:
            merged.pop(key, None)
        else:
            merged[key] = kind(**{k: _checked(kind, k, v) for k, v in fields.items()})
    return merged


def _replacements(asked: object) -> dict[str, Any]:
    if not isinstance(asked, dict | None):
        raise BadFault("twin_altered must be an object of values by key")
    return asked or {}


def _use_up(fault: HttpFault | TwinFault) -> bool:
    """Count one use of a fault; False where its `times` are used up."""
    if fault.times is None:
        return True
    if fault.times == 0:
        return False
    fault.times -= 1
    return True


def _checked(owner: type, name: str, value: object) -> Any:
    """`value` for the field `name`; null means its default."""
    fields = {f.name: f for f in dataclasses.fields(owner)}
    if name not in fields:
        raise BadFault(f"unknown fault {name!r}; there are {', '.join(fields)}")
    if value is None:
        return fields[name].default
    kind = _kind_of(owner, name)
    if kind is DropAt:
        return _drop_at(value)
    if type(value) not in (kind, *((int,) if kind is float else ())):  # exact types: JSON's true is no number
        raise BadFault(f"{name} = {value!r} is not {_WORDS[kind]}")
    low, high = _RANGES.get(name, (0, math.inf))
    if isinstance(value, int | float) and not low <= value <= high:
        rule = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise BadFault(f"{name} = {value!r} must be {rule}")
    return value


def _drop_at(value: object) -> DropAt:
    try:
        return DropAt(str(value))
    except ValueError:
        raise BadFault(f"drop_at = {value!r} is not one of {', '.join(DropAt)}") from None


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _kind_of(owner: type, name: str) -> Any:
    hint = typing.get_type_hints(owner)[name]
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint
