"""The stand-in's MQTT codec: what it writes it reads, any bytes end cleanly, and other codecs agree."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, MQTTError
from amqtt.mqtt import packet_class
from amqtt.mqtt.packet import MQTTFixedHeader
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt import client as paho

from runtime.devcloud.mqtt.codec import Malformed, PacketDecoder, encode
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

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=40)
filters = st.one_of(topics, st.sampled_from(["#", "+", "a/+/b", "a/#", "/", "+/#"]))
packet_ids = st.integers(1, 65_535)
payloads = st.binary(max_size=300)
acks = st.sampled_from(
    [PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL, PacketType.PUBCOMP, PacketType.UNSUBACK]
)
bare = st.sampled_from([PacketType.PINGREQ, PacketType.PINGRESP, PacketType.DISCONNECT])


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos = draw(st.integers(0, 2))
    packet_id, dup = (draw(packet_ids), draw(st.booleans())) if qos else (0, False)
    return Publish(draw(topics), draw(payloads), qos, packet_id, dup, draw(st.booleans()))


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    username = draw(st.none() | texts)
    password = draw(st.none() | payloads) if username is not None else None
    will = draw(st.none() | st.builds(Will, topics, payloads, st.integers(0, 2), st.booleans()))
    return Connect(draw(texts), username, password, draw(st.integers(0, 65_535)), draw(st.booleans()), will)


packets = st.one_of(
    connects(),
    publishes(),
    st.builds(Connack, st.integers(1, 5)) | st.builds(Connack, st.just(0), st.booleans()),
    st.builds(Ack, acks, packet_ids),
    st.builds(Bare, bare),
    st.builds(Subscribe, packet_ids, st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1).map(tuple)),
    st.builds(Suback, packet_ids, st.lists(st.sampled_from([0, 1, 2, FAILURE]), min_size=1).map(tuple)),
    st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1).map(tuple)),
)


def decode(data: bytes) -> list[Packet]:
    return list(PacketDecoder().feed(data))


@given(packets)
def test_what_is_written_is_read_again(packet: Packet) -> None:
    assert decode(encode(packet)) == [packet]


@given(st.lists(packets, max_size=8), st.data())
def test_packets_survive_being_cut_anywhere(sent: list[Packet], data: st.DataObject) -> None:
    stream, decoder, found = b"".join(map(encode, sent)), PacketDecoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == sent


@given(st.binary(max_size=400))
@example(b"\x30\x01\x00")
@example(b"\x32\x02\xff\xff")
@example(b"\x10\x00")
@example(b"\x82\x02\x00\x01")
def test_any_bytes_at_all_give_packets_or_a_clean_error(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        for packet in PacketDecoder().feed(data):
            encode(packet)


@given(packets, st.data())
def test_one_wrong_byte_gives_packets_or_a_clean_error(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(encode(packet))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Malformed):
        decode(bytes(raw))


def test_good_packets_before_a_bad_one_are_not_lost() -> None:
    found = PacketDecoder().feed(
        encode(Bare(PacketType.PINGREQ)) + encode(Ack(PacketType.PUBACK, 7)) + b"\xf0\x00"
    )
    assert next(found) == Bare(PacketType.PINGREQ)
    assert next(found) == Ack(PacketType.PUBACK, 7)
    with pytest.raises(Malformed, match="reserved"):
        next(found)


def test_what_cannot_become_a_packet_is_refused_at_its_first_byte() -> None:
    with pytest.raises(Malformed, match="PUBACK with impossible flags"):
        decode(b"G")  # of GET / HTTP/1.1


def test_a_packet_too_large_is_refused_before_its_body_arrives() -> None:
    header = encode(Publish("t", bytes(5000)))[:3]
    with pytest.raises(Malformed, match="at most 1000"):
        list(PacketDecoder(1000).feed(header))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00\x00", "packet type 0"),
        (b"\xf0\x00", "packet type 15"),
        (b"\xc1\x00", "PINGREQ with impossible flags"),
        (b"\x80\x06\x00\x01\x00\x01a\x00", "SUBSCRIBE with impossible flags"),
        (b"\xc0\x01\x00", "bytes too many"),
        (b"\x40\x02\x00\x00", "packet id 0"),
        (b"\x40\x01\x00", "cut short"),
        (b"\xc0\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x30\x02\x00\x00", "empty or a wildcard"),
        (b"\x30\x03\x00\x01#", "empty or a wildcard"),
        (b"\x30\x03\x00\x01\x00", "U+0000"),
        (b"\x30\x04\x00\x02\xc3\x28", "not UTF-8"),
        (b"\x30\x05\x00\x03\xed\xa0\x80", "not UTF-8"),
        (b"\x36\x05\x00\x01t\x00\x01", "PUBLISH with impossible flags 0110"),
        (b"\x38\x03\x00\x01t", "PUBLISH with impossible flags 1000"),
        (b"\x32\x05\x00\x01t\x00\x00", "packet id 0"),
        (b"\x32\x04\x00\x01t\x00", "cut short"),
        (b"\x82\x02\x00\x01", "cut short"),
        (b"\x82\x06\x00\x01\x00\x01a\x03", "QoS byte 3"),
        (b"\x82\x08\x00\x01\x00\x03a#b\x00", "topic filter"),
        (b"\x82\x08\x00\x01\x00\x03#/b\x00", "topic filter"),
        (b"\x82\x05\x00\x01\x00\x00\x00", "empty topic filter"),
        (b"\x90\x03\x00\x01\x03", "SUBACK with codes"),
        (b"\x20\x02\x02\x00", "CONNACK"),
        (b"\x20\x02\x01\x05", "CONNACK"),
        (b"\x10\x0c\x00\x04MQTX\x04\x02\x00\x3c\x00\x00", "protocol name"),
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00", "impossible flags"),
        (b"\x10\x0c\x00\x04MQTT\x04\x42\x00\x3c\x00\x00", "impossible flags"),
        (b"\x10\x0c\x00\x04MQTT\x04\x22\x00\x3c\x00\x00", "impossible flags"),
    ],
)
def test_what_the_specification_forbids_is_malformed(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why.replace("+", r"\+")):
        decode(data)


@pytest.mark.parametrize(
    ("name", "level", "seen"), [(b"MQTT", 5, 5), (b"MQTT", 3, 3), (b"MQIsdp", 3, 3), (b"MQIsdp", 4, 3)]
)
def test_another_protocol_level_is_recognised_whatever_follows(name: bytes, level: int, seen: int) -> None:
    body = len(name).to_bytes(2) + name + bytes((level,)) + b"\xff\xff\xff"
    assert decode(b"\x10" + bytes((len(body),)) + body) == [Connect("", level=seen)]


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_of_one_to_four_bytes_are_written_and_read(length: int) -> None:
    message = Publish("t", bytes(max(0, length - 3)))
    assert decode(encode(message)) == [message]


def test_a_string_longer_than_its_length_field_is_not_written() -> None:
    with pytest.raises(OverflowError):
        encode(Publish("t" * 65_536, b""))


# -- other people's codecs ----------------------------------------------------------------------------------


async def amqtt_reads(data: bytes) -> Any:
    reader = BufferReader(data)
    header = await MQTTFixedHeader.from_stream(reader)
    return await packet_class(header).from_stream(reader, fixed_header=header)


@given(publishes())
def test_amqtt_reads_and_writes_the_same_message(message: Publish) -> None:
    theirs = asyncio.run(amqtt_reads(encode(message)))
    assert (theirs.topic_name, bytes(theirs.data), theirs.qos) == (
        message.topic,
        message.payload,
        message.qos,
    )
    assert (theirs.packet_id or 0, theirs.dup_flag, theirs.retain_flag) == message[3:]
    assert decode(theirs.to_bytes()) == [message]


def amqtt_keeps(packet: Packet) -> bool:
    """It makes up a client id where there is none, and spoils a password that is not UTF-8."""
    if not isinstance(packet, Connect):
        return True
    return packet.client_id != "" and (packet.password or b"").isascii()


@given(packets.filter(amqtt_keeps))
def test_amqtt_writes_the_same_bytes(packet: Packet) -> None:
    assert asyncio.run(amqtt_reads(encode(packet))).to_bytes() == encode(packet)


@pytest.mark.parametrize(
    "data", [b"\xc1\x00", b"\x40\x02\x00\x00", b"\x30\x03\x00\x01\x00", b"\x36\x05\x00\x01t\x00\x01"]
)
def test_amqtt_takes_what_the_specification_forbids(data: bytes) -> None:
    """Why the hub does not use it: where this fails, amqtt has become as strict as we need."""
    with contextlib.suppress(AMQTTError, MQTTError):
        assert asyncio.run(amqtt_reads(data)) is not None
        with pytest.raises(Malformed):
            decode(data)
        return
    pytest.fail("amqtt refuses it now")


class Wire:
    """Takes what paho sends, and gives it what we answer."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def fileno(self) -> int:
        return -1

    def pending(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def paho_client() -> Iterator[tuple[paho.Client, Wire]]:
    client, wire = paho.Client("dev-1", clean_session=False, protocol=paho.MQTTv311), Wire()
    client._sock = wire  # its packets without its network
    yield client, wire
    client._sock = None


def test_paho_writes_what_we_read(paho_client: tuple[paho.Client, Wire]) -> None:
    client, wire = paho_client
    client.username_pw_set("name", "password")
    client.will_set("will/topic", b"gone", 1)
    client._send_connect(30)
    client._state = paho.mqtt_cs_connected
    client.subscribe([("a/#", 1), ("$iothub/twin/res/#", 0)])
    client.publish("topic/ä", b"payload", 1)
    client._send_pingreq()
    client.unsubscribe("a/#")
    assert decode(wire.sent) == [
        Connect("dev-1", "name", b"password", 30, False, Will("will/topic", b"gone", 1)),
        Subscribe(1, (("a/#", 1), ("$iothub/twin/res/#", 0))),
        Publish("topic/ä", b"payload", 1, 2),
        Bare(PacketType.PINGREQ),
        Unsubscribe(3, ("a/#",)),
    ]
