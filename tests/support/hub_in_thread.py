"""The stand-in's hub in a thread of the test, with real TLS on a loopback address of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from azure.iot.device import IoTHubDeviceClient

from runtime.devcloud import addresses
from runtime.devcloud.mqtt import broker
from runtime.devcloud.mqtt.codec import PacketDecoder, encode
from runtime.devcloud.mqtt.packets import Connack, Connect, Packet, Publish
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.tokens import sign_sas
from runtime.devcloud.tls import server_context

T = TypeVar("T")
DEVICE = "demo:dev-1"
API = "?api-version=2021-04-12"

ABRUPT = (ConnectionError, ssl.SSLEOFError)
"""What a drop without close_notify looks like: OpenSSL hides the reset behind an unexpected end."""

EVENTS = f"devices/{DEVICE}/messages/events/"
COMMANDS = f"devices/{DEVICE}/messages/devicebound/#"
TWIN_RESULTS, DESIRED = "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"
REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid=r-1"


class HubInThread:
    """Cloud and hub; whatever touches them runs on their loop."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        here = addresses.bind_addresses(folder, "auto", 0)
        here.https.close()
        self.address = here.address
        self.ca_file = folder / "ca.pem"
        self._context = server_context(folder, self.address)
        self.loop = asyncio.new_event_loop()
        self._bugs: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._bugs.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.cloud = self.call(lambda: Cloud(folder, self.address, time.time()))
        self.call(lambda: [self.cloud.registrations.adopt(d, time.time()) for d in ("dev-1", "dev-2")])
        self.start()

    def call(self, action: Callable[[], T]) -> T:
        """Do something on the hub's loop."""

        async def do() -> T:
            return action()

        return self.run(do())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def start(self) -> None:
        self.hub = self.run(broker.serve(self.cloud, self.address, addresses.HUB_PORT, self._context))
        self.cloud.drop = self.hub.drop  # as `server.py` does it

    def stop(self) -> None:
        self.run(self.hub.stop())

    def close(self) -> None:
        self.stop()
        self.call(self.cloud.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        assert self._bugs == []

    def faults(self, **asked: Any) -> None:
        """Exactly these faults from now on."""

        def change() -> None:
            self.cloud.faults = type(self.cloud.faults)().merge(asked)

        self.call(change)

    def drop(self, mode: str) -> None:
        self.call(lambda: self.hub.drop(mode))

    def pass_time(self, seconds: float) -> None:
        """Nobody who is connected has been heard for so much longer."""

        def age() -> None:
            for connection in self.hub.connections:
                connection._last_input_at_s -= seconds

        self.call(age)

    def expire(self) -> int:
        """The SAS of whoever is connected ends now; when it was to end."""

        def end() -> int:
            (connection,) = self.hub.connections
            ends_at_s, connection._expires_at_s = connection._expires_at_s, time.time()
            return int(ends_at_s or 0)

        return self.call(end)

    def sas(self, device_id: str = DEVICE, *, lifetime_s: float = 3600.0) -> str:
        known = self.call(lambda: self.cloud.registrations.device(device_id.partition(":")[2]))
        assert known is not None, device_id
        return sign_sas(self.cloud.resource(device_id), known["key"], int(time.time() + lifetime_s))

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.call(lambda: self.cloud.database.rows(f"SELECT * FROM {table} ORDER BY seq"))

    def messages(self) -> list[dict[str, Any]]:
        """What arrived, property bags decoded."""
        return [
            {**row, "properties": json.loads(row["properties"]), "system": json.loads(row["system"])}
            for row in self.rows("messages")
        ]

    def end_reasons(self) -> list[str | None]:
        """How each connection ended, oldest first; None for one that lives."""
        return [row["end_reason"] for row in self.rows("connections")]

    @contextlib.contextmanager
    def client(self, device_id: str = DEVICE, *, lifetime_s: float = 3600.0, **options: Any) -> Iterator[Any]:
        """The real client, not yet connected, which gives up at its first error as ours does."""
        options = {
            "server_verification_cert": self.ca_file.read_text(), "connection_retry": False, **options
        }  # fmt: skip
        made = IoTHubDeviceClient.create_from_sastoken(self.sas(device_id, lifetime_s=lifetime_s), **options)
        try:
            yield made
        finally:
            made.shutdown()

    def raw(self, device_id: str = DEVICE, *, connect: bool = True, **fields: Any) -> Raw:
        """A client that can do what the real one cannot."""
        raw = Raw(self.address, self.ca_file)
        if connect:
            raw.send(self.connect_packet(device_id, **fields))
            answer = raw.receive()
            assert answer == Connack(0, answer.session_present), answer
        return raw

    def connect_packet(self, device_id: str = DEVICE, **fields: Any) -> Connect:
        usual = {
            "username": f"{self.address}/{device_id}/{API}",
            "password": self.sas(device_id).encode(),
            "clean_session": False,
        }
        return Connect(device_id, **{**usual, **fields})


class Raw:
    """TLS and packets, nothing more."""

    def __init__(self, address: str, ca_file: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca_file))
        plain = socket.create_connection((address, addresses.HUB_PORT), timeout=30)
        self.socket = context.wrap_socket(plain, server_hostname=address, suppress_ragged_eofs=False)
        self._decoder = PacketDecoder()
        self._packets: list[Packet] = []

    def send(self, *packets: Packet) -> None:
        self.send_bytes(b"".join(map(encode, packets)))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, timeout_s: float = 10.0) -> Any:
        """The next packet; EOFError where the hub said goodbye, ABRUPT where it did not."""
        self.socket.settimeout(timeout_s)
        while not self._packets:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._packets.extend(self._decoder.feed(data))
        return self._packets.pop(0)

    def is_silent_for(self, seconds_s: float) -> bool:
        """Whether nothing at all comes, not even an end."""
        try:
            self._packets.insert(0, self.receive(seconds_s))
        except TimeoutError:
            return True
        return False

    def assert_dropped(self) -> None:
        """The hub ends this connection without another packet."""
        with pytest.raises((EOFError, OSError)) as caught:
            pytest.fail(f"still open, and heard {self.receive()}")
        assert not isinstance(caught.value, TimeoutError)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def messages(count: int, start: int = 1) -> list[Publish]:
    return [Publish(f"{EVENTS}%24.mid=m:{n}", b"21.5", 1, n) for n in range(start, start + count)]


def payloads(broker: HubInThread) -> list[bytes]:
    return [row["payload"] for row in broker.messages()]
