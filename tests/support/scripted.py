"""A strict little HTTPS server whose every answer a test writes, down to a cut in mid-stream."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    peer_certificate: bytes | None


@dataclass
class Says:
    """One answer. `raw` replaces all of it by bytes of the test's own.

    A refusal with an object for its body is the platform's own, as problem+json.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: Callable[[socket.socket, threading.Event], object] | None = None


Script = Callable[[Asked], Says]


def _body(text: bytes) -> Any:
    """JSON, or the bytes: a block of a file."""
    try:
        return json.loads(text or "null")
    except ValueError:
        return text


class Scripted:
    """The server. `answer` decides; `asked` remembers."""

    def __init__(
        self, folder: Path, *, address: str = "127.0.0.1", mutual: bool = False, ends: datetime | None = None
    ) -> None:
        """`ends`: so does its certificate."""
        self.asked: list[Asked] = []
        self.answer: Script = lambda asked: Says(404)
        self.closing = threading.Event()
        self.authority = trustme.CA()
        self.ca_file = folder / "scripted-ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(address, not_after=ends).configure_cert(context)
        if mutual:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.instance = f"{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20
            disable_nagle_algorithm = True  # head and body are two writes: 40 ms on each answer

            def _serve(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                peer = self.connection.getpeercert(binary_form=True)
                asked = Asked(self.command, self.path, dict(self.headers), _body(text), peer)
                owner.asked.append(asked)
                says = owner.answer(asked)
                if says.raw is not None:
                    with contextlib.suppress(OSError):
                        says.raw(self.connection, owner.closing)
                    self.close_connection = True
                    return
                body = says.body if isinstance(says.body, bytes) else json.dumps(says.body).encode()
                self.send_response_only(says.status)  # no Date but the test's
                if says.status >= 400 and isinstance(says.body, dict) and "Content-Type" not in says.headers:
                    self.send_header("Content-Type", "application/problem+json")
                for name, value in says.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET = do_HEAD = _serve

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler


@contextlib.contextmanager
def scripted(folder: Path, **options: Any) -> Iterator[Scripted]:
    """A server for the time of a test."""
    server = Scripted(folder, **options)
    try:
        yield server
    finally:
        server.close()


def hang(connection: socket.socket, closing: threading.Event) -> None:
    """Say nothing at all."""
    closing.wait(15)


def trickle_headers(connection: socket.socket, closing: threading.Event) -> None:
    """One byte now and then: every read comes in time, the whole never does."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not closing.wait(0.1):
        connection.sendall(b"a")


def trickle_body(connection: socket.socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{")
    while not closing.wait(0.1):
        connection.sendall(b" ")


def cut_before(connection: socket.socket, closing: threading.Event) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def cut_within(connection: socket.socket, closing: threading.Event) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n{"registrationTo')
    connection.shutdown(socket.SHUT_RDWR)


def not_http(connection: socket.socket, closing: threading.Event) -> None:
    connection.sendall(b"\x00\x01 SSH-2.0-whatever\r\n\r\n")


def endless(connection: socket.socket, closing: threading.Event) -> None:
    _for_ever(b"200 OK\r\nContent-Length: 100000000", connection, closing)


def endless_redirect(connection: socket.socket, closing: threading.Event) -> None:
    _for_ever(b"302 Found\r\nLocation: https://elsewhere.invalid/", connection, closing)


def _for_ever(head: bytes, connection: socket.socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")
    while not closing.is_set():
        connection.sendall(b"x" * 65536)
