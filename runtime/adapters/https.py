"""One HTTPS request with one deadline for all of it: name, connection, handshake, headers, body.

The deadline of `requests` bounds each read only, and a resolver knows none: a peer that sends one byte in
nine seconds holds it for ever. So the request runs in a thread of its own, the caller waits no longer than it
wants to (and keeps its heartbeat meanwhile), and an overdue connection is cut. Redirects are not followed: a
token is for the host it was meant for. Nothing is kept between calls, so renewed certificates count at once.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from runtime.adapters.proxies import ProxyTrouble
from runtime.adapters.reasons import all_causes, reason_at
from runtime.adapters.trust import SLICE_S, Trust, Waiting, wrong_time
from runtime.core.answer import Outcome
from runtime.core.secret import Secret

MAX_BODY_BYTES = 65_536
"""No answer of the platform comes near it; more is not ours to keep in memory."""

UNHEARD_S = 60.0
"""What was sent and is not acknowledged by TCP for so long ends the connection: the way is dead."""


@dataclass(frozen=True)
class Reply:
    """What the server sent, complete."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Failure:
    """Why there is no reply."""

    outcome: Outcome
    reason: str


class _DeviceToken(AuthBase):
    """Sets the header itself, so that a ~/.netrc never does."""

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"DeviceToken {self._token.reveal()}"
        return request


