"""HTTPS connections that another thread can end, made by way of `dial`, and whose bytes are counted."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import weakref
from typing import Any, cast

import urllib3
from urllib3.connection import HTTPConnection

from runtime.adapters.net.dial import demote, dial

UNHEARD_S = 60.0
"""A connection on which TCP acknowledges nothing sent for so long is ended: the path is dead."""


class Cutter:
    """Ends the open connections of one caller from another thread.

    Its connections refer to it, and it refers only to their sockets: a reference to the pool, too, would keep
    all of it for ever, because urllib3's finalizer of a pool holds the pool's connections.
    """

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._left: weakref.WeakSet[Any] = weakref.WeakSet()
        """Sockets whose connection is closed, and whose response may still be read: HTTP/1.0 ends with it."""
        self.overdue = False
        """True: connections opened from now on are cut at once."""
        self._closed_bytes = 0

    def connected(self, sock: Any) -> None:
        self._sockets.add(sock)
        if self.overdue:
            self.cut()

    def closing(self, sock: Any) -> None:
        if sock in self._sockets:
            self._sockets.discard(sock)
            self._left.add(sock)
            self._closed_bytes += _sent_bytes(sock)

    def sent_bytes(self) -> int:
        """Bytes that went out over all of its connections, below TLS, repeated segments too."""
        return self._closed_bytes + sum(_sent_bytes(sock) for sock in list(self._sockets))

    def cut(self) -> None:
        self.overdue = True
        for one in (*self._sockets, *self._left):
            with contextlib.suppress(OSError):
                # the base class's method: SSLSocket's own takes the TLS state away while the reader uses it
                socket.socket.shutdown(_plain(one), socket.SHUT_RDWR)


_Connection: Any = object


class _Cuttable(_Connection):  # type: ignore[misc]  # stands before a kind of connection of urllib3's
    """A connection whose socket a `Cutter` holds."""

    reaches_directly = False
    """True without a SOCKS proxy, which connects in a way of its own."""

    def __init__(self, *args: Any, cutter: Cutter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cutter = cutter
        self._peer: Any = None

    def _new_conn(self) -> socket.socket:
        if not self.reaches_directly:
            return cast(socket.socket, super()._new_conn())
        sock = _dialled(self, self._cutter)
        self._peer = sock.getpeername()
        self._cutter.connected(sock)  # before the tunnel: a proxy may drip its answer for ever, too
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        except BaseException:
            if self._peer is not None:
                demote(self._peer)  # TCP connected, TLS did not: the next attempt takes another address
            raise
        with contextlib.suppress(OSError):
            _plain(self.sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNHEARD_S * 1000))
        self._cutter.connected(self.sock)

    def close(self) -> None:
        if self.sock is not None:
            self._cutter.closing(self.sock)
        super().close()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:  # plain HTTP, which urllib3 connects no sooner
            self.connect()
        self.timeout = None  # that was the time-out for connecting; a block on a slow link takes longer
        super().request(*args, **kwargs)


@functools.cache  # only a full collection frees a class: one is made for each kind of connection
def cuttable(plain: Any) -> Any:
    """The same kind of connection, which takes a `cutter` besides."""
    if issubclass(plain, _Cuttable):
        return plain
    directly = plain._new_conn is HTTPConnection._new_conn
    return type("Connection", (_Cuttable, plain), {"reaches_directly": directly})


def _dialled(connection: Any, cutter: Cutter) -> socket.socket:
    """TCP to the host of a connection; all of its addresses are tried in turn, which
    urllib3 alone does not do.
    """
    host, port, timeout_s = connection._dns_host, connection.port, connection.timeout
    try:
        sock = dial(host, port, timeout_s, lambda: cutter.overdue)
    except socket.gaierror as exc:
        raise urllib3.exceptions.NameResolutionError(host, connection, exc) from exc
    except TimeoutError as exc:
        raise urllib3.exceptions.ConnectTimeoutError(connection, str(exc)) from exc
    except OSError as exc:
        raise urllib3.exceptions.NewConnectionError(connection, str(exc)) from exc
    for option in connection.socket_options or ():
        sock.setsockopt(*option)
    return sock


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
    """The socket beneath TLS within TLS."""
    return getattr(sock, "socket", sock)
