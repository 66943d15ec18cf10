"""The WebSocket frames of the stand-in, against the rules and against another implementation."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from runtime.devcloud.mqtt.frames import BadFrame, Ending, Frame, FrameDecoder, Opcode, close, encode
from runtime.devcloud.mqtt.websocket import PATH, acceptance, refusal

DATA = [Opcode.BINARY, Opcode.PING, Opcode.PONG, Opcode.CLOSE]
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": KEY,
    b"sec-websocket-protocol": b"amqp, mqtt",
}


def masked(first: int, payload: bytes, *, length: bytes | None = None) -> bytes:
    """A client's frame, with whatever first byte and length."""
    mask = b"\x37\xfa\x21\x3d"  # the standard's example
    said = bytes([0x80 | len(payload)]) if length is None else length
    return bytes([first]) + said + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(payload))


def theirs(opcode: Opcode, payload: bytes) -> bytes:
    return TheirFrame(TheirOpcode(opcode), payload).serialize(mask=True)


@given(st.sampled_from(DATA), st.integers(0, 70_000), st.lists(st.integers(1, 9_000), max_size=20))
def test_frames_of_another_implementation_are_read_in_whatever_portions_they_come(
    opcode: Opcode, size: int, cuts: list[int]
) -> None:
    payload = os.urandom(size if opcode is Opcode.BINARY else size % 126)
    data = theirs(opcode, payload) + theirs(Opcode.PING, b"next")
    decoder, found = FrameDecoder(100_000), list[Frame]()
    for cut in [*cuts, len(data)]:
        found += decoder.feed(data[:cut])
        data = data[cut:]
    assert found == [Frame(opcode, payload), Frame(Opcode.PING, b"next")]


@given(st.sampled_from(DATA), st.integers(0, 70_000))
def test_another_implementation_reads_what_we_write(opcode: Opcode, size: int) -> None:
    payload = os.urandom(size if opcode is Opcode.BINARY else size % 126)
    reader = StreamReader()
    reader.feed_data(encode(opcode, payload))
    parsing = TheirFrame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as caught:
        next(parsing)
    assert (caught.value.value.opcode, bytes(caught.value.value.data)) == (TheirOpcode(opcode), payload)


def test_a_message_in_fragments_is_read_with_a_ping_between_them() -> None:
    data = masked(0x02, b"a") + masked(0x89, b"p") + masked(0x00, b"b") + masked(0x80, b"c")
    assert [f.payload for f in FrameDecoder(100).feed(data)] == [b"a", b"p", b"b", b"c"]


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (b"\x82\x01a", Ending.PROTOCOL_ERROR),  # not masked
        (masked(0x81, b"text"), Ending.UNSUPPORTED),
        (masked(0xC2, b"a"), Ending.PROTOCOL_ERROR),  # compressed, though nobody agreed to it
        (masked(0x83, b"a"), Ending.PROTOCOL_ERROR),  # no such opcode
        (masked(0x80, b"a"), Ending.PROTOCOL_ERROR),  # goes on with nothing
        (masked(0x02, b"a") + masked(0x82, b"b"), Ending.PROTOCOL_ERROR),  # a message within a message
        (masked(0x09, b"a"), Ending.PROTOCOL_ERROR),  # a ping in fragments
        (masked(0x89, b"a" * 126, length=b"\xfe" + struct.pack("!H", 126)), Ending.PROTOCOL_ERROR),
        (masked(0x82, b"a", length=b"\xfe" + struct.pack("!H", 1)), Ending.PROTOCOL_ERROR),
        (masked(0x82, b"a", length=b"\xff" + struct.pack("!Q", 65_535)), Ending.PROTOCOL_ERROR),
        (b"\x82\xff" + struct.pack("!Q", 1 << 62), Ending.TOO_LARGE),  # before a byte of it is kept
    ],
)
def test_a_client_that_breaks_a_rule_is_told_which_kind(data: bytes, ending: Ending) -> None:
    with pytest.raises(BadFrame) as caught:
        list(FrameDecoder(100_000).feed(data))
    assert caught.value.ending == ending


def test_the_last_frame_says_why() -> None:
    assert close(Ending.NORMAL) == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("target", "changes", "status"),
    [
        (PATH, {}, 0),
        (PATH + b"?iothub-no-client-cert=true", {}, 0),
        (b"/mqtt", {}, 404),
        (PATH, {b"sec-websocket-version": b"8"}, 426),
        (PATH, {b"sec-websocket-protocol": b"amqp"}, 400),
        (PATH, {b"sec-websocket-key": b"short"}, 400),
        (PATH, {b"sec-websocket-key": b"c2hvcnQ="}, 400),
    ],
)
def test_only_a_request_for_mqtt_is_let_in(target: bytes, changes: dict[bytes, bytes], status: int) -> None:
    assert refusal(b"GET", target, {**GOOD, **changes}) == status


def test_the_proof_is_that_of_the_standard() -> None:
    assert acceptance(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
