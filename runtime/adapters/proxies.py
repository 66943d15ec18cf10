"""Connections by way of a proxy, and what fails on the way: the only importer of PySocks."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import socks

from runtime.core.proxy import Proxy

KINDS = {"HTTP": socks.HTTP, "SOCKS4": socks.SOCKS4, "SOCKS5": socks.SOCKS5}
ProxyTrouble: type[Exception] = socks.ProxyError
"""The proxy refused, could not be reached, or could not reach the other side; its text says which."""


def dial(host: str, port: int, proxy: Proxy | None, timeout_s: float) -> socket.socket:
    """A TCP connection, by way of the proxy where there is one. Raises OSError; ProxyTrouble is one."""
    if proxy is None:
        return socket.create_connection((host, port), timeout_s)
    kind, address, at, user, password = as_azure_wants_it(proxy)
    made: Any = socks.create_connection(
        (host, port), timeout_s, None, KINDS[kind], address, at, True, user, password
    )
    assert isinstance(made, socket.socket)
    return made


def trouble_beneath(exc: BaseException) -> BaseException | None:
    """The proxy's refusal or the certificate that nobody trusts beneath an exception of azure-iot-device.

    It tells neither from credentials that the hub refused, for which the device would register anew.
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
    """In one line, for a person."""
    if isinstance(trouble, ssl.SSLCertVerificationError):
        return trouble.verify_message
    return " ".join(str(trouble).split())


def as_azure_wants_it(proxy: Proxy) -> tuple[str, str, int, str | None, str | None]:
    """The arguments of azure-iot-device's ProxyOptions: type, address, port, user name, password."""
    password = proxy.password.reveal() if proxy.password is not None else None
    return proxy.kind.upper(), proxy.host, proxy.port, proxy.user, password
