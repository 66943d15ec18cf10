"""One sentence for a person about a failed connection: what happened, and where.

A library wraps an error in several of its own, each with the text of the one below and the name of its class.
The sentences here are ours, chosen by the kind of the innermost error that is known.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from typing import Any

from runtime.adapters.net.proxies import ProxyTrouble, in_words
from runtime.adapters.net.tls_options import UnusableFile

LONGEST_CHARACTERS = 300
OUT_OF_DESCRIPTORS = "this process has no file descriptor left"
_CUT = (
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


def all_causes(exc: BaseException) -> list[BaseException]:
    """`exc` and every exception wrapped in it, outermost first."""
    causes: list[BaseException] = []
    waiting: list[Any] = [exc]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in causes:
            causes.append(one)
            waiting += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]
    return causes


def reason_at(exc: BaseException, where: str) -> str:
    """The reason why a connection to `where` (HOST:PORT) failed, without class names of libraries."""
    causes = all_causes(exc)
    for one in causes:
        if isinstance(one, UnusableFile):
            return bounded(str(one))
        if isinstance(one, ProxyTrouble):
            return bounded(in_words(one))
        if type(one).__name__ == "ProxyError":  # urllib3's error, for failures before the tunnel
            where = "the proxy"
    for sentence in (_known(one, where) for one in reversed(causes)):
        if sentence:
            return bounded(sentence)
    if any(type(one).__name__.endswith(("TimeoutError", "Timeout")) for one in causes):
        return bounded(f"no answer from {where} in time")
    text = next((str(one) for one in reversed(causes) if str(one)), "no reason given")
    return bounded(f"{where}: {text}")


def bounded(text: str) -> str:
    """Printable, on one line, and cut to a limit."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:LONGEST_CHARACTERS]


_SIMPLE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (TimeoutError, "no answer from {} in time"),
    (ConnectionRefusedError, "refused at {}"),
    (http.client.RemoteDisconnected, "{} ended the connection without an answer"),
    (http.client.IncompleteRead, "{} ended the connection within its answer"),
    (_CUT, "{} ended the connection"),
)


def _known(exc: BaseException, where: str) -> str | None:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate of {where} is not trusted: {exc.verify_message or exc.reason}"
    if isinstance(exc, socket.gaierror):
        return f"the name in {where} is not found: {exc.strerror}"
    for kinds, template in _SIMPLE:
        if isinstance(exc, kinds):
            return template.format(where)
    if isinstance(exc, ssl.SSLError):
        return f"TLS with {where} failed: {(exc.reason or str(exc)).lower().replace('_', ' ')}"
    return _of_the_system(exc, where) if isinstance(exc, OSError) else None


def _of_the_system(exc: OSError, where: str) -> str | None:
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return OUT_OF_DESCRIPTORS
    if not exc.errno or exc.errno < 0:
        return None
    if exc.filename:
        return f"{exc.filename}: {os.strerror(exc.errno)}"
    if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no route to {where}"
    return f"{where}: {os.strerror(exc.errno)}"
