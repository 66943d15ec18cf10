"""MQTT 3.1.1 packets as plain values, for either end; `codec.py` turns them into bytes and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

FAILURE = 0x80
"""SUBACK: this filter was refused."""


class PacketType(IntEnum):
    """Packet types, the upper half of the first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the hub publishes for a client that went without DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """The first packet of every client."""

    client_id: str
    username: str | None = None
    password: bytes | None = None
    keep_alive_s: int = 60
    clean_session: bool = True
    will: Will | None = None
    level: int = 4
    """Protocol level; 4 is 3.1.1. Of any other level only this field is decoded, so that it can be
    refused.
    """


@dataclass(frozen=True, slots=True)
class Connack:
    """The answer to CONNECT."""

    code: int
    """0 accepted, or refused: 1 protocol level, 2 client id, 3 hub away, 4 bad name, 5 not authorized."""
    session_present: bool = False


class Publish(NamedTuple):
    """A message, either way. A tuple: there are thousands a second."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    """0 at QoS 0, else 1 to 65,535."""
    dup: bool = False
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK: a kind and a packet id."""

    kind: PacketType
    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Topic filters with the QoS asked for."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Suback:
    """One code a filter, in their order: the QoS granted, or FAILURE."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Filters to be forgotten."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bare:
    """PINGREQ, PINGRESP or DISCONNECT: nothing but a kind."""

    kind: PacketType


Packet: TypeAlias = Connect | Connack | Publish | Ack | Subscribe | Suback | Unsubscribe | Bare
