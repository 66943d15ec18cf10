"""A small strict proxy for tests: HTTP CONNECT (RFC 9110) or SOCKS5 (RFC 1928), with or without a password.

It resolves names of its own, so that a name that nobody else knows proves that the traffic went through it,
and it can lead a port elsewhere, so that a test without privileges reaches what the device asks for at 443.
"""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator, Mapping

from tests.support.harness import Cloud

KINDS = ["http", "socks5"]
FAR_NAME = "hub.only-the-proxy-knows.test"
USER, PASSWORD = "device@site", "p:4/ss wörd"
WRITTEN = "device%40site:p%3A4%2Fss%20w%C3%B6rd"
"""The two as a URL has them."""
SOCKS_OK, SOCKS_REFUSED, SOCKS_UNREACHABLE = 0, 2, 4
ANONYMOUS, BY_PASSWORD, NO_METHOD = 0, 2, 0xFF
HESITATES_S = 0.2
"""How long a hesitant proxy waits between the parts of its answer."""


class Refused(Exception):
    """Said to the client already."""


class Proxy:
    """Listens on loopback until `close`. `targets` are the HOST:PORT asked for, `refusals` are counted."""

    def __init__(
        self,
        kind: str = "http",
        *,
        user: str | None = None,
        password: str = "",
        names: Mapping[str, str] | None = None,
        ports: Mapping[int, int] | None = None,
        hesitant: bool = False,
    ) -> None:
        assert kind in ("http", "socks5")
        self._kind = kind
        self._who = None if user is None else (user, password)
        self._names = names or {}
        self.ports = ports or {}
        self._hesitant = hesitant
        self.targets: list[str] = []
        self.refusals = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def url(self, credentials: str = "") -> str:
        """What `upload.proxy` says to use it; `credentials` as in a URL."""
        return f"{self._kind}://{credentials + '@' if credentials else ''}127.0.0.1:{self.port}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # who waits in accept() keeps it open otherwise
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, Refused), client:
            self._open.add(client)
            target = self._asked_over_http(client) if self._kind == "http" else self._asked_over_socks(client)
            with target:
                self._open.add(target)
                threading.Thread(target=_copy, args=(client, target), daemon=True).start()
                _copy(target, client)

    def _reach(self, host: str, port: int) -> socket.socket | None:
        self.targets.append(f"{host}:{port}")
        with contextlib.suppress(OSError):
            return socket.create_connection((self._names.get(host, host), self.ports.get(port, port)), 5)
        return None

    # -- HTTP ---------------------------------------------------------------------------------------------

    def _asked_over_http(self, client: socket.socket) -> socket.socket:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(client, 1)  # what follows is the tunnel's
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in rest)}
        method, target, _version = line.split(" ")
        host, _, port = target.rpartition(":")
        if method != "CONNECT" or not port.isdigit():
            self._say(client, "405 Method Not Allowed")
        scheme, _, said = headers.get("proxy-authorization", "").partition(" ")
        if self._who and (scheme.lower(), said) != ("basic", _basic(*self._who)):
            self._say(client, '407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="test"')
        found = self._reach(host, int(port))
        if found is None:
            self._say(client, "502 Bad Gateway")
            raise AssertionError("said")
        client.sendall(b"HTTP/1.1 200 Connection established\r\n")
        if self._hesitant:
            # Whoever goes on after the first line is heard before the rest of the answer is out.
            select.select([client], [], [], HESITATES_S)
            client.sendall(b"Via: 1.1 proxy.test\r\n")
        client.sendall(b"\r\n")
        return found

    def _say(self, client: socket.socket, status: str) -> None:
        self.refusals += 1
        client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        raise Refused

    # -- SOCKS5 -------------------------------------------------------------------------------------------

    def _asked_over_socks(self, client: socket.socket) -> socket.socket:
        version, count = _exactly(client, 2)
        offered = _exactly(client, count)
        method = BY_PASSWORD if self._who else ANONYMOUS
        if version != 5 or method not in offered:
            self._answer(client, bytes([5, NO_METHOD]), refused=True)
        self._answer(client, bytes([5, method]))
        if self._who:
            _one, length = _exactly(client, 2)
            user = _exactly(client, length).decode()
            password = _exactly(client, _exactly(client, 1)[0]).decode()
            wrong = (user, password) != self._who
            self._answer(client, bytes([1, wrong]), refused=wrong)
        version, command, _reserved, kind = _exactly(client, 4)
        assert (version, command) == (5, 1), "only CONNECT"
        if kind == 3:
            host = _exactly(client, _exactly(client, 1)[0]).decode()
        else:
            host = socket.inet_ntop(*((socket.AF_INET, _exactly(client, 4)) if kind == 1 else
                                      (socket.AF_INET6, _exactly(client, 16))))  # fmt: skip
        found = self._reach(host, struct.unpack("!H", _exactly(client, 2))[0])
        code = SOCKS_UNREACHABLE if found is None else SOCKS_OK
        self._answer(client, bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]), refused=found is None)
        assert found is not None
        return found

    def _answer(self, client: socket.socket, data: bytes, *, refused: bool = False) -> None:
        client.sendall(data)
        if refused:
            self.refusals += 1
            raise Refused


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until the end, and whatever end it was: an abrupt one goes on as one."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
        return
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def proxy_to(cloud: Cloud, kind: str, **options: str) -> Proxy:
    """One that knows a far cloud by its name, and leads port 443 to where it listens."""
    ports = {443: cloud.facts["websocket_port"]}
    return Proxy(kind, names={FAR_NAME: cloud.facts["address"]}, ports=ports, **options)  # type: ignore[arg-type]  # user, password


@contextlib.contextmanager
def proxying(kind: str = "http", **options: object) -> Iterator[Proxy]:
    """A proxy for the length of a `with`."""
    made = Proxy(kind, **options)  # type: ignore[arg-type]  # handed on as they are
    try:
        yield made
    finally:
        made.close()
