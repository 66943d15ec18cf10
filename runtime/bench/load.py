"""Plain REQ producers, a process each: the next request goes when the acknowledgement of the last is held."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from runtime.bench.limits import PAYLOAD

PATIENCE_S = 30.0
_COUNT = struct.Struct("q")


def acknowledged_per_s(endpoint: str, size: int, pack: int, seconds: float) -> float:
    """Messages acknowledged in a second: `size` producers with `pack` messages in each request."""
    with producing(endpoint, size, pack) as acknowledged:
        start, before = time.perf_counter(), acknowledged()
        time.sleep(seconds)
        return (acknowledged() - before) / (time.perf_counter() - start)


@contextmanager
def producing(endpoint: str, size: int, pack: int) -> Iterator[Callable[[], int]]:
    """Producers at work, each of them served once; yields the count of messages acknowledged so far."""
    counts = mmap.mmap(-1, size * _COUNT.size)
    children = [_start(endpoint, number, pack, counts) for number in range(size)]
    try:
        _wait_until_all_are_served(counts, size)
        yield lambda: _total(counts, size) * pack
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _start(endpoint: str, number: int, pack: int, counts: mmap.mmap) -> int:
    child = os.fork()
    if child == 0:
        try:
            _produce(endpoint, number, pack, counts)
        finally:
            os._exit(1)
    return child


def _produce(endpoint: str, number: int, pack: int, counts: mmap.mmap) -> None:
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(endpoint)
    key = {"stream": "bench", "producer": f"p{number}", "boot": f"{os.getpid()}-{time.time_ns():x}"}
    payloads = [PAYLOAD] * pack
    requests = 0
    while True:
        header = json.dumps({**key, "sequence": 1 + requests * pack}).encode()
        socket.send_multipart([header, *payloads])
        if b'"ok":true' not in socket.recv():
            return
        requests += 1
        _COUNT.pack_into(counts, number * _COUNT.size, requests)


def _total(counts: mmap.mmap, size: int) -> int:
    return sum(_COUNT.unpack_from(counts, number * _COUNT.size)[0] for number in range(size))


def _wait_until_all_are_served(counts: mmap.mmap, size: int) -> None:
    deadline_s = time.perf_counter() + PATIENCE_S
    while not all(_COUNT.unpack_from(counts, number * _COUNT.size)[0] for number in range(size)):
        if time.perf_counter() > deadline_s:
            raise RuntimeError(f"not all of {size} producers are served within {PATIENCE_S:g} s")
        time.sleep(0.01)
