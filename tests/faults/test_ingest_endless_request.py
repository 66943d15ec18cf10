"""A request without end: libzmq would take it in until memory is gone, so whoever sends it is shown out."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest

from runtime.adapters.process.status_file import read_status
from runtime.adapters.store.reader import StoreReader
from runtime.core.message import StoredMessage
from runtime.producer import Producer
from tests.support.harness import Home, eventually

BOUND_BYTES = 33_554_432
ENDLESS_BYTES = 40 * BOUND_BYTES
SLACK_BYTES = ENDLESS_BYTES // 4
"""What may arrive between two looks, on a machine as fast and as busy as you like: 120 MB were seen."""
ATTACKS = 3


@pytest.mark.parametrize("frame_bytes", [20, 65_536])
def test_a_request_without_end_ends_with_its_connection_and_others_are_served_on(
    home: Home, frame_bytes: int
) -> None:
    home.write_config(f"[ingest]\nmemory_bytes = {BOUND_BYTES}\n[store]\nmin_free_bytes = 0\n")
    ingest = home.start_worker("ingest", fresh=True)
    over, acknowledged, peak = threading.Event(), set(), 0
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
        producer.ping()
        before = resident_bytes(ingest.pid)

        def attack() -> None:
            for _ in range(ATTACKS):
                send_without_end(home.layout.producer_socket, frame_bytes)
            over.set()

        threading.Thread(target=attack, daemon=True).start()
        while not over.is_set():
            acknowledged.add(producer.put(b"mine"))
            peak = max(peak, resident_bytes(ingest.pid))
    assert peak < before + BOUND_BYTES + SLACK_BYTES
    eventually(lambda: resident_bytes(ingest.pid) < before + BOUND_BYTES, what="memory comes back")
    assert ingest.running(), "it was not to be the one who leaves"
    eventually(lambda: (read_status(home.layout.status_file("ingest")) or {})["connections_cut"] >= ATTACKS)
    assert ingest.said().count("is cut") == 1, "once a minute is enough"
    reader = StoreReader(home.layout.messages_db)
    assert acknowledged == {m.id for m in reader.after(0, 10**6, 10**9) if isinstance(m, StoredMessage)}
    reader.close()


def send_without_end(path: Path, frame_bytes: int) -> None:
    """As no libzmq does, which gathers a whole request in the sender: ZMTP by hand, until we are cut off."""
    size = struct.pack(">BQ", 3, frame_bytes) if frame_bytes > 255 else bytes([1, frame_bytes])
    frames = (size + bytes(frame_bytes)) * max(1, 65_536 // frame_bytes)
    with socket.socket(socket.AF_UNIX) as out:
        out.connect(str(path))
        out.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        out.sendall(bytes([4, len(ready)]) + ready)
        while b"READY" not in out.recv(1_000):
            continue
        out.sendall(b"\x01\x00")  # the empty frame
        with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            for _ in range(ENDLESS_BYTES // len(frames)):
                out.sendall(frames)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
