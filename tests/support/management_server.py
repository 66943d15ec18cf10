"""A stand-in for the management worker: the real codec on a ROUTER, and answers that a test scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from runtime.core.management.protocol import decode_request, encode_reply
from runtime.core.management.replies import ManagementReply
from runtime.core.management.requests import ManagementRequest

Answers = Callable[[ManagementRequest], ManagementReply | None]
"""The reply to a request; None: it gets none, as where the worker was killed."""


class ManagementServer:
    """Answers what programs ask, by `answers`, and keeps what they asked."""

    def __init__(self, endpoint: str, answers: Answers) -> None:
        self.endpoint = endpoint
        self.answers = answers
        self.requests: list[Any] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(self.endpoint)
        while not self._over.is_set():
            if socket.poll(20):
                peer, empty, *frames = socket.recv_multipart()
                request = decode_request(frames)
                self.requests.append(request)
                reply = self.answers(request)
                if reply is not None:
                    socket.send_multipart([peer, empty, *encode_reply(reply)])
        socket.close(linger=0)

    def of(self, kind: type[Any]) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    def stop(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._context.term()


@contextmanager
def management_server(folder: Path, answers: Answers) -> Iterator[ManagementServer]:
    server = ManagementServer(f"ipc://{folder}/management.sock", answers)
    try:
        yield server
    finally:
        server.stop()
