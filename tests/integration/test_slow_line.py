"""The hub's HTTPS side over a line that is slow, or stands still for a while."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.hub import https_api
from runtime.adapters.hub.https_api import HttpsRoute, HubHttps
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from tests.support.scripted import Asked, Says, Scripted, scripted

CONNECT_S, STANDS_S = 1.0, 1.5


class Line:
    """Carries one connection to `server`, and stands still for a while after the handshake."""

    def __init__(self, server: Scripted) -> None:
        host, _, port = server.instance.partition(":")
        self._listener = socket.create_server((host, 0))
        self._far = socket.create_connection((host, int(port)))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._carry, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, self._far):
            one.close()

    def _carry(self) -> None:
        near, _ = self._listener.accept()
        with near, self._far:
            threading.Thread(target=_pass_on, args=(self._far, near), daemon=True).start()
            _pass_on(near, self._far, most=4_096)
            time.sleep(STANDS_S)
            _pass_on(near, self._far)


def _pass_on(source: socket.socket, target: socket.socket, most: int | None = None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while (most is None or passed < most) and (data := source.recv(4_096)):
            target.sendall(data)
            passed += len(data)


@pytest.fixture
def line(folder: Path) -> Iterator[tuple[Line, HttpsRoute]]:
    with scripted(folder) as server:
        server.answer = lambda asked: Says(201 if isinstance(asked, Asked) else 500)
        line = Line(server)
        try:
            yield line, HttpsRoute(server.ca_file, line.port)
        finally:
            line.close()


@pytest.mark.parametrize("size_bytes", [65_536, 16_000_000], ids=["all in the kernel", "more than it takes"])
def test_a_block_has_the_time_that_it_takes_on_a_slow_line(
    line: tuple[Line, HttpsRoute], monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """Ten seconds without room for more of it in the kernel (a line of 5 kB/s) ended the request, and so did
    a minute until the kernel had sent what it took: no block ever came through."""
    monkeypatch.setattr(https_api, "CONNECT_S", CONNECT_S)
    monkeypatch.setattr(https_api, "ANSWER_S", CONNECT_S)
    hub = HubHttps(line[1], HubCredentials("127.0.0.1", "dev-1", 1, sas=Secret("sas")))
    assert hub.put(f"https://127.0.0.1:{line[0].port}/blob?sig=x", bytes(size_bytes)).status == 201
