"""Codec of MQTT 3.1.1, for either end; strict, and without any socket.

`PacketDecoder.feed(data)` yields packets as their last byte arrives and raises `Malformed` at the first thing
that the specification forbids: the packets before it were good, nothing after it counts. The length in the
fixed header is checked before its body is buffered, so no client fills our memory.

Why not amqtt's codecs: they are fast enough (figures in `runtime/bench/hub.py`), but they take what a hub
must refuse (reserved flags, packet id 0, U+0000, bytes left over), are tied to a stream and do not bound a
packet. The tests compare this module with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from runtime.devcloud.mqtt.packets import (
    FAILURE,
    Ack,
    Bare,
    Connack,
    Connect,
    Packet,
    PacketType,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
    Will,
)

LONGEST_PACKET_BYTES = 268_435_455
"""The largest remaining length that four bytes can hold."""


class Malformed(ValueError):
    """Bytes that are no MQTT 3.1.1; the connection is to be closed."""


# -- encoding ---------------------------------------------------------------------------------------------


def puback(packet_id: int) -> bytes:
    """PUBACK, the only packet that is sent for every message."""
    return b"\x40\x02" + packet_id.to_bytes(2)


def encode(packet: Packet) -> bytes:
    """The bytes of a packet. Raises ValueError or OverflowError where a field does not fit."""
    match packet:
        case Publish(topic, payload, qos, packet_id, dup, retain):
            flags = dup << 3 | qos << 1 | retain
            return _packet(
                PacketType.PUBLISH, _text(topic) + (_number(packet_id) if qos else b"") + payload, flags
            )
        case Ack(kind, packet_id):
            return _packet(kind, _number(packet_id))
        case Bare(kind):
            return _packet(kind, b"")
        case Connect():
            return _packet(PacketType.CONNECT, _connect_body(packet))
        case Connack(code, session_present):
            return _packet(PacketType.CONNACK, bytes((session_present, code)))
        case Subscribe(packet_id, filters):
            pairs = b"".join(_text(name) + bytes((qos,)) for name, qos in filters)
            return _packet(PacketType.SUBSCRIBE, _number(packet_id) + pairs)
        case Suback(packet_id, codes):
            return _packet(PacketType.SUBACK, _number(packet_id) + bytes(codes))
        case Unsubscribe(packet_id, names):
            return _packet(PacketType.UNSUBSCRIBE, _number(packet_id) + b"".join(map(_text, names)))


_FLAGS = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}
"""Reserved bits of the first byte where they are not zero."""


def _packet(kind: PacketType, body: bytes, flags: int | None = None) -> bytes:
    first = kind << 4 | (_FLAGS.get(kind, 0) if flags is None else flags)
    return bytes((first,)) + _length(len(body)) + body


def _length(number: int) -> bytes:
    """The remaining length in bytes of seven bits, the lowest first."""
    if number > LONGEST_PACKET_BYTES:
        raise ValueError(f"a packet of {number} bytes is too long for MQTT")
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(number: int) -> bytes:
    return number.to_bytes(2)


def _binary(data: bytes) -> bytes:
    return _number(len(data)) + data


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _connect_body(packet: Connect) -> bytes:
    flags, tail = packet.clean_session << 1, _text(packet.client_id)
    if packet.will is not None:
        flags |= 4 | packet.will.qos << 3 | packet.will.retain << 5
        tail += _text(packet.will.topic) + _binary(packet.will.payload)
    if packet.username is not None:
        flags, tail = flags | 128, tail + _text(packet.username)
    if packet.password is not None:
        flags, tail = flags | 64, tail + _binary(packet.password)
    return _text("MQTT") + bytes((packet.level, flags)) + _number(packet.keep_alive_s) + tail


# -- decoding ---------------------------------------------------------------------------------------------


class PacketDecoder:
    """Takes bytes in pieces of any size, and returns packets."""

    def __init__(self, most_bytes: int = LONGEST_PACKET_BYTES) -> None:
        self._most_bytes = most_bytes
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that are complete now. Take them all: a packet not yet taken is not yet kept."""
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while start < end:
            if data[start] not in _FIRST_BYTES:
                raise Malformed(_why_not(data[start]))
            body = _body_start(data, start, end, self._most_bytes)
            if body is None:
                break
            at, after = body
            if after > end:
                break
            yield _decode(data[start], data[at:after])
            start = after
        self._rest = data[start:]


_FIRST_BYTES = frozenset(
    [
        *(kind << 4 | _FLAGS.get(kind, 0) for kind in PacketType if kind is not PacketType.PUBLISH),
        *(
            PacketType.PUBLISH << 4 | flags for flags in (0, 1, 2, 3, 4, 5, 10, 11, 12, 13)
        ),  # DUP means QoS 1 or 2
    ]
)


def _why_not(first: int) -> str:
    kind, flags = first >> 4, first & 15
    known = next((k for k in PacketType if k == kind), None)
    if known is None:
        return f"packet type {kind} is reserved"
    return f"{known.name} with impossible flags {flags:04b}"


def _body_start(data: bytes, start: int, end: int, most_bytes: int) -> tuple[int, int] | None:
    """The beginning and end of the body of the packet at `start`, or None while its length is incomplete."""
    length = shift = 0
    for at in range(start + 1, min(end, start + 5)):
        byte = data[at]
        length |= (byte & 127) << shift
        if byte < 128:
            if length > most_bytes:
                raise Malformed(f"a packet of {length} bytes, at most {most_bytes} are taken")
            return at + 1, at + 1 + length
        shift += 7
    if end >= start + 5:
        raise Malformed("the remaining length has more than four bytes")
    return None


