"""HTTP server for readers: GET and HEAD, on a loopback address, a unix socket, or where an operator says.

Nothing that a client does can hold it up: a connection has one request and CONNECTION_S for it, and beyond
MOST_CONNECTIONS a further one is told to come again. A browser that was led here by another site's name (DNS
rebinding) is refused by the Host header, and no page of another site can read an answer.

The standard library's server is enough here, and costs 6 MB less than any other that was tried.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from loguru import logger

from runtime.core.address import Endpoint, IpcEndpoint
from runtime.errors import UsageError

CONNECTION_S = 10.0
"""Time for a connection's request and its answer."""
MOST_CONNECTIONS = 16
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a GET."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Answering = Callable[[str], HttpAnswer | None]
"""The answer for a path without its query; None: there is no such path. May be called in several threads."""


class HttpServer:
    """The server, in threads of its own from its opening to its `close`."""

    def __init__(self, at: Endpoint, answering: Answering) -> None:
        """Listen. Raises UsageError where the address is taken, or is none of this machine."""
        local = isinstance(at, IpcEndpoint) or at.is_loopback
        self._server = _Server(_listening(at), answering, local=local)
        self._path = Path(at.path) if isinstance(at, IpcEndpoint) else None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.5,), name="http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port, where it listens at one."""
        return int(self._server.socket.getsockname()[1])

    def close(self) -> None:
        """Stop listening, and leave no socket file."""
        self._server.shutdown()
        self._server.server_close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """socketserver with a socket that listens already, and a bound on its threads."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answering: Answering, *, local: bool) -> None:
        super().__init__(listener.getsockname(), _Handler)
        self.socket, self.answering, self.local = listener, answering, local
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        connection.settimeout(CONNECTION_S)
        return connection, address or ("unix", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        cut = threading.Timer(CONNECTION_S, _cut, [request])  # a time-out bounds each read only
        cut.daemon = True
        try:
            cut.start()
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        _cut(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; anything else is a bug, and ends this answer only."""
        logger.opt(exception=True).debug("an answer over HTTP was not finished")

    def server_close(self) -> None:
        self.socket.close()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version = "edge-runtime"
    sys_version = ""

    def do_GET(self) -> None:
        self._reply(with_body=True)

    def do_HEAD(self) -> None:
        self._reply(with_body=False)

    def _reply(self, *, with_body: bool) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        for name, value in {**HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def _answer(self) -> HttpAnswer:
        host = (self.headers.get("Host") or "localhost").rsplit(":", 1)[0].lower()
        if self.server.local and not _is_loopback(host):
            return HttpAnswer(b"this server is called localhost\n", status=HTTPStatus.MISDIRECTED_REQUEST)
        answer = self.server.answering(self.path.split("?", 1)[0])
        return answer or HttpAnswer(b"there is no such page\n", status=HTTPStatus.NOT_FOUND)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *args: Any) -> None:
        """No line a request: a scraper comes every few seconds."""


def _listening(at: Endpoint) -> socket.socket:
    if isinstance(at, IpcEndpoint):
        return _listening_at_path(Path(at.path))
    try:
        host = None if at.host == "*" else at.host
        known = socket.getaddrinfo(host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = known[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MOST_CONNECTIONS)
    except OSError as exc:
        raise UsageError(f"cannot listen at {at}: {exc.strerror or exc}") from exc
    return listener


def _listening_at_path(path: Path) -> socket.socket:
    """A socket at `path` for the owner and the group. One that was left there is taken away first."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(MOST_CONNECTIONS)
    except OSError as exc:
        listener.close()
        raise UsageError(f"cannot listen at ipc://{path}: {exc.strerror or exc}") from exc
    return listener


def _is_loopback(host: str) -> bool:
    return (
        host in LOCAL_NAMES or host.startswith("127.") or host == "::1"
    )  # an address, as the settings take it


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
