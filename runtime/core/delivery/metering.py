"""Metering: the size of a message as the hub documents it, and the units that it bills for that size.

The documented size is the body, the *values* of the system properties, and the names and values of the
application properties; topic, framing and TLS do not count (IoT Hub, "message format" and "pricing"). The hub
bills each device-to-cloud message in steps of 4 KiB, whatever its QoS. Whether properties that the hub itself
stamps on a message count is not documented: they are not counted here.
"""

from __future__ import annotations

from collections.abc import Iterable

UNIT_BYTES = 4_096
"""The hub meters messages in steps of this size."""


def metered_bytes(body_bytes: int, system: Iterable[str], properties: Iterable[tuple[str, str]]) -> int:
    """The documented size of a message: `system` holds the values of its system properties."""
    size_bytes = body_bytes
    for value in system:
        size_bytes += _size(value)
    for name, value in properties:
        size_bytes += _size(name) + _size(value)
    return size_bytes


def units(size_bytes: int) -> int:
    """The units that the hub bills for a message of this documented size: an empty one is one, too."""
    return max(1, -(-size_bytes // UNIT_BYTES))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
