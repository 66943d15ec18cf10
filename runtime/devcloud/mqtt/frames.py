"""WebSocket frames as a server reads and writes them (RFC 6455, no extension): pure, strict with clients."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MOST_CONTROL_BYTES = 125
"""The longest payload of a ping, pong or close."""
_SHORT, _LONG = 126, 127
"""Values of the length field for a true length that follows, in 2 or in 8 bytes."""


class Opcode(IntEnum):
    """The lower four bits of the first byte."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Ending(IntEnum):
    """The code in a close frame."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    TOO_LARGE = 1009


class BadFrame(Exception):
    """The client broke a rule: it is told `ending`, and the connection is over."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending


class Frame(NamedTuple):
    """One frame, unmasked."""

    opcode: Opcode
    payload: bytes


class FrameDecoder:
    """Takes bytes in any portions, and returns the frames of a client."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        self._within_message = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that is complete now. Raises BadFrame."""
        self._buffer += data
        while (found := self._take()) is not None:
            yield found

    def _take(self) -> Frame | None:
        if len(self._buffer) < 2:
            return None
        first, second = self._buffer[0], self._buffer[1]
        opcode = self._opcode(first)
        if not second & 0x80:
            raise BadFrame(Ending.PROTOCOL_ERROR, "a client's frame must be masked")
        length = second & 0x7F
        if opcode >= Opcode.CLOSE and length > MOST_CONTROL_BYTES:
            raise BadFrame(Ending.PROTOCOL_ERROR, f"{opcode.name} with more than {MOST_CONTROL_BYTES} bytes")
        start = 2 + {_SHORT: 2, _LONG: 8}.get(length, 0)
        if len(self._buffer) < start:
            return None
        length = self._true_length(length)
        if len(self._buffer) < start + 4 + length:
            return None
        mask = bytes(self._buffer[start : start + 4])
        payload = _masked(bytes(self._buffer[start + 4 : start + 4 + length]), mask)
        del self._buffer[: start + 4 + length]
        if opcode < Opcode.CLOSE:
            self._within_message = not first & 0x80
        return Frame(opcode, payload)

    def _opcode(self, first: int) -> Opcode:
        if first & 0x70:
            raise BadFrame(Ending.PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed upon")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError as exc:
            raise BadFrame(Ending.PROTOCOL_ERROR, f"unknown opcode {first & 0x0F}") from exc
        if opcode is Opcode.TEXT:
            raise BadFrame(Ending.UNSUPPORTED, "MQTT goes in binary frames")
        if opcode >= Opcode.CLOSE and not first & 0x80:
            raise BadFrame(Ending.PROTOCOL_ERROR, f"{opcode.name} in fragments")
        if opcode < Opcode.CLOSE and (opcode is Opcode.CONTINUATION) != self._within_message:
            raise BadFrame(Ending.PROTOCOL_ERROR, f"{opcode.name} where a message does not have it")
        return opcode

    def _true_length(self, length: int) -> int:
        least = 0
        if length == _SHORT:
            (length,), least = struct.unpack_from("!H", self._buffer, 2), _SHORT
        elif length == _LONG:
            (length,), least = struct.unpack_from("!Q", self._buffer, 2), 1 << 16
        if length < least:
            raise BadFrame(Ending.PROTOCOL_ERROR, f"{length} is not written in as few bytes as it could be")
        if length > self._most_bytes:
            raise BadFrame(Ending.TOO_LARGE, f"a frame of {length} bytes, at most {self._most_bytes}")
        return length


def _masked(payload: bytes, mask: bytes) -> bytes:
    """Each byte XOR the next byte of the repeated mask; computed as one number, since
    there may be 256 KiB of them.
    """
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(len(payload))


def encode(opcode: Opcode, payload: bytes) -> bytes:
    """A server's frame: whole, and not masked."""
    if len(payload) < _SHORT:
        head = struct.pack("!BB", 0x80 | opcode, len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, _SHORT, len(payload))
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, _LONG, len(payload))
    return head + payload


def close(ending: Ending) -> bytes:
    """The close frame, the last one."""
    return encode(Opcode.CLOSE, struct.pack("!H", ending))
