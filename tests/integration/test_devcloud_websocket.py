"""The stand-in's WebSockets keep to RFC 6455, against a client that does what the real one never would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from runtime.devcloud.mqtt.broker import Broker
from runtime.devcloud.mqtt.codec import encode
from runtime.devcloud.mqtt.packets import Connack
from runtime.devcloud.mqtt.websocket import MOST_WEBSOCKET_MESSAGE_BYTES, PATH, WebSocket
from tests.support.harness import eventually
from tests.support.hub_in_thread import HubInThread, messages, payloads


class Listener:
    """Accepts WebSockets for the hub without TLS; `hub` None stands for a hub that is down."""

    def __init__(self, broker: HubInThread) -> None:
        self._broker = broker
        self.hub: Broker | None = broker.hub
        self.server: asyncio.Server = broker.run(self._listen())
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: WebSocket(lambda: self.hub), "127.0.0.1", 0)

    def connect(self, path: str = PATH, **options: Any) -> ClientConnection:
        asked = {"subprotocols": [Subprotocol("mqtt")], "compression": None, "ping_interval": None, **options}
        return connect(f"ws://127.0.0.1:{self.port}{path}", **asked)

    def close(self) -> None:
        self._broker.call(self.server.close)


@pytest.fixture
def listener(hub: HubInThread) -> Iterator[Listener]:
    listening = Listener(hub)
    try:
        yield listening
    finally:
        listening.close()


def frame(opcode: Opcode, payload: bytes, *, mask: bool = True, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=mask)


def test_packets_in_fragments_with_a_ping_between_them_are_one_stream(
    hub: HubInThread, listener: Listener
) -> None:
    with listener.connect() as client:
        packet = encode(hub.connect_packet())
        client.socket.sendall(frame(Opcode.BINARY, packet[:7], fin=False))
        assert client.ping(b"between").wait(10), "no pong"
        client.socket.sendall(frame(Opcode.CONT, packet[7:20], fin=False))
        client.socket.sendall(frame(Opcode.CONT, packet[20:]))
        assert client.recv(10) == encode(Connack(0, False))
        client.send(b"".join(map(encode, messages(3))))  # several packets in one WebSocket message
        eventually(lambda: payloads(hub) == [b"21.5"] * 3)
    eventually(lambda: hub.end_reasons() == ["the device closed the WebSocket"])


def test_a_close_is_answered_by_a_close_and_what_came_before_it_is_recorded(
    hub: HubInThread, listener: Listener
) -> None:
    with listener.connect() as client:
        client.send(encode(hub.connect_packet()))
        assert client.recv(10) == encode(Connack(0, False))
        client.socket.sendall(
            frame(Opcode.BINARY, b"".join(map(encode, messages(2)))) + frame(Opcode.CLOSE, b"\x03\xe8")
        )
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000
    assert payloads(hub) == [b"21.5"] * 2


def test_the_hub_ends_a_websocket_with_a_close_frame(hub: HubInThread, listener: Listener) -> None:
    with listener.connect() as client:
        client.send(encode(hub.connect_packet()))
        assert client.recv(10) == encode(Connack(0, False))
        hub.drop("polite")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.BINARY, b"a", mask=False), 1002),
        (frame(Opcode.TEXT, b"text"), 1003),
        (b"\xc2" + frame(Opcode.BINARY, b"a")[1:], 1002),  # compressed, though it was not agreed upon
        (b"\x83" + frame(Opcode.BINARY, b"a")[1:], 1002),  # no such opcode
        (frame(Opcode.CONT, b"a"), 1002),
        (frame(Opcode.BINARY, b"a", fin=False) + frame(Opcode.BINARY, b"b"), 1002),
        (b"\x82\xff" + (MOST_WEBSOCKET_MESSAGE_BYTES + 1).to_bytes(8), 1009),  # before a byte of it is kept
    ],
    ids=["unmasked", "text", "compressed", "unknown", "continuation", "interleaved", "oversized"],
)
def test_a_client_that_breaks_a_rule_is_closed_with_its_code(
    listener: Listener, data: bytes, code: int
) -> None:
    with listener.connect() as client:
        client.socket.sendall(data)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == code


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/mqtt", {}, 404),
        (PATH, {"subprotocols": [Subprotocol("amqp")]}, 400),
        (PATH, {"subprotocols": None}, 400),
        (PATH, {"additional_headers": {"Sec-WebSocket-Version": "8"}}, 400),  # beside 13: two versions
    ],
)
def test_only_a_request_for_mqtt_is_upgraded(
    listener: Listener, path: str, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught, listener.connect(path, **options):
        pytest.fail("upgraded")
    assert caught.value.response.status_code == status


def test_a_query_after_the_path_is_allowed_and_a_hub_that_is_down_answers_503(listener: Listener) -> None:
    with listener.connect(PATH + "?iothub-no-client-cert=true") as client:
        assert client.subprotocol == "mqtt"
    listener.hub = None
    with pytest.raises(InvalidStatus) as caught, listener.connect():
        pytest.fail("upgraded")
    assert caught.value.response.status_code == 503
