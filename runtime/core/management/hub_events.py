"""Messages of the hub, made events of the twin, of commands and of method calls: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runtime.core.management.call_record import CallReceived
from runtime.core.management.hub_channels import (
    HubChannel,
    command_properties_of,
    desired_version_of,
    method_of,
    twin_response_of,
)
from runtime.core.management.hub_line import HubMessage
from runtime.core.management.strict_json import decode_json
from runtime.core.management.twin_record import DesiredPatch, TwinResponse

MAX_LIFE_S = 366 * 86_400.0
MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class CommandTopic:
    """The fields in the topic of a command, beside its payload."""

    id: str | None
    name: str
    leaf: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Those of its sender."""
    expires_wall_s: float | None = None
    ttl_s: float | None = None


def command_topic_of(topic: str) -> CommandTopic:
    """The command's id, name and properties; a system property begins with `$.`."""
    bag = command_properties_of(topic)
    own = {name: value for name, value in bag.items() if not name.startswith("$.")}
    return CommandTopic(
        id=bag.get("$.mid") or None,
        name=own.get("command") or own.get("command-name") or "",
        leaf=own.get("leaf", ""),
        properties=own,
        expires_wall_s=_expiry(bag.get("$.exp")),
        ttl_s=_seconds(own.get("ttl_s")),
    )


def twin_event_of(message: HubMessage) -> TwinResponse | DesiredPatch | None:
    """The twin's event; None for what is no message of the twin."""
    if message.channel is HubChannel.DESIRED:
        version = desired_version_of(message.topic)
        patch = json_or_none(message.payload)
        return None if version is None else DesiredPatch(version, patch, len(message.payload))
    answer = twin_response_of(message.topic)
    if answer is None:
        return None
    text = message.payload[: 4 * MAX_REASON_CHARACTERS].decode(errors="replace")
    reason = "" if answer.status < 300 else text[:MAX_REASON_CHARACTERS]
    body = json_or_none(message.payload)
    return TwinResponse(answer.rid, answer.status, body, answer.version, reason, answer.retry_after_s)


def call_of(message: HubMessage) -> CallReceived | None:
    """The method call; None for one that cannot be answered."""
    method = method_of(message.topic)
    if method is None:
        return None
    return CallReceived(message.client, method.rid, method.name, message.payload)


def json_or_none(payload: bytes) -> Any:
    try:
        return decode_json(payload)
    except ValueError:
        return None


def _expiry(text: str | None) -> float | None:
    """The hub writes a time of ISO 8601, in UTC; what is none says nothing."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.timestamp()


def _seconds(text: str | None) -> float | None:
    try:
        life_s = float(text) if text else None
    except ValueError:
        return None
    return life_s if life_s is not None and 0 < life_s <= MAX_LIFE_S else None
