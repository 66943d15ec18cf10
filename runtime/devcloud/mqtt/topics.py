"""The hub's topics, pure: what a PUBLISH means, what may be subscribed to, and where the hub publishes.

A topic that the hub refuses costs the device its connection, and so does one that it might refuse: with a
percent sign that encodes nothing, a name twice, an unknown system property, a message id of odd characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias
from urllib.parse import quote, unquote

from runtime.devcloud.mqtt.packets import Publish, Will
from runtime.devcloud.state import packs
from runtime.devcloud.state.batch_files import decoded
from runtime.errors import Rejected

MOST_MESSAGE_BYTES = 256 * 1024
"""Limit of topic and payload together. The topic holds the properties encoded: stricter than counting them
decoded.
"""

MOST_METHOD_BYTES = 128 * 1024
"""Limit of the payload of a method's answer."""

SYSTEM_PROPERTIES = frozenset(f"$.{name}" for name in ("mid", "cid", "uid", "ct", "ce", "exp", "ifid"))


class BadTopic(Rejected):
    """The hub takes no such message; it drops the connection."""


class Channel(Enum):
    """The channels that a device may subscribe to."""

    COMMANDS = "devices/{device_id}/messages/devicebound/#"
    TWIN_RESULTS = "$iothub/twin/res/#"
    DESIRED_CHANGES = "$iothub/twin/PATCH/properties/desired/#"
    METHODS = "$iothub/methods/POST/#"


@dataclass(frozen=True, slots=True)
class TelemetryTopic:
    """A message to be kept, with its property bag taken apart."""

    properties: Mapping[str, str]
    system: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TwinGet:
    """The device asks for its twin."""

    request_id: str


@dataclass(frozen=True, slots=True)
class ReportedPatch:
    """The device changes its reported properties."""

    request_id: str


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """The device answers a method call."""

    status: int
    request_id: str


Meaning: TypeAlias = TelemetryTopic | TwinGet | ReportedPatch | MethodAnswer


# -- from the device --------------------------------------------------------------------------------------


def meaning(device_id: str, message: Publish) -> Meaning:
    """The meaning of a device's PUBLISH. Raises BadTopic."""
    topic = message.topic
    if message.qos == 2:
        raise BadTopic("QoS 2 is not supported")
    if len(topic.encode()) + len(message.payload) > MOST_MESSAGE_BYTES:
        raise BadTopic(f"a message of more than {MOST_MESSAGE_BYTES} bytes with its properties")
    events = f"devices/{device_id}/messages/events/"
    if topic.startswith(events):
        telemetry = _telemetry(topic[len(events) :], message.retain)
        _check_leaf(device_id, telemetry.properties)
        _check_pack(telemetry, message.payload)
        return telemetry
    if message.retain:
        raise BadTopic("RETAIN is for telemetry only")
    request = _request(topic)
    if isinstance(request, MethodAnswer) and len(message.payload) > MOST_METHOD_BYTES:
        raise BadTopic(f"an answer to a method of more than {MOST_METHOD_BYTES} bytes")
    return request


def last_will(device_id: str, will: Will) -> Publish:
    """The message that a device leaves to be published after its sudden end. Raises BadTopic."""
    left = Publish(will.topic, will.payload, will.qos, retain=will.retain)
    if not isinstance(meaning(device_id, left), TelemetryTopic):
        raise BadTopic("the will is no telemetry")
    return left


def channel(device_id: str, name: str) -> Channel:
    """The channel that a topic filter subscribes to. Raises BadTopic for all that is not the device's."""
    for known in Channel:
        if name == known.value.format(device_id=device_id):
            return known
    raise BadTopic(f"no device may subscribe to {name!r}")


TWIN_GET = "$iothub/twin/GET/"
REPORTED = "$iothub/twin/PATCH/properties/reported/"
METHOD_ANSWER = "$iothub/methods/res/"
_ANSWER = re.compile(re.escape(METHOD_ANSWER) + r"(-?\d{1,9})/(.*)", re.ASCII | re.DOTALL)
_REQUEST_ID = re.compile(r"\?\$rid=([A-Za-z0-9\-._~%]{1,128})")


def _request(topic: str) -> Meaning:
    if topic.startswith(TWIN_GET):
        return TwinGet(_request_id(topic, topic.removeprefix(TWIN_GET)))
    if topic.startswith(REPORTED):
        return ReportedPatch(_request_id(topic, topic.removeprefix(REPORTED)))
    answer = _ANSWER.fullmatch(topic)
    if answer is None:
        raise BadTopic(f"no device may publish to {topic[:120]!r}")
    return MethodAnswer(int(answer[1]), _request_id(topic, answer[2]))


def _request_id(topic: str, rest: str) -> str:
    match = _REQUEST_ID.fullmatch(rest)
    if match is None:
        raise BadTopic(f"no request id ?$rid= in {topic[:120]!r}")
    return match[1]


