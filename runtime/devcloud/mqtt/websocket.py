"""MQTT over WebSockets, on the HTTPS port as at the real hub: the way that is left where 8883 is blocked.

uvicorn hands over the connection at the request for an upgrade. From then on a `Connection` of the hub sends
through frames without knowing it: same packets, same faults, same end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any

import h11

from runtime.devcloud.mqtt.broker import Broker
from runtime.devcloud.mqtt.connection import MOST_PACKET_BYTES, Connection
from runtime.devcloud.mqtt.frames import BadFrame, Ending, FrameDecoder, Opcode, close, encode

PATH = b"/$iothub/websocket"
SUBPROTOCOL = b"mqtt"
MOST_FRAME_BYTES = 2 * MOST_PACKET_BYTES
"""Clients put a packet or several into a frame; a frame larger than this holds no valid packet."""
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455


class WebSocket(asyncio.Protocol):
    """One connection, from the request for an upgrade on. `hub` returns the broker, None while it is down."""

    def __init__(self, hub: Callable[[], Broker | None]) -> None:
        self._hub = hub
        self._decoder = FrameDecoder(MOST_FRAME_BYTES)
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._connection is None:
            self._shake_hands(data)
            return
        try:
            for frame in self._decoder.feed(data):
                match frame.opcode:
                    case Opcode.BINARY | Opcode.CONTINUATION:
                        self._connection.data_received(frame.payload)
                    case Opcode.PING:
                        self._transport.write(encode(Opcode.PONG, frame.payload))
                    case Opcode.CLOSE:
                        self._connection.end("the device closed the WebSocket")
        except BadFrame as exc:
            self._transport.write(close(exc.ending))
            self._connection.end(str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume_writing()

    def _shake_hands(self, data: bytes) -> None:
        """Answer the handshake; uvicorn hands over the whole head of the request, at once."""
        http = h11.Connection(h11.SERVER)
        http.receive_data(data)
        request = http.next_event()
        assert isinstance(request, h11.Request)
        hub, headers = self._hub(), dict(request.headers)
        refused = refusal(request.method, request.target, headers) if hub else 503
        if hub is None or refused:
            answer = h11.Response(
                status_code=refused, headers=[("Content-Length", "0"), ("Connection", "close")]
            )
            self._transport.write(http.send(answer) or b"")
            self._transport.close()
            return
        agreed = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", acceptance(headers[b"sec-websocket-key"]).decode()),
            ("Sec-WebSocket-Protocol", SUBPROTOCOL.decode()),
        ]
        self._transport.write(http.send(h11.InformationalResponse(status_code=101, headers=agreed)) or b"")
        self._connection = Connection(hub)
        self._connection.connection_made(_Framed(self._transport))


class _Framed(asyncio.Transport):
    """A transport that writes binary frames."""

    def __init__(self, plain: asyncio.Transport) -> None:
        super().__init__()
        self._plain = plain

    def write(self, data: Any) -> None:
        self._plain.write(encode(Opcode.BINARY, data))

    def close(self) -> None:
        self._plain.write(close(Ending.NORMAL))
        self._plain.close()

    def abort(self) -> None:
        self._plain.abort()

    def pause_reading(self) -> None:
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        self._plain.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._plain.get_extra_info(name, default)


def refusal(method: bytes, target: bytes, headers: dict[bytes, bytes]) -> int:
    """The status that refuses a request for an upgrade; 0: it is valid. Names of headers in lower case."""
    if target.partition(b"?")[0] != PATH:
        return 404
    if method != b"GET":
        return 405
    if headers.get(b"sec-websocket-version") != b"13":
        return 426
    asked = [name.strip().lower() for name in headers.get(b"sec-websocket-protocol", b"").split(b",")]
    try:
        key = base64.b64decode(headers.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        return 400
    return 0 if len(key) == 16 and SUBPROTOCOL in asked else 400


def acceptance(key: bytes) -> bytes:
    """The answer's proof that the request was understood."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
