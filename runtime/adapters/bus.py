"""The bus between processes, the only importer of zmq in the runtime besides the producer's client.

Hints: each worker publishes on a PUB socket of its own (`run/<worker>.hints`); whoever cares subscribes.
A hint is one word, carries no data, and may be lost: it costs latency, never truth, which is on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import zmq

from runtime.layout import Layout

STORED = "stored"  # ingest: new messages are on disk
IDENTITY_CHANGED = "identity-changed"  # provisioning, refresh: read identity.db again
SAS_REFUSED = "sas-refused"  # upload: the hub refused the SAS in force


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context of this process; a closed socket never holds up the exit."""
    ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    ctx.linger = 0
    return ctx


def bind_private(socket: zmq.Socket[bytes], path: Path, mode: int = 0o600) -> None:
    """Bind an ipc socket with `mode` from its first instant. The caller holds the worker's flock."""
    before = os.umask(0o777 & ~mode)
    try:
        socket.bind(f"ipc://{path}")
    finally:
        os.umask(before)


class Hints:
    """What this worker tells the others, and what it hears from them."""

    def __init__(self, layout: Layout, worker: str, listen_to: Iterable[str] = ()) -> None:
        self._pub = context().socket(zmq.PUB)
        bind_private(self._pub, layout.hints_socket(worker))
        self._sub = context().socket(zmq.SUB)
        self._sub.setsockopt(zmq.SUBSCRIBE, b"")
        for other in listen_to:
            self._sub.connect(f"ipc://{layout.hints_socket(other)}")  # it need not exist yet

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """To be polled together with other sockets."""
        return self._sub

    def tell(self, hint: str) -> None:
        """Publish a hint to whoever listens now."""
        self._pub.send(hint.encode())

    def heard(self) -> set[str]:
        """Take all hints that wait, without waiting."""
        found = set()
        while self._sub.poll(0):
            found.add(self._sub.recv().decode())
        return found

    def wait(self, timeout_s: float, also: Iterable[object] = ()) -> set[str]:
        """Wait for a hint, for one of `also` (anything with fileno()) to become readable, or for the time."""
        poller = zmq.Poller()
        poller.register(self._sub, zmq.POLLIN)
        for other in also:
            poller.register(other, zmq.POLLIN)
        poller.poll(int(max(0.0, timeout_s) * 1000))
        return self.heard()

    def close(self) -> None:
        self._pub.close(0)
        self._sub.close(0)