def _decode(first: int, body: bytes) -> Packet:
    kind, flags = first >> 4, first & 15
    if kind == 3:
        return _publish(flags, body)
    fields = _Fields(body)
    packet = _READERS[kind](PacketType(kind), fields)
    fields.end(PacketType(kind))
    return packet


def _publish(flags: int, body: bytes) -> Publish:
    """Decode a PUBLISH. It is the hot path, so all of it is in one place: a few microseconds each."""
    at = 2 + (body[0] << 8 | body[1] if len(body) > 1 else 0)
    qos = flags >> 1 & 3
    payload_at = at + 2 if qos else at
    if len(body) < max(2, payload_at):
        raise Malformed("PUBLISH is cut short")
    topic = _topic(_as_text(body[2:at]))
    packet_id = body[at] << 8 | body[at + 1] if qos else 0
    if qos and not packet_id:
        raise Malformed("PUBLISH with packet id 0")
    return Publish(topic, body[payload_at:], qos, packet_id, bool(flags & 8), bool(flags & 1))


def _as_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise Malformed("text is not UTF-8") from exc
    if "\0" in text:
        raise Malformed("text contains U+0000")
    return text


class _Fields:
    """The body of a packet, read from its front."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def read(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._body):
            raise Malformed("a packet is cut short")
        return self._body[self._at - count : self._at]

    def byte(self) -> int:
        return self.read(1)[0]

    def number(self) -> int:
        return int.from_bytes(self.read(2))

    def binary(self) -> bytes:
        return self.read(self.number())

    def text(self) -> str:
        return _as_text(self.binary())

    def packet_id(self) -> int:
        number = self.number()
        if not number:
            raise Malformed("packet id 0")
        return number

    def more(self) -> bool:
        return self._at < len(self._body)

    def skip(self) -> None:
        self._at = len(self._body)

    def end(self, kind: PacketType) -> None:
        if self.more():
            raise Malformed(f"{kind.name} with {len(self._body) - self._at} bytes too many")


def _connect(_: PacketType, fields: _Fields) -> Packet:
    name, level = fields.text(), fields.byte()
    if name not in ("MQTT", "MQIsdp"):
        raise Malformed(f"protocol name {name!r}")
    if (name, level) != ("MQTT", 4):
        fields.skip()
        return Connect("", level=level if name == "MQTT" else 3)
    flags = fields.byte()
    keep_alive_s, client_id = fields.number(), fields.text()
    will_qos, will_retain = flags >> 3 & 3, bool(flags & 32)
    if flags & 1 or will_qos == 3 or (not flags & 4 and flags & 56) or (flags & 64 and not flags & 128):
        raise Malformed(f"CONNECT with impossible flags {flags:08b}")
    will = Will(_topic(fields.text()), fields.binary(), will_qos, will_retain) if flags & 4 else None
    username = fields.text() if flags & 128 else None
    password = fields.binary() if flags & 64 else None
    return Connect(client_id, username, password, keep_alive_s, bool(flags & 2), will)


def _connack(_: PacketType, fields: _Fields) -> Packet:
    present, code = fields.byte(), fields.byte()
    if present > 1 or code > 5 or (present and code):
        raise Malformed(f"CONNACK with flags {present} and code {code}")
    return Connack(code, bool(present))


def _subscribe(_: PacketType, fields: _Fields) -> Packet:
    packet_id, filters = fields.packet_id(), list[tuple[str, int]]()
    while fields.more() or not filters:
        name, qos = _filter(fields.text()), fields.byte()
        if qos > 2:
            raise Malformed(f"SUBSCRIBE with QoS byte {qos}")
        filters.append((name, qos))
    return Subscribe(packet_id, tuple(filters))


def _suback(_: PacketType, fields: _Fields) -> Packet:
    packet_id, codes = fields.packet_id(), list[int]()
    while fields.more() or not codes:
        codes.append(fields.byte())
    if not {0, 1, 2, FAILURE}.issuperset(codes):
        raise Malformed(f"SUBACK with codes {codes}")
    return Suback(packet_id, tuple(codes))


def _unsubscribe(_: PacketType, fields: _Fields) -> Packet:
    packet_id, filters = fields.packet_id(), list[str]()
    while fields.more() or not filters:
        filters.append(_filter(fields.text()))
    return Unsubscribe(packet_id, tuple(filters))


def _topic(topic: str) -> str:
    if not topic or "+" in topic or "#" in topic:
        raise Malformed("a topic is empty or a wildcard")
    return topic


def _filter(name: str) -> str:
    """`+` stands for a whole level, `#` for the last one."""
    levels: Sequence[str] = name.split("/")
    for depth, level in enumerate(levels, 1):
        if (len(level) > 1 and ("+" in level or "#" in level)) or (level == "#" and depth < len(levels)):
            raise Malformed(f"topic filter {name!r}")
    if not name:
        raise Malformed("an empty topic filter")
    return name


def _ack(kind: PacketType, fields: _Fields) -> Packet:
    return Ack(kind, fields.packet_id())


def _bare(kind: PacketType, _: _Fields) -> Packet:
    return Bare(kind)


_READERS: dict[int, Callable[[PacketType, _Fields], Packet]] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    **dict.fromkeys(
        (PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL, PacketType.PUBCOMP, PacketType.UNSUBACK),
        _ack,
    ),
    **dict.fromkeys((PacketType.PINGREQ, PacketType.PINGRESP, PacketType.DISCONNECT), _bare),
}
