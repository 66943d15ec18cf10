"""Messages over a line that is slow, or swallows large packets, with real TCP: none is blamed for it."""

from __future__ import annotations

import contextlib
import ctypes
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from runtime.adapters.hub import paho_wire
from runtime.adapters.hub.mqtt_client import HubConnection, HubOptions
from runtime.adapters.net.dial import dial
from runtime.core.delivery.actions import PROBE, Candidate, Discard, Open, Send
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry, probe
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.path_mtu import SEGMENTS_BYTES
from runtime.core.delivery.window import CongestionWindow
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from runtime.devcloud.addresses import HUB_PORT
from runtime.devcloud.mqtt.connection import Connection
from tests.support.hub_in_thread import DEVICE, HubInThread

SEGMENT_BYTES = 1448


class SlowLine:
    """Carries connections to the hub: upwards so many bytes a second, with hardly a buffer on the way."""

    def __init__(self, far: tuple[str, int], bytes_per_s: float) -> None:
        self._far = far
        self.bytes_per_s = bytes_per_s
        self.carried = 0
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow(self, above_bytes: int) -> None:
        """Lose every segment of more bytes, header included, as a router with a small MTU on its other side.

        A filter of the socket: what it refuses is as if it had never come.
        """
        program = struct.pack(
            "HBBI" * 4,
            *(0x80, 0, 0, 0),  # A = length
            *(0x25, 0, 1, above_bytes),  # more than that?
            *(0x06, 0, 0, 0),  # lose it
            *(0x06, 0, 0, 0xFFFFFFFF),
        )
        buffer = ctypes.create_string_buffer(program)
        attach = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
        self._listener.setsockopt(socket.SOL_SOCKET, 26, attach)  # SO_ATTACH_FILTER

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(self._far) as far:
            threading.Thread(target=self._down, args=(far, near), daemon=True).start()
            while data := near.recv(1024):
                time.sleep(len(data) / self.bytes_per_s)
                far.sendall(data)
                self.carried += len(data)
            far.shutdown(socket.SHUT_RDWR)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


