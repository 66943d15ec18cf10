"""What the platform makes of the messages of a hub: batch files, joined in order of arrival, and the bill.

A message that comes a second time under the same id in the same batch is dropped, whatever it holds: a
message of the platform is immutable. The platform's message id counts, else the hub's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

UNIT_BYTES = 4_096
"""The hub bills messages in steps of this size."""


class BatchName(NamedTuple):
    """The name of a batch file; a batch that no message names is the stream's only one."""

    device_id: str
    group: str
    stream: str
    batch: str


def batch_files(messages: Iterable[Mapping[str, Any]], separator: bytes) -> dict[BatchName, bytes]:
    """The files by name, with `separator` between the messages: a setting of the stream at the platform."""
    parts: dict[BatchName, dict[tuple[str, str], bytes]] = {}
    for message in messages:
        properties = json.loads(message["properties"])
        if "ignore-payload" in properties:
            continue
        name = BatchName(
            message["device_id"],
            properties.get("stream-group-name", ""),
            properties.get("stream-name", ""),
            properties.get("batch-id", ""),
        )
        id = properties.get("message-id") or message["message_id"], properties.get("chunk-id", "")
        parts.setdefault(name, {}).setdefault(id, decoded(message["payload"], properties))
    return {name: separator.join(payloads.values()) for name, payloads in parts.items()}


def decoded(payload: bytes, properties: Mapping[str, str]) -> bytes:
    """The payload as it was before compression. Raises ValueError where it is not what it is said to be."""
    if properties.get("content-encoding") != "br":
        return payload
    import brotli

    try:
        return bytes(brotli.decompress(payload))
    except brotli.error as exc:
        raise ValueError(f"content-encoding br, and no brotli: {exc}") from None


def metered_units(properties: Mapping[str, str], system: Mapping[str, str], body_bytes: int) -> int:
    """The units that a message costs: body, values of system properties, names and values of the others."""
    texts = [*system.values(), *properties.keys(), *properties.values()]
    return max(1, -(-(body_bytes + sum(len(text.encode()) for text in texts)) // UNIT_BYTES))


def units_of(message: Mapping[str, Any]) -> int:
    """The units that a row of the message log costs."""
    properties, system = json.loads(message["properties"]), json.loads(message["system"])
    return metered_units(properties, system, len(message["payload"]))