# -- property bags ----------------------------------------------------------------------------------------

_CHARACTER = (
    r"(?:[A-Za-z0-9\-._~!$'()*,;:@/?]|%[0-9A-Fa-f]{2})"  # RFC 3986, without what MQTT and the bag need
)
_BAG = re.compile(rf"{_CHARACTER}+={_CHARACTER}*(?:&{_CHARACTER}+={_CHARACTER}*)*")
_MESSAGE_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")


def _telemetry(bag: str, retain: bool) -> TelemetryTopic:
    properties: dict[str, str] = {"mqtt-retain": "true"} if retain else {}
    system: dict[str, str] = {}
    for name, value in parse_bag(bag).items():
        if not name.startswith("$."):
            properties[name] = value
        elif name in SYSTEM_PROPERTIES:
            system[name] = value
        else:
            raise BadTopic(f"unknown system property {name!r}")
    if "$.mid" in system and not _MESSAGE_ID.fullmatch(system["$.mid"]):
        raise BadTopic(
            f"message id {system['$.mid'][:130]!r} is not 1 to 128 of A-Z a-z 0-9 -:.+%_#*?!(),=@;$'"
        )
    return TelemetryTopic(properties, system)


_LEAF = re.compile(r"[0-9a-zA-Z\-_.]{4,90}")
MOST_GATEWAYS = 6
"""The gateways that a leaf's message may pass, the one that sends it among them."""


def _check_leaf(device_id: str, properties: Mapping[str, str]) -> None:
    """Raise BadTopic where a gateway names a leaf, or the path from it, that cannot be."""
    leaf, path = properties.get("source-device-id"), properties.get("gateway-path")
    if leaf is None and path is None:
        return
    if leaf is None or not _LEAF.fullmatch(leaf):
        raise BadTopic(f"source-device-id {leaf!r} is no device id")
    gateways = (path or "").split("/")
    if gateways[-1] != device_id.rpartition(":")[2] or not all(map(_LEAF.fullmatch, gateways[:-1])):
        raise BadTopic(f"gateway-path {path!r} is no path of device ids that ends with {device_id}")
    if len(gateways) > MOST_GATEWAYS or len(set(gateways)) < len(gateways):
        raise BadTopic(f"gateway-path {path!r} is too long, or a circle")


def _check_pack(telemetry: TelemetryTopic, payload: bytes) -> None:
    """Raise BadTopic for a pack that its consumers could not take apart."""
    message_id = telemetry.system.get("$.mid")
    if message_id is None or not packs.is_pack(message_id):
        return
    try:
        packs.members(message_id, telemetry.properties, decoded(payload, telemetry.properties))
    except (packs.BadPack, ValueError) as exc:
        raise BadTopic(str(exc)) from exc


def parse_bag(bag: str) -> dict[str, str]:
    """`name=value&...`, percent-encoded, decoded. Raises BadTopic."""
    if not bag:
        return {}
    if not _BAG.fullmatch(bag):
        raise BadTopic(f"malformed property bag {bag[:120]!r}")
    pairs = bag.split("&")
    try:
        properties = dict(map(_pair, pairs))
    except UnicodeDecodeError as exc:
        raise BadTopic("a property is not UTF-8") from exc
    if len(properties) < len(pairs):
        raise BadTopic("a property occurs twice")
    return properties


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return unquote(name, errors="strict"), unquote(value, errors="strict")


def format_bag(properties: Mapping[str, str | None]) -> str:
    """The inverse of `parse_bag`; a property without a value (None) stands there as its bare name."""
    return "&".join(
        quote(name, safe="") + ("" if value is None else f"={quote(value, safe='')}")
        for name, value in properties.items()
    )


# -- to the device ----------------------------------------------------------------------------------------


_BEFORE_TO = ("$.exp", "$.cid", "$.uid", "$.mid")


def command_topic(device_id: str, system: Mapping[str, str], properties: Mapping[str, str | None]) -> str:
    """The topic of a cloud-to-device message, with its properties in the hub's order."""
    bag: dict[str, str | None] = {name: system[name] for name in _BEFORE_TO if name in system}
    bag["$.to"] = f"/devices/{device_id}/messages/devicebound"
    return f"devices/{device_id}/messages/devicebound/{format_bag({**bag, **system, **properties})}"


def twin_result_topic(status: int, request_id: str, version: int | None = None) -> str:
    """The topic of the answer to a twin request."""
    suffix = "" if version is None else f"&$version={version}"
    return f"$iothub/twin/res/{status}/?$rid={request_id}{suffix}"


def desired_topic(version: int) -> str:
    """The topic of a change of desired properties."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"


def method_topic(name: str, request_id: str) -> str:
    """The topic of a method call."""
    return f"$iothub/methods/POST/{quote(name, safe='')}/?$rid={request_id}"