class Sender:
    """What the worker does, of it only deciding and sending."""

    def __init__(self, hub: HubInThread, limits: DeliveryLimits, keepalive_s: int) -> None:
        self._credentials = HubCredentials(hub.address, DEVICE, generation=1, sas=Secret(hub.sas()))
        self.hub = HubConnection(HubOptions(hub.ca_file, keepalive_s))
        self.delivery = Delivery(CongestionWindow(4), LinkBudget(), limits)
        self.delivery.set_credentials(1, time.monotonic())
        self.payloads: dict[int, bytes] = {}
        self.delivered: list[int] = []
        self.quarantined: dict[int, str] = {}
        self.segments: list[int | None] = []

    def offer(self, id: int, stream: str, size_bytes: int) -> None:
        self.payloads[id] = random.Random(id).randbytes(size_bytes)
        assert self.delivery.offer(Candidate(id, stream, 1, size_bytes + 100), time.monotonic())

    def run(self, until: Callable[[], Any], timeout_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline_s, (
                self.delivery.connection.last_loss,
                self.delivery.connection.losses,
            )
            now = time.monotonic()
            for event in self.hub.drain():
                self.delivery.on_event(event, now, 0.5)
            self.delivery.carried(self.hub.carried(), now)
            with self.hub.together():
                for step in self.delivery.actions(now, 0.5):
                    self._do(step)
            settled = self.delivery.drain_settled()
            self.delivered += settled.delivered
            self.quarantined.update(settled.quarantined)
            select.select([self.hub], [], [], min(0.05, self.delivery.wait_s(time.monotonic())))

    def _do(self, step: object) -> None:
        match step:
            case Open(segment_bytes, stretch):
                self.segments.append(segment_bytes)
                self.hub.open(self._credentials, segment_bytes, stretch)
            case Discard():
                self.hub.discard()
            case Send((id, _) as tag):
                of_id = (
                    probe("p") if id == PROBE else Telemetry(f"m-{id}", self.payloads[id], (), "text/plain")
                )
                self.hub.send(tag, of_id)

    def close(self) -> None:
        self.hub.discard()


@pytest.fixture
def line(hub: HubInThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLine]:
    made = SlowLine((hub.address, HUB_PORT), 1e9)

    def by_the_line(_host: str, _port: int, _proxy: object, timeout_s: float, **how: Any) -> socket.socket:
        return dial("127.0.0.1", made.port, timeout_s, **how)

    monkeypatch.setattr(paho_wire, "dial", by_the_line)
    yield made
    made.close()


def test_a_message_that_takes_the_line_four_deadlines_arrives_on_one_connection(
    hub: HubInThread, line: SlowLine
) -> None:
    """Our watchdog ended the connection, then paho's keep-alive did; after five times it was quarantined."""
    line.bytes_per_s = 20_000
    sender = Sender(hub, DeliveryLimits(ack_s=1.0), keepalive_s=1)
    sender.offer(1, "s", 80_000)
    sender.run(lambda: sender.delivered)
    assert sender.delivery.connection.losses == 0 and sender.quarantined == {}
    assert line.carried < 100_000
    assert [row["message_id"] for row in hub.messages()] == ["m-1"]
    sender.close()


def test_a_hub_that_counts_whole_packets_only_is_promised_fewer_of_them(
    hub: HubInThread, line: SlowLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message took longer than one and a half keep-alives: every connection was ended in its midst."""
    take, hear, packets = Connection.data_received, Connection._handle, list[object]()

    def data_received(self: Connection, data: bytes) -> None:
        before_s, before = self._last_input_at_s, len(packets)
        take(self, data)
        if self._conversation is not None and len(packets) == before:
            self._last_input_at_s = before_s

    def heard(self: Connection, packet: Any) -> None:
        packets.append(packet)
        hear(self, packet)

    monkeypatch.setattr(Connection, "data_received", data_received)
    monkeypatch.setattr(Connection, "_handle", heard)
    line.bytes_per_s = 40_000
    sender = Sender(hub, DeliveryLimits(ack_s=5.0, prompt_s=1.0, retry_max_s=0.1), keepalive_s=1)
    sender.offer(1, "s", 100_000)
    sender.run(lambda: sender.delivered or sender.quarantined)
    assert sender.delivery.connection.losses >= 1 and sender.quarantined == {}
    assert "nothing received for 1.5 times the keep-alive" in (hub.end_reasons()[0] or "")
    sender.close()


def test_large_packets_that_vanish_condemn_no_message_and_smaller_ones_are_sent(
    hub: HubInThread, line: SlowLine
) -> None:
    """TCP never had a byte of it acknowledged: the hub was never shown it."""
    line.swallow(above_bytes=1_400)
    sender = Sender(hub, DeliveryLimits(ack_s=0.6, retry_max_s=0.1), keepalive_s=5)
    sender.offer(1, "large", 3_000)
    sender.run(lambda: SEGMENTS_BYTES[0] in sender.segments)
    assert "large packets do not get through" in sender.delivery.connection.trouble(time.monotonic())
    sender.offer(2, "small", 100)
    sender.run(lambda: {1, 2} <= set(sender.delivered))
    assert sender.quarantined == {}
    assert sender.segments[:2] == [None, None]
    sender.close()


def test_how_far_the_bytes_have_come_is_known_to_the_last_one(hub: HubInThread, line: SlowLine) -> None:
    line.bytes_per_s = 50_000
    sender = Sender(hub, DeliveryLimits(), keepalive_s=25)
    sender.offer(1, "s", 60_000)
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        client = sender.hub._client
        if client and sender.delivery.in_flight and (carried := client.carried()) is not None:
            seen.append((carried.arrived_bytes, carried.under_way_bytes))
        return bool(sender.delivered)

    sender.run(look)
    assert seen[0][1] > 30_000 and seen[-1][1] == 0
    assert all(a[0] <= b[0] for a, b in pairwise(seen))
    assert len({heard for heard, _ in seen}) > 5
    sender.close()
