"""The hub's channels to a device over MQTT, and the topics of twin, methods and commands: pure.

Names and values stand percent-encoded in a topic. The hub's answer to a twin request and its change of the
desired properties carry what is not the document in a query behind `/?`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

ALLOWED_TOPICS = ("$iothub/twin/GET/", "$iothub/twin/PATCH/properties/reported/", "$iothub/methods/res/")
"""The topics that management may publish to; everything else that this device publishes is telemetry."""

_COMMAND = re.compile(r"devices/[^/]+/(?:modules/[^/]+/)?messages/devicebound/(.*)", re.DOTALL)
_FILTER = re.compile(
    r"(devices/[^/]+/(?:modules/[^/]+/)?messages/devicebound/"
    r"|\$iothub/methods/POST/|\$iothub/twin/res/|\$iothub/twin/PATCH/properties/desired/)"
)
_METHOD = re.compile(r"\$iothub/methods/POST/([^/]+)/\?(.*)", re.DOTALL)
_TWIN_RESPONSE = re.compile(r"\$iothub/twin/res/(\d{1,3})/\?(.*)", re.DOTALL)
_DESIRED = re.compile(r"\$iothub/twin/PATCH/properties/desired/\?(.*)", re.DOTALL)


class HubChannel(StrEnum):
    """The channels that a device may subscribe to."""

    COMMANDS = "commands"
    METHODS = "methods"
    TWIN_RESPONSES = "twin-responses"
    DESIRED = "desired"

    def topic_filter(self, device_id: str) -> str:
        """The filter by which this device subscribes to the channel."""
        return _FILTERS[self].format(device_id=device_id)


_FILTERS: Mapping[HubChannel, str] = {
    HubChannel.COMMANDS: "devices/{device_id}/messages/devicebound/#",
    HubChannel.METHODS: "$iothub/methods/POST/#",
    HubChannel.TWIN_RESPONSES: "$iothub/twin/res/#",
    HubChannel.DESIRED: "$iothub/twin/PATCH/properties/desired/#",
}
_PREFIXES: Mapping[str, HubChannel] = {
    "$iothub/methods/POST/": HubChannel.METHODS,
    "$iothub/twin/res/": HubChannel.TWIN_RESPONSES,
    "$iothub/twin/PATCH/properties/desired/": HubChannel.DESIRED,
}


class MethodTopic(NamedTuple):
    """A direct method's call."""

    name: str
    rid: str


class TwinResponseTopic(NamedTuple):
    """The answer to a twin request."""

    status: int
    rid: str
    version: int | None
    retry_after_s: float | None


def channel_of(topic: str) -> HubChannel | None:
    """The channel on which a message came; None for a topic that is no channel's."""
    if _COMMAND.match(topic):
        return HubChannel.COMMANDS
    for prefix, channel in _PREFIXES.items():
        if topic.startswith(prefix):
            return channel
    return None


def filter_of(topic: str) -> str | None:
    """The filter of the subscription by which a message came; None for a topic that is no channel's."""
    match = _FILTER.match(topic)
    return match[0] + "#" if match else None


def method_of(topic: str) -> MethodTopic | None:
    """The call that came on this topic; None where it cannot be answered."""
    match = _METHOD.fullmatch(topic)
    rid = _query(match[2]).get("$rid") if match else None
    return MethodTopic(unquote(match[1]), rid) if match and rid else None


def twin_response_of(topic: str) -> TwinResponseTopic | None:
    """The answer that came on this topic; None where it names no request."""
    match = _TWIN_RESPONSE.fullmatch(topic)
    query = _query(match[2]) if match else {}
    if match is None or not query.get("$rid"):
        return None
    version, retry_after = _number(query.get("$version")), _number(query.get("retry-after"))
    retry_after_s = None if retry_after is None else float(retry_after)
    return TwinResponseTopic(int(match[1]), query["$rid"], version, retry_after_s)


def is_billed(topic: str) -> bool:
    """True if the hub bills for the body of what goes over this topic, either way.

    A twin's reading is billed by the twin that comes back, its update by the patch that goes out; calls,
    their answers, commands and the back end's changes of desired properties by themselves.
    """
    if topic.startswith(ALLOWED_TOPICS[0]):
        return False
    response = twin_response_of(topic)
    return response is None or response.status == 200


def desired_version_of(topic: str) -> int | None:
    """The `$version` of a change of the desired properties."""
    match = _DESIRED.fullmatch(topic)
    return _number(_query(match[1]).get("$version")) if match else None


def command_properties_of(topic: str) -> dict[str, str]:
    """The property bag of a command: the system's properties (`$.mid`), and those of its sender."""
    match = _COMMAND.fullmatch(topic)
    return _query(match[1].removesuffix("/")) if match else {}


def twin_get_topic(rid: str) -> str:
    return f"{ALLOWED_TOPICS[0]}?$rid={quote(rid, safe='')}"


def reported_patch_topic(rid: str) -> str:
    return f"{ALLOWED_TOPICS[1]}?$rid={quote(rid, safe='')}"


def method_response_topic(status: int, rid: str) -> str:
    return f"{ALLOWED_TOPICS[2]}{status}/?$rid={quote(rid, safe='')}"


def is_method_response(topic: str) -> bool:
    return topic.startswith(ALLOWED_TOPICS[2])


def _query(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,15}", text) else None
