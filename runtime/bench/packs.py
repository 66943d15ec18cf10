"""Packing against single delivery: the bill, the rate, the bytes on the line, and the latency it adds.

Both are measured in the same run, with the real upload and ingest against the stand-in hub.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from runtime.bench import FigureRow
from runtime.bench.upload import PAYLOAD_BYTES, Rig, wait_for
from runtime.core.delivery.metering import metered_bytes, units
from runtime.producer import Producer

TLS_RECORD_BYTES = 29
"""What TLS 1.2 with AES-GCM adds to a record of at most 16 KiB."""
SEGMENT_BYTES, HEADER_BYTES = 1_448, 52
"""A TCP segment on Ethernet, and the headers of TCP and IP with timestamps."""
PUBACK_BYTES = 4
_RECORD_BYTES = 16_384
_JSON = "application/json"
_GROUP, _STREAM = "press-shop", "vibration-main-bearing"


def _set_to(settings: str) -> str:
    """The tables of both streams that are measured."""
    return "".join(f"[stream.{name}]\n{settings}\n" for name in ("bench", f'"{_GROUP}/{_STREAM}"'))


_LINES = _set_to('pack = "lines"')
_BROTLI = _set_to('pack = "lines"\ncompression = "fastest"')
_RUN = re.compile(r"\+(\d+)")

PACKED = (
    "single messages take a third less time than when the bound was set; of a packed one packing is 4 us in "
    "58, nearly all of the rest reading and offering its row"
)


def measure(quick: bool) -> list[FigureRow]:
    """The table of packing's figures."""
    count, rounds = (20_000, 1) if quick else (60_000, 5)
    rows = [_rate(count, rounds, 0, ">= 3"), _rate(count, rounds, 50, ">= 5")]
    rows += _bill()
    rows += _line()
    rows.append(_sends(20_000 if quick else 100_000))
    rows.append(_latency(3.0 if quick else 20.0))
    rows.append(_memory(count))
    return rows


