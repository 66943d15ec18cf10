"""Connection guard: cuts producers' connections that send a request without end, or are too many.

libzmq bounds a frame and the requests that wait, not the frames of one request: it takes them in, before we
see any, until memory is gone (1 GB in 2 s when we measured). So a thread of its own, since the loop may be
waiting for the disk, looks at the memory of this process. Above the bound it cuts connections, those with the
most bytes waiting to be read first, an eighth of all at every look, until memory has come back. libzmq then
frees what it held for them.

It looks when there is something to look at: memory and connections grow only where libzmq's threads have
something to do, and those wait at an epoll descriptor, which can be polled like any other. So the guard waits
there, too, for as long as all is calm. What wakes it is looked at 50 ms later (5 ms where half of a bound is
in use): however many requests come there are 20 looks a second, and a flood is found as soon as by looking
all the time.

A flooding peer always has bytes waiting, so it is found at the first look or soon after. A wrong guess costs
an honest producer little: its socket connects again, and it sends its request again under the same key.

Connections without end are the other way to bring the process down: where no file can be opened any more,
libzmq aborts it. So above a third of what the limit of files allows connections are cut, too, down to that
bound: first of the process (or address) that has the most. A producer needs one. A peer that opens thousands
between two looks still brings the process down, for a restart.

Left: RLIMIT_DATA (libzmq aborts where it gets no memory, and every producer waits for the restart), a monitor
socket (tells who connects, not who sends), reading the wire ourselves (twice the work for every message).
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from typing import NamedTuple, TypeAlias

from loguru import logger

from runtime.adapters.process.process import MOST_FILES, allow_files
from runtime.core.address import Endpoint, TcpEndpoint
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle

LOOK_EVERY_S = 0.05
"""Bytes that arrive between two looks come on top of the bound: 2 GB/s on a fast machine."""
CALM_LOOK_S = 5.0
"""Longest time between two looks: for what came between a look and the wait after it."""
CLOSE_LOOK_S = 0.005
"""Interval once half of what is allowed, of memory or of connections, is in use."""
SHARE = 8
FILES_SHARE = 3
"""Share of files for connections: the rest is for peers that connect between two looks."""
LOG_EVERY_S = 60.0
_Order: TypeAlias = "Callable[[Sequence[PeerConnection]], list[PeerConnection]]"
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class PeerConnection(NamedTuple):
    """A connection. Its number may be another's when it is cut, which costs that peer little."""

    number: int
    who: str
    waiting_bytes: int

    @property
    def owner(self) -> str:
        """The peer without its port."""
        return self.who.rpartition(":")[0] or self.who


