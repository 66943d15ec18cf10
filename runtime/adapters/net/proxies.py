"""Connections through a proxy, and their failures on the way: the only importer of PySocks."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import socks

from runtime.adapters.net.dial import dial as by_addresses
from runtime.core.proxy_url import Proxy

KINDS = {"HTTP": socks.HTTP, "SOCKS4": socks.SOCKS4, "SOCKS5": socks.SOCKS5}
ProxyTrouble: type[Exception] = socks.ProxyError
"""The proxy refused, could not be reached, or could not reach the target; its text says which."""

MOST_ANSWER_BYTES = 65_536
"""Limit of a proxy's answer to CONNECT."""


def _whole_answer(negotiate: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """PySocks' negotiation with an HTTP proxy, which reads all of the answer and nothing beyond it.

    By itself PySocks reads the first line and the rest of that segment. Headers that came in a later segment
    were then taken for the target's first bytes, and TLS failed at every attempt.
    """

    def negotiated(sock: Any, host: Any, port: Any) -> None:
        sock.makefile = lambda: io.StringIO(_head(sock), newline="")
        try:
            negotiate(sock, host, port)
        finally:
            del sock.makefile

    return negotiated


def _head(sock: socket.socket) -> str:
    """The answer's head, read byte by byte: what follows the empty line belongs to the tunnel. All of it
    comes within one time-out.
    """
    head, wait_s = b"", sock.gettimeout()
    end_s = math.inf if wait_s is None else time.monotonic() + wait_s
    while not head.endswith((b"\r\n\r\n", b"\n\n")) and len(head) < MOST_ANSWER_BYTES:
        if time.monotonic() >= end_s:
            raise TimeoutError("the proxy's answer comes too slowly")
        more = sock.recv(1)
        if not more:
            break
        head += more
    return head.decode("latin-1")


with contextlib.suppress(AttributeError, KeyError):  # where PySocks has changed inside it stays unpatched
    _negotiators: Any = socks.socksocket._proxy_negotiators
    _negotiators[socks.HTTP] = _whole_answer(_negotiators[socks.HTTP])


class _Made(socket.socket):
    """A socket that is already connected to the proxy."""

    def connect(self, _address: Any) -> None:
        """Do nothing: the socket is connected."""


class _Tunnel(socks.socksocket, _Made):  # type: ignore[misc]  # PySocks has no types
    """PySocks' negotiation over a connection that `dial` made: its own knows one address and no deadline."""


def dial(
    host: str,
    port: int,
    proxy: Proxy | None,
    timeout_s: float,
    abandoned: Callable[[], bool] = lambda: False,
    segment_bytes: int | None = None,
) -> socket.socket:
    """A TCP connection, through the proxy where there is one. Raises OSError; ProxyTrouble is one."""
    if proxy is None:
        return by_addresses(host, port, timeout_s, abandoned, segment_bytes)
    kind, address, at, user, password = as_azure_wants_it(proxy)
    try:
        plain = by_addresses(address, at, timeout_s, abandoned, segment_bytes)
    except OSError as exc:
        raise socks.ProxyConnectionError(f"Error connecting to {kind} proxy {address}:{at}", exc) from exc
    made: Any = _Tunnel(plain.family, plain.type, plain.proto, fileno=plain.detach())
    try:
        made.settimeout(timeout_s)
        made.set_proxy(KINDS[kind], address, at, True, user, password)
        made.connect((host, port))
    except BaseException:
        made.close()
        raise
    assert isinstance(made, socket.socket)
    return made


def trouble_beneath(exc: BaseException) -> BaseException | None:
    """The proxy's refusal, or the untrusted certificate, beneath an exception of azure-iot-device.

    The library tells neither from credentials that the hub refused, for which the device would register
    again.
    """
    kinds = (ProxyTrouble, ssl.SSLCertVerificationError)
    return next((cause for cause in causes(exc) if isinstance(cause, kinds)), None)


def causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it, outermost first."""
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__


def in_words(trouble: BaseException) -> str:
    """The proxy and its refusal in one line, for a person."""
    if isinstance(trouble, ssl.SSLCertVerificationError):
        return trouble.verify_message
    return " ".join(str(trouble).split())


def as_azure_wants_it(proxy: Proxy) -> tuple[str, str, int, str | None, str | None]:
    """The arguments of azure-iot-device's ProxyOptions: type, address, port, user name, password."""
    password = proxy.password.reveal() if proxy.password is not None else None
    return proxy.kind.upper(), proxy.host, proxy.port, proxy.user, password
