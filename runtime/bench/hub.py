"""The stand-in hub's throughput, so that the hub is never what another benchmark measures.

The hub runs in a process of its own; the client here does as little as a client can: packets encoded
beforehand, one TLS record each (as paho sends them), PUBACKs only counted. The limit beside it is the same
client against a server that answers without MQTT, loop or database: the rate that TLS and sockets of this
machine give.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bench import FigureRow
from runtime.devcloud import addresses
from runtime.devcloud.mqtt import broker
from runtime.devcloud.mqtt.codec import PacketDecoder, encode
from runtime.devcloud.mqtt.packets import Connect, Publish
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.faults import Faults
from runtime.devcloud.state.tokens import sign_sas
from runtime.devcloud.tls import server_context

DEVICE = "demo:bench"
PAHO_WINDOW = 20
"""The number of messages that paho keeps in flight by default."""
PUBACK_BYTES = 4
NEEDED_PER_S = 4000


def measure(quick: bool) -> list[FigureRow]:
    """Messages a second with two windows, processor time a message, a delay's effect, and the codecs."""
    count, rounds = (2000, 1) if quick else (10_000, 5)
    rows: list[FigureRow] = []
    with _served("answer") as bare, _served("hub") as real, _served("hub", ack_delay_ms=50) as far:
        for window in (PAHO_WINDOW, 256):
            limit = _median(rounds, lambda w=window: _rate(bare, count, w))  # type: ignore[misc]
            used_s = real.processor_s()
            rate = _median(rounds, lambda w=window: _rate(real, count, w))  # type: ignore[misc]
            per_message_us = (real.processor_s() - used_s) / (count * rounds) * 1e6
            what = f"200 B at QoS 1, {window} in flight"
            rows.append(FigureRow(f"hub, {what}", rate, "msg/s", limit, None, f">= {NEEDED_PER_S}"))
            rows.append(
                FigureRow(f"hub, {what}: processor time", per_message_us, "us/msg", None, None, "<= 125")
            )
        ideal = PAHO_WINDOW / 0.05
        delayed = _rate(far, count // 20, PAHO_WINDOW)
        name = f"hub, acknowledging 50 ms late, {PAHO_WINDOW} in flight, against {PAHO_WINDOW} each 50 ms"
        rows.append(FigureRow(name, delayed, "msg/s", ideal, delayed / ideal, ">= 0.9"))
    return rows + _codecs(count)


def processor_s(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the client -------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A serving process, and its address."""

    process: subprocess.Popen[str]
    address: str
    port: int
    sas: str
    ca_file: Path

    def processor_s(self) -> float:
        """User and system time the process has used."""
        return processor_s(self.process.pid)

    def connect(self) -> ssl.SSLSocket:
        """A connection that is accepted."""
        plain = socket.create_connection((self.address, self.port), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = ssl.create_default_context(cafile=str(self.ca_file)).wrap_socket(
            plain, server_hostname=self.address
        )
        username = f"{self.address}/{DEVICE}/?api-version=2021-04-12"
        secured.sendall(encode(Connect(DEVICE, username, self.sas.encode(), clean_session=False)))
        assert secured.recv(4)[3] == 0
        return secured


def _packets(count: int) -> list[bytes]:
    topic = f"devices/{DEVICE}/messages/events/%24.mid=bench%3A{{}}&stream-name=weather"
    return [encode(Publish(topic.format(n), b"x" * 200, 1, n % 65_535 + 1)) for n in range(count)]


def _rate(served: Served, count: int, window: int) -> float:
    """Messages a second that are acknowledged with this many in flight."""
    packets, acknowledged, buffer = _packets(count), 0, bytearray(65_536)
    with served.connect() as connection:
        started_s = time.perf_counter()
        for number, packet in enumerate(packets):
            while number - acknowledged // PUBACK_BYTES >= window:
                acknowledged += connection.recv_into(buffer)
            connection.sendall(packet)
        while acknowledged < count * PUBACK_BYTES:
            acknowledged += connection.recv_into(buffer)
        return count / (time.perf_counter() - started_s)


def _median(rounds: int, action: Callable[[], float]) -> float:
    return statistics.median(action() for _ in range(rounds))


# -- the servers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(role: str, **faults: float) -> Iterator[Served]:
    """This module as a process of its own, in the role `hub` or `answer`."""
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.bench.hub", role, folder, json.dumps(faults)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LOGURU_LEVEL": "WARNING"},  # the hub logs every connection
            text=True,
        )
        assert process.stdout is not None
        try:
            facts = json.loads(process.stdout.readline())
            yield Served(process, facts["address"], facts["port"], facts["sas"], Path(folder) / "ca.pem")
        finally:
            process.kill()
            process.wait(10)


def _serve(role: str, folder: Path, faults: dict[str, Any]) -> None:
    """Run the process that is measured, until killed."""
    here = addresses.bind_addresses(folder, "auto", 0)
    here.https.close()
    address = here.address
    cloud = Cloud(folder, address, time.time())
    cloud.registrations.adopt("bench", time.time())
    cloud.faults = Faults().merge(faults)
    known = cloud.registrations.device("bench")
    assert known is not None
    sas = sign_sas(cloud.resource(DEVICE), known["key"], int(time.time()) + 3600)
    context = server_context(folder, address)

    def announce(port: int) -> None:
        print(json.dumps({"address": address, "port": port, "sas": sas}), flush=True)

    if role == "hub":
        asyncio.run(_run_hub(cloud, context, announce))
    else:
        _answer(address, context, announce)


async def _run_hub(cloud: Cloud, context: ssl.SSLContext, announce: Callable[[int], None]) -> None:
    await broker.serve(cloud, cloud.hub_host, addresses.HUB_PORT, context)
    announce(addresses.HUB_PORT)
    await asyncio.Event().wait()


def _answer(address: str, context: ssl.SSLContext, announce: Callable[[int], None]) -> None:
    """Answer the first bytes with a CONNACK, then each `stream-name` in the bytes with a PUBACK."""
    with socket.create_server((address, 0)) as listener:
        announce(listener.getsockname()[1])
        while True:
            plain, _ = listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65_536)
                connection.sendall(b"\x20\x02\x00\x00")
                while data := connection.recv(65_536):
                    connection.sendall(b"\x40\x02\x00\x01" * data.count(b"&stream-name="))


# -- the codecs -------------------------------------------------------------------------------------------


def _codecs(count: int) -> list[FigureRow]:
    stream = b"".join(_packets(count))
    started_s = time.perf_counter()
    assert sum(1 for _ in PacketDecoder().feed(stream)) == count
    ours = count / (time.perf_counter() - started_s)
    theirs = count / asyncio.run(_amqtt_s(stream, count))
    name = "decoding PUBLISH: ours against amqtt's"
    return [FigureRow(name, ours, "packets/s", theirs, ours / theirs)]


async def _amqtt_s(stream: bytes, count: int) -> float:
    """Seconds that amqtt's codec takes for the same bytes."""
    from amqtt.adapters import StreamReaderAdapter
    from amqtt.mqtt.packet import MQTTFixedHeader
    from amqtt.mqtt.publish import PublishPacket

    reader = asyncio.StreamReader()
    reader.feed_data(stream)
    adapter = StreamReaderAdapter(reader)
    started_s = time.perf_counter()
    for _ in range(count):
        header = await MQTTFixedHeader.from_stream(adapter)
        await PublishPacket.from_stream(adapter, fixed_header=header)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
