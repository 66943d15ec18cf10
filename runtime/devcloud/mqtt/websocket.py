"""MQTT over WebSockets, on the HTTPS port as at the real hub: the transport where 8883 is blocked.

uvicorn passes the transport on at the request for an upgrade. From then on a `Connection` of the hub sends
through frames without knowing it: same packets, same faults, same end. Handshake and frames are the
`websockets` package's, without I/O; what MQTT and the hub demand beyond RFC 6455 is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from runtime.devcloud.mqtt.broker import Broker
from runtime.devcloud.mqtt.connection import MOST_PACKET_BYTES, Connection

PATH = "/$iothub/websocket"
MOST_WEBSOCKET_MESSAGE_BYTES = 2 * MOST_PACKET_BYTES
"""Clients put a packet or several into a WebSocket message; a larger one holds no valid packet."""


class WebSocket(asyncio.Protocol):
    """One connection, from the request for an upgrade on. `hub` returns the broker, None while it is down."""

    def __init__(self, hub: Callable[[], Broker | None]) -> None:
        self._hub = hub
        self._frames = ServerProtocol(
            subprotocols=[Subprotocol("mqtt")], max_size=MOST_WEBSOCKET_MESSAGE_BYTES
        )
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = _FramedTransport(transport, self._frames)

    def data_received(self, data: bytes) -> None:
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Request):
                self._shake_hands(event)
            elif self._connection is not None and isinstance(event, Frame):
                self._receive(self._connection, event)
        self._transport.flush()
        if self._frames.eof_sent:
            self._end(str(self._frames.parser_exc or "the device closed the WebSocket"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume_writing()

    def _shake_hands(self, request: Request) -> None:
        hub = self._hub()
        response = answer(self._frames, request, hub_is_up=hub is not None)
        self._frames.send_response(response)
        self._transport.flush()
        if hub is not None and self._frames.state is State.OPEN:
            self._connection = Connection(hub)
            self._connection.connection_made(self._transport)

    def _receive(self, connection: Connection, frame: Frame) -> None:
        """Pass a frame's payload on, unless it is a control frame: those are answered already."""
        if frame.opcode is Opcode.TEXT:
            self._frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT goes in binary frames")
            self._transport.flush()
            self._end("a text frame: MQTT goes in binary frames")
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT):
            connection.data_received(bytes(frame.data))

    def _end(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.end(reason)
        else:
            self._transport.close()


class _FramedTransport(asyncio.Transport):
    """Transport that writes binary frames while the WebSocket is open, and closes it with a close frame."""

    def __init__(self, plain: asyncio.Transport, frames: ServerProtocol) -> None:
        super().__init__()
        self._plain = plain
        self._frames = frames

    def flush(self) -> None:
        """Write what the protocol has to send."""
        self._plain.write(b"".join(self._frames.data_to_send()))

    def write(self, data: Any) -> None:
        if self._frames.state is State.OPEN:
            self._frames.send_binary(data)
            self.flush()

    def close(self) -> None:
        if self._frames.state is State.OPEN:
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
        self.flush()
        self._plain.close()

    def abort(self) -> None:
        self._plain.abort()

    def pause_reading(self) -> None:
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        self._plain.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._plain.get_extra_info(name, default)


def answer(frames: ServerProtocol, request: Request, *, hub_is_up: bool) -> Response:
    """The response to a request for an upgrade: 101, or a refusal by its status."""
    if not hub_is_up:
        return frames.reject(503, "The hub is down.\n")
    if request.path.partition("?")[0] != PATH:
        return frames.reject(404, f"MQTT over WebSockets is at {PATH}.\n")
    return frames.accept(request)
