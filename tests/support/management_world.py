"""The worker management in this process, turned by hand, between a real hub, a disk and programs.

Upload is the least that joins the hub and the worker: its end of the line is the product's, its MQTT the
test's own. Nothing sleeps: `until` turns everything until a fact holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import zmq

from runtime.adapters.bus.hub_line import LineToManagement
from runtime.adapters.management.database import ManagementDatabase
from runtime.adapters.process.clock import SystemClock
from runtime.config import load
from runtime.core.ingest.protocol import Put, SizeLimits, Stored, decode_request, encode_reply
from runtime.core.management.hub_channels import HubChannel, channel_of
from runtime.core.management.hub_line import HubDown, HubMessage, HubUp, MessageStored, PublishAtHub
from runtime.core.management.protocol import decode_reply, encode_request
from runtime.core.management.replies import ManagementReply
from runtime.core.management.requests import ManagementRequest
from runtime.devcloud.mqtt.packets import Publish, Subscribe
from runtime.devcloud.state.commands import CommandOptions
from runtime.layout import Layout
from runtime.workers.management import ManagementLoop
from tests.support.hub_in_thread import DEVICE, HubInThread, Raw

T = TypeVar("T")

CHANNELS = tuple(channel.topic_filter(DEVICE) for channel in HubChannel)


class LeastUpload:
    """Joins the hub and the worker. Every PUBACK that it sends is listed, by message id."""

    def __init__(self, hub: HubInThread, layout: Layout) -> None:
        self.hub = hub
        self.line = LineToManagement(layout)
        self.raw: Raw | None = None
        self.client = 0
        self.acknowledged: list[int] = []
        """Numbers, in the order of their PUBACKs."""
        self.held: set[int] = set()
        """Packet ids that are owed a PUBACK."""
        self._packets: dict[int, int] = {}
        self._numbers = 0

    def connect(self) -> None:
        self.line.socket.poll(5_000, zmq.POLLOUT)  # the worker is there
        self.raw = self.hub.raw()
        self.raw.send(Subscribe(1, tuple((channel, 1) for channel in CHANNELS)))
        self.client += 1
        self.line.end.set_state(HubUp(self.client, DEVICE, frozenset(HubChannel)))

    def disconnect(self) -> None:
        if self.raw is not None:
            self.raw.socket.close()
        self.raw = None
        for number in self._packets:
            self.line.end.withdraw(number)
        self._packets.clear()
        self.line.end.set_state(HubDown("the connection is gone"))

    def pump(self) -> None:
        """Pass on what waits on both sides."""
        now_s = SystemClock().boot_s()
        self._from_hub(now_s)
        for said in self.line.receive(now_s):
            match said:
                case MessageStored(number):
                    self._puback(number)
                case PublishAtHub(client, number, topic, payload):
                    self._publish(client, topic, payload)
                    self.line.end.published(number, acked=client == self.client and self.raw is not None)
        self.line.send(now_s)

    def _publish(self, client: int, topic: str, payload: bytes) -> None:
        if self.raw is not None and client == self.client:
            with contextlib.suppress(OSError):
                self.raw.send(Publish(topic, payload))

    def _puback(self, number: int) -> None:
        packet_id = self._packets.pop(number, None)
        if packet_id is not None and self.raw is not None:
            self.acknowledged.append(number)
            self.raw.send_bytes(b"\x40\x02" + packet_id.to_bytes(2, "big"))

    def _from_hub(self, now_s: float) -> None:
        while self.raw is not None:
            try:
                packet = self.raw.receive(0.001)
            except TimeoutError:
                return
            except (OSError, EOFError):
                self.disconnect()
                return
            channel = channel_of(packet.topic) if isinstance(packet, Publish) else None
            if channel is None:
                continue
            self._numbers += 1
            if packet.qos:
                self._packets[self._numbers] = packet.packet_id
            self.line.end.add(
                HubMessage(
                    self.client, self._numbers, channel, packet.topic, packet.payload, packet.dup, now_s
                )
            )

    def close(self) -> None:
        if self.raw is not None:
            self.raw.socket.close()
        self.line.close()


class Program:
    """A program of this process: a REQ socket, and the protocol's own types."""

    def __init__(self, world: ManagementWorld) -> None:
        self._world = world
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{world.layout.management_socket}")
        self._asked: ManagementRequest | None = None

    def send(self, request: ManagementRequest) -> None:
        self._asked = request
        self._socket.send_multipart(encode_request(request))

    def reply(self) -> ManagementReply | None:
        """The reply, if it is there."""
        if not self._socket.poll(0):
            return None
        assert self._asked is not None
        return decode_reply(self._asked, self._socket.recv_multipart())

    def ask(self, request: ManagementRequest, timeout_s: float = 10.0) -> Any:
        """Send a request, and turn the world until its reply is there."""
        self.send(request)
        return self._world.until(self.reply, timeout_s)

    def close(self) -> None:
        self._socket.close(0)