def _rate(count: int, rounds: int, delay_ms: float, reach: str) -> FigureRow:
    turns = [(_drained(count // 3, delay_ms, ""), _drained(count, delay_ms, _LINES)) for _ in range(rounds)]
    single, packed = (statistics.median(rates) for rates in zip(*turns, strict=True))
    name = f"packed backlog, {delay_ms:g} ms round trip: delivered, against single messages"
    return FigureRow(name, packed, "msg/s", single, packed / single, reach, PACKED)


def _drained(count: int, delay_ms: float, streams: str) -> float:
    """Messages a second that arrive, from a tenth of them to all."""
    with Rig(streams) as rig:
        rig.fill(count)
        rig.faults(ack_delay_ms=delay_ms)
        rig.start("ingest")
        rig.start("upload")
        wait_for(lambda: _members(rig) >= count // 10)
        began_s, first = time.perf_counter(), _members(rig)
        wait_for(lambda: _members(rig) >= count)
        return (count - first) / (time.perf_counter() - began_s)


def _members(rig: Rig) -> int:
    """Messages of producers that arrived, in packs or alone; nothing is sent twice here."""
    return sum(_count(name) for (name,) in rig.messages("message_id"))


def _count(name: str) -> int:
    _, packed, runs = name.partition("#+")
    return sum(map(int, _RUN.findall("+" + runs))) if packed else 1


# -- the bill and the line -------------------------------------------------------------------------------


def _rich(number: int, chance: random.Random) -> bytes:
    """A line of JSON as sensors write it, some 220 bytes, of which little changes."""
    record = {
        "machine": "press-07",
        "line": "press-shop",
        "sensor": "vibration-main-bearing",
        "n": number,
        "state": chance.choice(["RUNNING", "IDLE", "SETUP"]),
        "unit": "mm/s",
        "quality": "good",
        "firmware": "4.2.1-rc3",
        "value": round(chance.gauss(4.2, 0.3), 2),
        "temperature": round(chance.gauss(61.0, 0.5), 1),
    }
    return json.dumps(record).encode()


def _of(payloads: Sequence[bytes], streams: str, figure: Callable[[Rig], float]) -> float:
    """The figure of a rig that has delivered a backlog of these."""
    with Rig(streams) as rig:
        rig.start("ingest")
        wait_for(rig.layout.producer_socket.exists)
        with Producer(f"ipc://{rig.layout.producer_socket}") as producer:
            for at in range(0, len(payloads), 500):
                producer.put_many(
                    payloads[at : at + 500], stream=_STREAM, stream_group=_GROUP, content_type=_JSON
                )
        rig.start("upload")
        wait_for(lambda: _members(rig) >= len(payloads))
        return figure(rig)


def _units(rig: Rig) -> float:
    """The units that the hub bills for what has arrived."""
    sizes = (
        metered_bytes(len(payload), json.loads(system).values(), json.loads(properties).items())
        for properties, system, payload in rig.messages("properties, system, payload")
    )
    return float(sum(map(units, sizes)))


def _bill() -> list[FigureRow]:
    chance = random.Random(1)
    plain = [chance.randbytes(PAYLOAD_BYTES // 2).hex().encode() for _ in range(10_000)]
    rich = [_rich(number, chance) for number in range(10_000)]
    lines, brotli = _of(plain, _LINES, _units), _of(rich, _BROTLI, _units)
    return [
        FigureRow(
            "units for 10,000 messages of 200 B, packed in lines, against single",
            lines,
            "units",
            10_000,
            lines / 10_000,
            f"<= {1 / 17:.4f}",
        ),
        FigureRow(
            "the same with brotli (fastest), rich JSON of 220 B",
            brotli,
            "units",
            10_000,
            brotli / 10_000,
            "<= 0.01",
        ),
    ]


def _line() -> list[FigureRow]:
    chance = random.Random(2)
    rich = [_rich(number, chance) for number in range(1_000)]
    single, lines, brotli = (_of(rich, streams, _line_bytes) for streams in ("", _LINES, _BROTLI))
    size = sum(map(len, rich)) // len(rich)
    name = f"bytes on the line for 1,000 messages of {size} B in lines, with TLS and TCP/IP, against single"
    return [
        FigureRow(name, lines, "B", single, lines / single, "<= 0.45"),
        FigureRow("the same with brotli (fastest)", brotli, "B", single, brotli / single, "<= 0.12"),
    ]


def _line_bytes(rig: Rig) -> float:
    """The bytes of every PUBLISH and its PUBACK, with the TLS records and the TCP segments that they need."""
    total = 0
    for properties, system, payload in rig.messages("properties, system, payload"):
        names = {**json.loads(system), **json.loads(properties)}
        bag = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in names.items())
        size = len(f"devices/{rig.device_id}/messages/events/{bag}") + len(payload) + 9
        total += _on_the_line(size) + _on_the_line(PUBACK_BYTES)
    return float(total)


def _on_the_line(size_bytes: int) -> int:
    recorded = size_bytes + TLS_RECORD_BYTES * -(-size_bytes // _RECORD_BYTES)
    return recorded + HEADER_BYTES * -(-recorded // SEGMENT_BYTES)


def _sends(count: int) -> FigureRow:
    """A hub of 100 sends a second is busy for as long as there are sends."""
    with Rig(_LINES) as rig:
        rig.fill(count)
        rig.start("ingest")
        rig.start("upload")
        wait_for(lambda: _members(rig) >= count)
        sends = rig.arrivals()
    name = f"a hub of 100 sends/s: time to drain {count:,} messages, packed, against single"
    return FigureRow(name, sends / 100, "s", count / 100, sends / count, "<= 0.02")


# -- latency and memory ----------------------------------------------------------------------------------


def _latency(seconds: float) -> FigureRow:
    """What a linger of 1 s adds, at some 40 messages a second."""
    linger_s = 1.0
    with Rig(_set_to(f'pack = "lines"\nlinger_s = {linger_s}')) as rig:
        rig.start("ingest")
        rig.start("upload")
        wait_for(rig.layout.producer_socket.exists)
        chance, sent = random.Random(3), 0
        with Producer(f"ipc://{rig.layout.producer_socket}") as producer:
            until_s = time.time() + seconds
            while time.time() < until_s:
                producer.put(f"{time.time():.6f}".encode(), stream="bench")
                sent += 1
                time.sleep(chance.random() * 0.05)
        wait_for(lambda: _members(rig) >= sent)
        waits_s = [
            at_s - float(stamp)
            for at_s, payload in rig.messages("received_at, payload")
            for stamp in payload.decode().split("\n")
        ]
    worst_s = statistics.quantiles(waits_s, n=100)[98]
    name = "packing with a linger of 1 s: from storing to the hub, p99"
    return FigureRow(name, worst_s, "s", None, None, f"<= {linger_s + 0.2}")


def _memory(count: int) -> FigureRow:
    single, packed = (_peak_mb(count, streams) for streams in ("", _LINES))
    name = f"upload's memory, draining {count:,} packed messages, beyond single ones"
    return FigureRow(name, packed - single, "MB", None, None, "<= 2")


def _peak_mb(count: int, streams: str) -> float:
    with Rig(streams) as rig:
        rig.fill(count)
        rig.start("ingest")
        upload = rig.start("upload")
        wait_for(lambda: _members(rig) >= count)
        text = Path(f"/proc/{upload.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024
