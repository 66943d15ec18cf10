"""The hub line: what `upload`, which holds the connection, and `management` tell each other.

One JSON header frame each, with the sender's session, and a second frame where there is a payload.

    upload -> management   up, down       the state of the connection; repeated, so that both see who is there
                           message        what came from the hub; repeated until `stored`
                           published      the outcome of a publish; said again where the publish is repeated
    management -> upload   listen         the channels wanted; the answer to every `up` and `down`
                           stored         the message is taken: on disk, if it is one that must be
                           publish        repeated until `published`

A session is one process's life. Frames may be lost or come twice; `hub_line_ends.py` makes up for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.core.management.hub_channels import ALLOWED_TOPICS, HubChannel
from runtime.core.management.strict_json import decode_json, encode_json
from runtime.errors import Rejected


@dataclass(frozen=True, slots=True)
class HubUp:
    """The hub accepted the connection, and granted these channels so far."""

    client: int
    """The connection's number: it grows within upload's session."""
    device_id: str
    channels: frozenset[HubChannel] = frozenset()
    held: str = ""
    """The reason why only answers to calls may be published now, e.g. "outside the allowed hours"."""


@dataclass(frozen=True, slots=True)
class HubDown:
    """There is no connection, or none that management may use."""

    reason: str = ""
    """In words; "muted: ..." where the connection stands without management."""


@dataclass(frozen=True, slots=True)
class HubMessage:
    """A message from the hub. The hub is told that it arrived when management says `MessageStored`."""

    client: int
    number: int
    """It grows, and no process of upload uses one of another's: a late `stored` must not hit another message.
    """
    channel: HubChannel
    topic: str
    payload: bytes
    dup: bool = False
    received_s: float = 0.0
    """CLOCK_BOOTTIME, which all processes of a machine share."""
    to: str = ""
    """The session of management that it is sent to. Another one leaves it: upload does not know that one yet,
    and sends it what came before this message first."""


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """A publish was acknowledged by the hub, or lost: it may have arrived nevertheless."""

    number: int
    acked: bool


@dataclass(frozen=True, slots=True)
class ListenTo:
    """The channels that management wants; none: it wants no messages."""

    channels: frozenset[HubChannel] = frozenset()


@dataclass(frozen=True, slots=True)
class MessageStored:
    """The message is taken over: a PUBACK may tell the hub."""

    number: int


@dataclass(frozen=True, slots=True)
class PublishAtHub:
    """Publish this on the connection with that number; where it is gone, the outcome is `lost`."""

    client: int
    number: int
    """It grows, and no process of management uses one of another's."""
    topic: str
    payload: bytes


FromUpload = HubUp | HubDown | HubMessage | PublishOutcome
FromManagement = ListenTo | MessageStored | PublishAtHub


def encode_from_upload(session: str, said: FromUpload) -> list[bytes]:
    match said:
        case HubUp():
            fields = {
                "client": said.client,
                "device": said.device_id,
                "channels": sorted(said.channels),
                "held": said.held,
            }
            return _frames("up", session, fields)
        case HubDown():
            return _frames("down", session, {"reason": said.reason})
        case HubMessage():
            fields = {
                "client": said.client,
                "number": said.number,
                "channel": said.channel,
                "topic": said.topic,
                "dup": said.dup,
                "received_s": said.received_s,
                "to": said.to,
            }
            return _frames("message", session, fields, said.payload)
        case PublishOutcome():
            return _frames("published", session, {"number": said.number, "acked": said.acked})


def decode_from_upload(frames: Sequence[bytes]) -> tuple[str, FromUpload]:
    """Session and content. Raises Rejected for what upload does not send."""
    try:
        kind, session, fields = _opened(frames)
        match kind:
            case "up":
                device_id, held = _text(fields, "device"), _text(fields, "held")
                return session, HubUp(int(fields["client"]), device_id, _channels(fields), held)
            case "down":
                return session, HubDown(_text(fields, "reason"))
            case "message":
                message = HubMessage(
                    int(fields["client"]),
                    int(fields["number"]),
                    HubChannel(fields["channel"]),
                    _text(fields, "topic"),
                    frames[1],
                    bool(fields["dup"]),
                    float(fields["received_s"]),
                    _text(fields, "to"),
                )
                return session, message
            case "published":
                return session, PublishOutcome(int(fields["number"]), bool(fields["acked"]))
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _refusal(repr(exc)) from None
    raise _refusal("of no known kind")


def encode_from_management(session: str, said: FromManagement) -> list[bytes]:
    match said:
        case ListenTo():
            return _frames("listen", session, {"channels": sorted(said.channels)})
        case MessageStored():
            return _frames("stored", session, {"number": said.number})
        case PublishAtHub():
            fields = {"client": said.client, "number": said.number, "topic": said.topic}
            return _frames("publish", session, fields, said.payload)


def decode_from_management(frames: Sequence[bytes]) -> tuple[str, FromManagement]:
    """Session and content. Raises Rejected for what management does not send, or may not publish."""
    try:
        kind, session, fields = _opened(frames)
        match kind:
            case "listen":
                return session, ListenTo(_channels(fields))
            case "stored":
                return session, MessageStored(int(fields["number"]))
            case "publish":
                topic = _text(fields, "topic")
                if not topic.startswith(ALLOWED_TOPICS):
                    raise ValueError(f"{topic} is not a topic of twin or methods")
                return session, PublishAtHub(int(fields["client"]), int(fields["number"]), topic, frames[1])
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _refusal(repr(exc)) from None
    raise _refusal("of no known kind")


def _frames(kind: str, session: str, fields: dict[str, Any], *payload: bytes) -> list[bytes]:
    return [encode_json({"kind": kind, "session": session, **fields}), *payload]


def _opened(frames: Sequence[bytes]) -> tuple[str, str, dict[str, Any]]:
    fields = decode_json(frames[0])
    return _text(fields, "kind"), _text(fields, "session"), fields


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise TypeError(f"{name} is no text")
    return str(fields[name])


def _channels(fields: dict[str, Any]) -> frozenset[HubChannel]:
    return frozenset(HubChannel(name) for name in fields["channels"])


def _refusal(why: str) -> Rejected:
    return Rejected(f"no frame of the hub line: {why}", code="bad_line")