class ConnectionGuard:
    """One guard for all producer sockets of this process, until it is closed."""

    def __init__(self, endpoints: Iterable[Endpoint], most_bytes: int) -> None:
        self.cut = 0
        """Connections cut so far."""
        self._addresses = {_address(endpoint) for endpoint in endpoints}
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._half_bytes = self._resident_bytes() + most_bytes // 2
        self._bound_bytes = self._half_bytes + most_bytes // 2
        self._most_files = allow_files() // FILES_SHARE
        self._throttle = LogThrottle(LOG_EVERY_S)
        self._stopping = threading.Event()
        self._traffic = _Traffic()
        self._thread = threading.Thread(target=self._watch, name="connection guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._traffic.wake()
        self._thread.join()
        self._traffic.close()
        os.close(self._statm)

    def _watch(self) -> None:
        look_after_s, calm_s = LOOK_EVERY_S, CALM_LOOK_S
        while not self._stopping.is_set():
            self._traffic.wait(calm_s)
            self._stopping.wait(look_after_s)
            cut = self.cut
            try:
                look_after_s = CLOSE_LOOK_S if self._look() else LOOK_EVERY_S
                calm_s = 0.0 if self.cut > cut else CALM_LOOK_S
            except OSError:  # no descriptor is left to look with, here or on the machine: that may pass
                look_after_s, calm_s = CLOSE_LOOK_S, 0.0

    def _look(self) -> bool:
        """Cut the connections that must be cut; True if half of a bound is reached."""
        if self._above():
            _give_back()  # memory that is free inside this process belongs to the machine
            if self._above():
                self._cut_some(_by_waiting_bytes, "requests on their way take too much memory")
        open_files = _open_files()
        too_many = open_files - self._most_files
        if too_many > 0:
            self._cut_some(_by_owner, "there are too many connections", too_many)
        return open_files > self._most_files // 2 or self._resident_bytes() > self._half_bytes

    def _above(self) -> bool:
        return self._resident_bytes() > self._bound_bytes

    def _resident_bytes(self) -> int:
        """Memory of this process that is in use (RSS)."""
        return int(os.pread(self._statm, 64, 0).split()[1]) * _PAGE_BYTES

    def _cut_some(self, order: _Order, why: str, at_least: int = 1) -> None:
        """Cut an eighth of all connections, at least `at_least`, the first in this order."""
        connections = order(list(_connections(self._addresses)))
        for connection in connections[: max(at_least, -(-len(connections) // SHARE))]:
            with suppress(OSError), _copy(connection.number) as duplicate:  # it may be gone by itself
                duplicate.shutdown(socket.SHUT_RDWR)
            self.cut += 1
            times = self._throttle.times(why, time.monotonic())
            if times:
                logger.bind(
                    event=LogEvent.CONNECTION_CUT,
                    connection=connection.who,
                    waiting_bytes=connection.waiting_bytes,
                    times=times,
                ).warning("{}: the connection of {} is cut", why, connection.who)


class _Traffic:
    """Readable while libzmq's threads have something to do. Where they cannot be found it always is."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epolls = [os.dup(number) for number in _epolls()]
        self._poll = select.poll()
        for number in (self._wake, *self._epolls):
            self._poll.register(number, select.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Wait for traffic, or until the time is over."""
        if self._epolls:
            self._poll.poll(timeout_s * 1_000)

    def wake(self) -> None:
        """End the wait, now and in future."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for number in (self._wake, *self._epolls):
            os.close(number)


def _epolls() -> list[int]:
    """The epoll descriptors of this process; libzmq has one for each of its threads."""
    numbers = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers, not paths
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":  # noqa: PTH115
                numbers.append(int(name))
    return numbers


def _give_back() -> None:
    with suppress(AttributeError):  # not with musl
        ctypes.CDLL(None).malloc_trim(0)


def _open_files() -> int:
    """Approximate number of open files: a new one gets the lowest number that is free."""
    try:
        lowest = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return MOST_FILES
    os.close(lowest)
    return lowest


def _by_waiting_bytes(connections: Sequence[PeerConnection]) -> list[PeerConnection]:
    """Order: the connections with the most bytes waiting to be read first."""
    return sorted(connections, key=lambda connection: connection.waiting_bytes, reverse=True)


def _by_owner(connections: Sequence[PeerConnection]) -> list[PeerConnection]:
    """Order: those of the owner with the most connections first, the newest before the older."""
    count = Counter(connection.owner for connection in connections)
    return sorted(
        connections, key=lambda connection: (count[connection.owner], connection.number), reverse=True
    )


def _address(endpoint: Endpoint) -> str | int:
    """Local address of a connection accepted there: a path, or a port."""
    return endpoint.port if isinstance(endpoint, TcpEndpoint) else endpoint.path


def _connections(addresses: set[str | int]) -> Iterator[PeerConnection]:
    """The sockets that libzmq accepted."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers, not paths
        with suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):  # noqa: PTH115
                continue
            with _copy(int(name)) as accepted:
                address = accepted.getsockname()
                listens = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if not listens and (address[1] if isinstance(address, tuple) else address) in addresses:
                    yield PeerConnection(int(name), _peer_name(accepted), _waiting_bytes(accepted))


def _copy(number: int) -> socket.socket:
    """Duplicate the descriptor; one at a time, for all of them at once would use up the last files."""
    return socket.socket(fileno=os.dup(number))


def _waiting_bytes(connection: socket.socket) -> int:
    answer = bytearray(4)
    with suppress(OSError):
        ioctl(connection, FIONREAD, answer)
    return int.from_bytes(answer, "little")


def _peer_name(connection: socket.socket) -> str:
    """The peer for the log: a process of this machine, or an address."""
    if connection.family != socket.AF_UNIX:
        with suppress(OSError):
            host, port, *_ = connection.getpeername()
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return "a peer that has gone"
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", peer)
    return f"process {pid} (user {uid})"
