"""Dial: a TCP connection to a host by name, within one deadline for its lookup and all of its addresses.

`socket.create_connection` tries the addresses of a name one after the other, each for the whole time-out, and
the resolver knows no deadline at all. A first address that is dead (an IPv6 that is announced and does not
work) then uses up every attempt, and name servers that are dead hold the caller for a minute.

Rules, after RFC 8305 ("happy eyeballs"):

1. The families of the resolver's answer alternate. The next address is tried as soon as one fails, and at the
   latest after STAGGER_S; attempts already begun go on meanwhile. The first connection to stand is returned.
2. An address that failed, or was overtaken by a later one, goes behind the others for DEMOTED_S: the next
   attempt begins with another one.
3. A lookup runs in a thread of its own. One that outlives its caller is left alone, and the next caller for
   the same name waits for that one instead of beginning another: dead name servers hold one thread a name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from runtime.adapters.process.threads import start_thread

STAGGER_S = 0.25
"""An address that does not answer for so long is joined by an attempt at the next one."""
DEMOTED_S = 600.0
"""An address that failed stays behind the others for so long."""
FRESH_S = 60.0
"""A lookup that ended after its caller had left answers the next caller for so long."""
_SLICE_S = 0.1
_MOST_REMEMBERED = 256


class PeerAddress(NamedTuple):
    """One address of a name, in the form that `socket` takes."""

    family: int
    protocol: int
    sockaddr: tuple[Any, ...]


def dial(
    host: str,
    port: int,
    timeout_s: float,
    abandoned: Callable[[], bool] = lambda: False,
    segment_bytes: int | None = None,
) -> socket.socket:
    """A TCP connection to `host`, made within `timeout_s` seconds from now, which is also its time-out then.

    Neither side sends segments of more than `segment_bytes`.

    Raises socket.gaierror where the name has no address in time, TimeoutError where an address did not
    answer, the OSError of an address where all failed before the deadline, and ConnectionAbortedError soon
    after `abandoned()` holds.
    """
    deadline_s = time.monotonic() + timeout_s
    addresses = _ordered(_look_up(host.strip("[]"), port, deadline_s, abandoned))
    sock = _Race(addresses, deadline_s, abandoned, segment_bytes).run()
    sock.settimeout(timeout_s)
    return sock


def demote(address: tuple[Any, ...]) -> None:
    """Put a peer behind the others: TCP connected, but the connection failed, so the
    next one begins with another.
    """
    _failed_s[address[:2]] = time.monotonic()


# -- the order of addresses ------------------------------------------------------------------------------

_failed_s: dict[tuple[Any, ...], float] = {}
"""Host and port of an address -> when it failed last. Written by several threads, one key at a time."""


def _ordered(addresses: list[PeerAddress]) -> list[PeerAddress]:
    """The families in turn; behind them the addresses that failed lately, the longest ago first."""
    first = addresses[0].family
    ours = [one for one in addresses if one.family == first]
    others = [one for one in addresses if one.family != first]
    mixed = [one for one in chain.from_iterable(zip_longest(ours, others)) if one is not None]
    now = time.monotonic()
    if len(_failed_s) > _MOST_REMEMBERED:
        _failed_s.clear()

    def failed_s(address: PeerAddress) -> float:
        at_s = _failed_s.get(address.sockaddr[:2])
        return at_s if at_s is not None and now - at_s < DEMOTED_S else 0.0

    return sorted(mixed, key=failed_s)


class _Race:
    """Attempts at all addresses, each begun a little after the one before; the first
    established connection wins.
    """

    def __init__(
        self,
        addresses: list[PeerAddress],
        deadline_s: float,
        abandoned: Callable[[], bool],
        segment_bytes: int | None,
    ) -> None:
        self._waiting = addresses
        self._deadline_s = deadline_s
        self._abandoned = abandoned
        self._segment_bytes = segment_bytes
        left_s = max(0.0, deadline_s - time.monotonic())
        self._stagger_s = min(STAGGER_S, left_s / (2 * len(addresses)))  # the last one needs time, too
        self._running: dict[socket.socket, PeerAddress] = {}
        self._codes: list[int] = []
        self._names = ", ".join(str(one.sockaddr[0]) for one in addresses[:4])

    def run(self) -> socket.socket:
        """The connection, blocking. All other connections are closed, whatever the outcome."""
        began_s = time.monotonic()
        with selectors.DefaultSelector() as selector:
            try:
                next_s = began_s
                while self._waiting or self._running:
                    now = time.monotonic()
                    if self._abandoned():
                        raise ConnectionAbortedError(errno.ECONNABORTED, "the attempt was given up")
                    if now >= self._deadline_s:
                        raise TimeoutError(
                            errno.ETIMEDOUT, f"no answer from {self._names} in {now - began_s:.1f} s"
                        )
                    if self._waiting and (now >= next_s or not self._running):
                        self._begin(self._waiting.pop(0), selector)
                        next_s = now + self._stagger_s
                    until_s = min(next_s if self._waiting else self._deadline_s, self._deadline_s)
                    for key, _ in selector.select(max(0.0, min(_SLICE_S, until_s - now))):
                        if (sock := self._finished(key.fileobj, selector)) is not None:
                            return sock
                code = errno.ECONNREFUSED if errno.ECONNREFUSED in self._codes else self._codes[0]
                raise OSError(code, os.strerror(code))
            finally:
                self._close_the_rest()

    def _begin(self, address: PeerAddress, selector: selectors.BaseSelector) -> None:
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM, address.protocol)
        except OSError as exc:  # a machine without this family
            self._failed(address, exc.errno or errno.EAFNOSUPPORT)
            return
        sock.setblocking(False)
        if self._segment_bytes is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, self._segment_bytes)
        code = sock.connect_ex(address.sockaddr)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._failed(address, code)
            return
        self._running[sock] = address
        selector.register(sock, selectors.EVENT_WRITE)

    def _finished(self, sock: Any, selector: selectors.BaseSelector) -> socket.socket | None:
        address = self._running.pop(sock)
        selector.unregister(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            sock.close()
            self._failed(address, code)
            return None
        _failed_s.pop(address.sockaddr[:2], None)
        assert isinstance(sock, socket.socket)
        return sock

    def _failed(self, address: PeerAddress, code: int) -> None:
        self._codes.append(code)
        demote(address.sockaddr)

    def _close_the_rest(self) -> None:
        """Close the attempts that still run: they were slower than
        another one, or slower than the deadline.
        """
        for sock, address in self._running.items():
            sock.close()
            if not self._abandoned():
                demote(address.sockaddr)


# -- names -----------------------------------------------------------------------------------------------


class _Lookup:
    """One query to the resolver, in a thread of its own that no caller joins."""

    def __init__(self, host: str, port: int) -> None:
        self._asked = host, port
        self.done = threading.Event()
        self.ended_s = 0.0
        self._addresses: list[PeerAddress] = []
        self._error: OSError | None = None
        start_thread(self._run, "lookup")

    def _run(self) -> None:
        try:
            self._addresses = _resolve(*self._asked)
        except OSError as exc:
            self._error = exc
        except UnicodeError:
            self._error = socket.gaierror(socket.EAI_NONAME, "this is no host name")
        finally:
            self.ended_s = time.monotonic()
            self.done.set()

    def result(self) -> list[PeerAddress]:
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # an exception of its own for each caller
        if not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        return self._addresses


_lookups: dict[tuple[str, int], _Lookup] = {}
_lookups_lock = threading.Lock()


def _look_up(host: str, port: int, deadline_s: float, abandoned: Callable[[], bool]) -> list[PeerAddress]:
    with contextlib.suppress(socket.gaierror, UnicodeError):
        return _resolve(host, port, socket.AI_NUMERICHOST)  # the resolver asks no name server
    began_s = time.monotonic()
    with _lookups_lock:
        lookup = _lookups.get((host, port))
        if lookup is None or (lookup.done.is_set() and began_s - lookup.ended_s > FRESH_S):
            lookup = _lookups[host, port] = _Lookup(host, port)
    while not lookup.done.wait(max(0.0, min(_SLICE_S, deadline_s - time.monotonic()))):
        if abandoned():
            raise ConnectionAbortedError(errno.ECONNABORTED, "the attempt was given up")
        if time.monotonic() >= deadline_s:
            waited_s = time.monotonic() - began_s
            raise socket.gaierror(
                socket.EAI_AGAIN, f"the name servers did not answer for {host} in {waited_s:.1f} s"
            )
    with _lookups_lock:
        if _lookups.get((host, port)) is lookup:
            del _lookups[host, port]  # it has answered one caller: the next one queries again
    return lookup.result()


def _resolve(host: str, port: int, flags: int = 0) -> list[PeerAddress]:
    entries = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, flags)
    return [PeerAddress(family, protocol, sockaddr) for family, _, protocol, _, sockaddr in entries]
