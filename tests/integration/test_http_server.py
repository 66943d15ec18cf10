"""A reader over HTTP slows no other down, and a page of another site reads nothing."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from runtime.adapters.net import http_server
from runtime.adapters.net.http_server import HttpAnswer, HttpServer
from runtime.core.address import IpcEndpoint, TcpEndpoint
from runtime.errors import UsageError
from tests.support.harness import eventually


def answering(path: str) -> HttpAnswer | None:
    if path == "/bug":
        raise RuntimeError("a bug")
    return HttpAnswer(b"hello\n") if path == "/" else None


@pytest.fixture
def server() -> Iterator[HttpServer]:
    made = HttpServer(TcpEndpoint("127.0.0.1", 0), answering)
    yield made
    made.close()


def get(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_a_reader_gets_its_answer_and_no_browser_keeps_or_frames_it(server: HttpServer) -> None:
    status, body, headers = get(server.port, "/?q=1")
    assert (status, body) == (200, b"hello\n")
    assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
    assert "Python" not in headers["Server"]
    assert get(server.port, method="HEAD")[:2] == (200, b"")
    assert get(server.port, "/nothing")[0] == 404
    assert get(server.port, method="POST")[0] == HTTPStatus.NOT_IMPLEMENTED


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("localhost.evil.example:80", 421), ("localhost:1", 200), ("[::1]:9", 200)],
)
def test_a_name_that_was_bound_to_us_by_another_site_is_refused(
    server: HttpServer, host: str, status: int
) -> None:
    assert get(server.port, Host=host)[0] == status


def test_a_bug_in_one_answer_ends_that_connection_only(server: HttpServer) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        get(server.port, "/bug")
    assert get(server.port)[0] == 200


def test_a_client_that_sends_a_byte_now_and_then_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTION_S", 0.3)
    server = HttpServer(TcpEndpoint("127.0.0.1", 0), answering)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(5)
        slow.sendall(b"GET / HTTP/1.0\r\nX:")
        for _ in range(3):
            slow.sendall(b"y")
        assert slow.recv(10) == b""
    server.close()


def test_a_hundred_silent_clients_keep_no_one_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTION_S", 0.5)
    server = HttpServer(TcpEndpoint("127.0.0.1", 0), answering)
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    eventually(lambda: get(server.port)[0] == 200, 10, "a reader gets in")
    assert threading.active_count() < 60
    for connection in silent:
        connection.close()
    server.close()


def test_a_unix_socket_is_for_owner_and_group_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "observer.sock"
    first = HttpServer(IpcEndpoint(str(path)), answering)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    second = HttpServer(IpcEndpoint(str(path)), answering)  # as after a SIGKILL: the old one is in the way
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"hello\n")
    second.close()
    assert not path.exists()
    first.close()


def test_what_cannot_be_listened_at_is_one_sentence(server: HttpServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for at in (
        TcpEndpoint("127.0.0.1", server.port),
        TcpEndpoint("203.0.113.1", 80),
        IpcEndpoint(str(tmp_path / "file")),
    ):
        with pytest.raises(UsageError, match="cannot listen at"):
            HttpServer(at, answering)
    assert (tmp_path / "file").read_text() == "precious"
