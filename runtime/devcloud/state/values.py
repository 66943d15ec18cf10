"""Values that the stand-in's HTTPS side and its hub exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Admitted:
    """An accepted CONNECT. `device_id` is the hub's, `WORKSPACE:DEVICE`."""

    device_id: str
    expires_at_s: float | None
    """Unix time at which the hub cuts the connection; None for a certificate."""


@dataclass(frozen=True, slots=True)
class ConnectionRefused:
    """A refusal of a CONNECT, with its CONNACK code."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class TwinRefused:
    """A refusal of a twin request, with an HTTP-like status."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """One telemetry message as it arrived."""

    device_id: str
    payload: bytes
    received_at_s: float
    qos: int = 1
    dup: bool = False
    message_id: str | None = None
    """The system property `$.mid`."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Application properties, decoded."""
    system: Mapping[str, str] = field(default_factory=dict)
    """System properties, decoded, named as on the wire: `$.mid`, `$.ct`, ..."""
    connection: int | None = None
    """The number that `Cloud.opened` returned."""


@dataclass(frozen=True, slots=True)
class Command:
    """A cloud-to-device message that waits for its device."""

    seq: int
    message_id: str
    """Empty for a command without."""
    payload: bytes
    properties: Mapping[str, str | None]
    """Application properties; None for one without a value, which is not the empty one."""
    system: Mapping[str, str]
    """System properties by their names in a topic: `$.exp`, `$.mid`, ... and `iothub-ack`."""


@dataclass(frozen=True, slots=True)
class CommandsWaiting:
    """Event: ask `Cloud.commands_for` again."""


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """Event: publish `patch` to `$iothub/twin/PATCH/properties/desired/?$version=`."""

    patch: Mapping[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class MethodCall:
    """Event: publish `payload` to `$iothub/methods/POST/{name}/?$rid={request_id}`."""

    request_id: str
    name: str
    payload: bytes


Event: TypeAlias = CommandsWaiting | DesiredChange | MethodCall
