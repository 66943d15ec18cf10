"""Through a proxy: a real CONNECT proxy on a loopback address, and upload that knows no other way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from runtime.adapters.hub import proxy_options
from runtime.errors import ConfigError
from tests.harness import Cloud, Home, eventually
from tests.lines import backlog, check_arrivals, put, uploading


class Proxy:
    """Answers CONNECT, then copies bytes both ways."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.targets: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1000)
        target = head.split()[1].decode()
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        hub = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_copy, args=(client, hub), daemon=True).start()
        _copy(hub, client)

    def close(self) -> None:
        self._listener.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_telemetry_and_files_go_through_the_proxy_that_is_configured(
    home: Home, cloud: Cloud, proxy: Proxy
) -> None:
    uploading(home, cloud, toml=f'proxy = "http://127.0.0.1:{proxy.port}"')
    payloads = [b"%d" % n for n in range(100)]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0)
    check_arrivals(cloud, payloads)
    put(home, {"stream": "files"}, b"x" * 300_000)
    eventually(lambda: backlog(home) == 0)
    assert f"{cloud.facts['hub_host']}:8883" in proxy.targets
    assert f"{cloud.facts['hub_host']}:{cloud.facts['https_port']}" in proxy.targets


@pytest.mark.parametrize("wrong", ["proxy", "ftp://a:1", "http://host", "http://host:port"])
def test_a_proxy_that_is_no_address_is_a_wrong_setting(wrong: str) -> None:
    with pytest.raises(ConfigError):
        proxy_options(wrong)


def test_user_and_password_of_a_proxy_are_understood() -> None:
    found = proxy_options("socks5://me:secret@proxy.example:1080")
    assert found is not None
    assert (found.proxy_type, found.proxy_address, found.proxy_port) == ("SOCKS5", "proxy.example", 1080)
    assert proxy_options(None) is None
