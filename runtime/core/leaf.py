"""Leaf: a device behind this one, which reaches the hub through this one's connection.

Its messages go *by property*: under the identity of the gateway, which is this device, with the leaf's id in
the property `source-device-id`, and in `gateway-path` the ids of the gateways that the message passed, the
nearest to the leaf first and this device last. Both rest among the message's own properties in the store, so
that a runtime which knows of no leaves sends the message on unharmed.

Where a leaf shall have an identity of its own at the hub, the choice between the ways belongs here: what is
stored of a message is the same for all of them.
"""

from __future__ import annotations

import json

DEVICE_ID_PATTERN = r"[0-9a-zA-Z\-_.]{4,90}"
"""docs/platform.md, "The platform"."""
DEVICE_ID_RULE = "must be 4 to 90 of 0-9 a-z A-Z - _ ."
SOURCE_DEVICE = "source-device-id"
GATEWAY_PATH = "gateway-path"
LEAF_PROPERTIES = frozenset((SOURCE_DEVICE, GATEWAY_PATH))
MOST_GATEWAYS = 5
"""Gateways that a message may have passed before this one: Azure nests devices so deep."""
_SEPARATOR = "/"  # in no device id


def with_leaf(properties: str | None, leaf: str, via: tuple[str, ...]) -> str:
    """The JSON text of a message's properties, with those that say from which leaf it comes."""
    stated = {**json.loads(properties or "{}"), SOURCE_DEVICE: leaf}
    if via:
        stated[GATEWAY_PATH] = _SEPARATOR.join(via)
    return json.dumps(stated, ensure_ascii=False, separators=(",", ":"))


def gateway_id(hub_device_id: str) -> str:
    """The id of a gateway, by which others name it: at the hub the platform puts `WORKSPACE:` before it."""
    return hub_device_id.rpartition(":")[2]


def path_through(passed: str, hub_device_id: str) -> str:
    """The path of a message that passed the gateways of the path `passed`, and now passes this device."""
    own_id = gateway_id(hub_device_id)
    return f"{passed}{_SEPARATOR}{own_id}" if passed else own_id