class LeastIngest:
    """Stores what comes under its key, and acknowledges it."""

    def __init__(self, layout: Layout) -> None:
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.bind(f"ipc://{layout.producer_socket}")
        self.stored: dict[tuple[str, int], bytes] = {}

    def pump(self) -> None:
        while self.socket.poll(0):
            peer, empty, *frames = self.socket.recv_multipart()
            put = decode_request(frames, SizeLimits(10**6, 10**6))
            assert isinstance(put, Put) and put.producer is not None
            for at, payload in enumerate(put.payloads):
                key, message = (put.producer.boot, put.first_sequence + at), payload
                assert self.stored.setdefault(key, message) == message, "another message under its key"
            self.socket.send_multipart([peer, empty, encode_reply(Stored([1] * len(put.payloads)))])


class ManagementWorld:
    """A hub, a home, the worker, and the programs of a test."""

    def __init__(self, folder: Path, toml: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.hub = HubInThread(folder / "hub")
        self.home = folder / "home"
        self.layout = Layout(self.home)
        self.layout.create()
        (self.home / "edge.toml").write_text(f"[management]\nenabled = true\nreport_every_s = 0.1\n{toml}")
        self.upload = LeastUpload(self.hub, self.layout)
        self._programs: list[Program] = []
        self._now, self._ready = socket.socketpair()
        self._ready.send(b"x")
        self.max_pages: int | None = None
        self.start()

    def start(self) -> None:
        """A process of the worker begins."""
        config = load({}, home=self.home)
        self.database = ManagementDatabase(self.layout, max_pages=self.max_pages)
        self.worker = ManagementLoop(config, self.database, SystemClock())

    def restart(self) -> None:
        """It ends in order, and the next one begins."""
        self.worker.close()
        self.start()

    def program(self) -> Program:
        made = Program(self)
        self._programs.append(made)
        return made

    def step(self) -> None:
        """One turn of each, without waiting."""
        self.upload.pump()
        self.worker.turn([self._now])

    def until(self, fact: Callable[[], T | None], timeout_s: float = 10.0) -> T:
        """Turn until the fact holds."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := fact()):
            assert time.monotonic() < deadline_s, "not in time"
            self.step()
        return value

    def steps(self, count: int = 30) -> None:
        """Turn for a while in which nothing is awaited."""
        for _ in range(count):
            self.step()

    # --- at the hub ---

    def desire(self, patch: dict[str, Any]) -> None:
        self.hub.call(lambda: self.hub.cloud.patch_desired(DEVICE, patch, time.time()))

    def reported(self) -> dict[str, Any]:
        return self.hub.call(lambda: self.hub.cloud.twins.document(DEVICE, "reported"))

    def command(self, payload: bytes = b"go", id: str | None = "c-1", **properties: str) -> int:
        """Send a command; its number at the hub."""
        options = CommandOptions(message_id="" if id is None else id)

        def send() -> int:
            return self.hub.cloud.send_command(DEVICE, payload, dict(properties), time.time(), options).seq

        return self.hub.call(send)

    def states(self) -> list[str]:
        """The states of all commands at the hub."""
        rows = self.hub.call(lambda: self.hub.cloud.commands.records(DEVICE, 0, 1000))
        return [row["state"] for row in rows]

    def begin_call(self, method: str, payload: Any = None, timeout_s: float = 10.0) -> Future[Any]:
        """Call a method as the cloud does; the future has status and payload."""
        call = self.hub.cloud.call_method(DEVICE, method, payload, timeout_s, 0.0)
        return asyncio.run_coroutine_threadsafe(call, self.hub.loop)

    def call(self, method: str, payload: Any = None) -> tuple[int, Any]:
        """The answer to a call, while everything turns."""
        future = self.begin_call(method, payload)
        self.until(future.done, 15)
        status, body = future.result()
        return status, json.loads(body) if body else None

    def close(self) -> None:
        for program in self._programs:
            program.close()
        self.worker.close()
        self.upload.close()
        self.hub.close()
        self._now.close()
        self._ready.close()