class Session(requests.Session):
    """Sees no redirect in any answer: to prepare for one it reads the whole body, however long that is."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Cutter:
    """Ends the open connections of one caller from another thread.

    Its connections know it, and it knows only their sockets: what held the pool, too, would keep all of it
    for ever, because urllib3's finalizer of a pool holds the pool's connections.
    """

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self.overdue = False
        """What is opened from now on is cut at once."""
        self._closed_bytes = 0

    def connected(self, sock: Any) -> None:
        self._sockets.add(sock)
        if self.overdue:
            self.cut()

    def closing(self, sock: Any) -> None:
        if sock in self._sockets:
            self._sockets.discard(sock)
            self._closed_bytes += _sent_bytes(sock)

    def sent_bytes(self) -> int:
        """So much went out over all of its connections, below TLS, repeated segments too."""
        return self._closed_bytes + sum(_sent_bytes(sock) for sock in list(self._sockets))

    def cut(self) -> None:
        self.overdue = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                # the base class's: SSLSocket's own takes the TLS state away under the reader's feet
                socket.socket.shutdown(_plain(one), socket.SHUT_RDWR)


class _OfACutter:
    """Marks the classes that `_cuttable` made."""


@functools.cache  # a class is garbage that only a full collection frees: one for each kind of connection
def _cuttable(plain: Any) -> Any:
    """The same kind of connection, whose socket is known to a `Cutter`."""
    if issubclass(plain, _OfACutter):
        return plain

    class Connection(plain, _OfACutter):  # type: ignore[misc]  # the class depends on the pool
        def __init__(self, *args: Any, cutter: Cutter, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._cutter = cutter

        def connect(self) -> None:
            super().connect()
            with contextlib.suppress(OSError):
                _plain(self.sock).setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNHEARD_S * 1000)
                )
            self._cutter.connected(self.sock)

        def close(self) -> None:
            if self.sock is not None:
                self._cutter.closing(self.sock)
            super().close()

        def request(self, *args: Any, **kwargs: Any) -> None:
            self.timeout = None  # was that of connecting; a block on a slow line takes longer
            super().request(*args, **kwargs)

    return Connection


class Line(HTTPAdapter):
    """Few connections, which its `cutter` can end."""

    def __init__(self) -> None:
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)
        self.cutter = Cutter()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _cuttable(pool.ConnectionCls)
        pool.conn_kw["cutter"] = self.cutter
        return pool


_TCP_INFO_BYTES, _BYTES_SENT_AT = 232, 200
"""linux/tcp.h, struct tcp_info: tcpi_bytes_sent, since Linux 4.19."""


def _sent_bytes(sock: Any) -> int:
    """Bytes that TCP has put on the wire; 0 where the kernel does not say."""
    try:
        info = _plain(sock).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(struct.unpack_from("=Q", info, _BYTES_SENT_AT)[0])
    except (OSError, struct.error):
        return 0


def _plain(sock: Any) -> Any:
    """What is beneath TLS within TLS."""
    return getattr(sock, "socket", sock)


def request(
    method: str,
    url: str,
    body: bytes,
    token: Secret | None,
    trust: Trust,
    timeout_s: float,
    waiting: Waiting = lambda: False,
) -> Reply | Failure:
    """Send one request and return the whole reply within `timeout_s`, or why not."""
    line, found, done = Line(), list[Reply | Failure](), threading.Event()
    deadline_s = time.monotonic() + timeout_s

    def work() -> None:
        try:
            found.append(_exchange(line, method, url, body, token, trust, timeout_s, deadline_s))
        finally:
            done.set()

    threading.Thread(target=work, name="https", daemon=True).start()
    try:
        while not done.wait(min(SLICE_S, max(0.0, deadline_s - time.monotonic()))):
            if waiting():
                return Failure(Outcome.ABANDONED, "asked to stop")
            if time.monotonic() >= deadline_s:
                return Failure(Outcome.TIMED_OUT, f"no complete answer within {timeout_s:g} s")
    finally:
        line.cutter.cut()
    return found[0] if found else Failure(Outcome.CUT, "the request ended without an answer")


def _exchange(
    line: Line,
    method: str,
    url: str,
    body: bytes,
    token: Secret | None,
    trust: Trust,
    timeout_s: float,
    deadline_s: float,
) -> Reply | Failure:
    try:
        with Session() as session:
            trust.check()
            session.mount("https://", line)
            pair = (str(trust.certificate), str(trust.key)) if trust.certificate and trust.key else None
            with session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                auth=_DeviceToken(token),
                verify=trust.verify(),
                cert=pair,
                proxies={"https": trust.proxy.url()} if trust.proxy else None,
                timeout=timeout_s,
                stream=True,
                allow_redirects=False,
            ) as response:
                return _read(response, deadline_s)
    except (OSError, urllib3.exceptions.HTTPError, ValueError) as exc:
        return _failure(exc, urlsplit(url).netloc)


def _read(response: requests.Response, deadline_s: float) -> Reply | Failure:
    body = b""
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return Failure(Outcome.GARBLED, f"the answer is longer than {MAX_BODY_BYTES} bytes")
        if time.monotonic() >= deadline_s:
            return Failure(Outcome.TIMED_OUT, "the answer came too slowly")
    return Reply(response.status_code, response.headers, body)


def _failure(exc: Exception, where: str) -> Failure:
    """Name what `requests` raised, by the first cause we know."""
    causes, reason = all_causes(exc), reason_at(exc, where)
    if any(wrong_time(cause) for cause in causes):
        return Failure(Outcome.WRONG_TIME, reason)
    for kinds, outcome in _NAMES:
        if any(isinstance(cause, kinds) for cause in causes):
            return Failure(outcome, reason)
    return Failure(Outcome.UNREACHABLE, reason)


_NAMES: tuple[tuple[tuple[type[BaseException], ...], Outcome], ...] = (
    ((FileNotFoundError, PermissionError, IsADirectoryError), Outcome.NO_CERTIFICATE),
    ((urllib3.exceptions.NameResolutionError,), Outcome.NAME_UNKNOWN),
    ((requests.exceptions.ProxyError, ProxyTrouble), Outcome.PROXY),
    ((requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError), Outcome.TIMED_OUT),
    ((urllib3.exceptions.NewConnectionError,), Outcome.UNREACHABLE),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError), Outcome.CUT),
    ((requests.exceptions.SSLError, ssl.SSLError), Outcome.TLS_FAILED),
    (
        (
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.ProtocolError,
            urllib3.exceptions.IncompleteRead,
        ),
        Outcome.CUT,
    ),
    ((requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError), Outcome.GARBLED),
)
