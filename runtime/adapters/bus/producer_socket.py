"""Producer socket: a ROUTER to which REQ sockets connect, by ipc and, where configured, by TCP.

The frames in front of a request, which are the route of its reply, are read by `core/ingest/reply_route.py`.
zmq takes turns between peers, so a flood from one adds one commit at most to another's wait: the one that its
request may fill. Bounds of memory: MAXMSGSIZE (a frame), RCVHWM (requests waiting per peer; a REQ has one),
SNDHWM (replies that a peer does not fetch; more are dropped). A request of frames without end is cut by
`connection_guard.py`, and so are connections without end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import zmq
from loguru import logger

from runtime.adapters.bus.curve import arm
from runtime.adapters.bus.sockets import Bound, context
from runtime.adapters.process.home_mount import in_changed_home
from runtime.adapters.process.process import AlreadyRuns, Lock
from runtime.core.address import Listener, TcpEndpoint
from runtime.core.ingest.reply_route import split_envelope
from runtime.core.log_events import LogEvent
from runtime.errors import ConfigError, UsageError

REQUESTS_PER_PEER = 8
"""Requests waiting, each of up to `max_request_bytes`: a peer that sends without asking waits in its own
process. Fewer cost time: of every half of them libzmq reports the frames of one, each by a lock, often by
waking a thread. With 2 that was every frame."""
REPLIES_PER_PEER = 64
PROBES_AT_ONCE = 64
"""Probes, which need no answer, read in one turn: a flood of them must not hold up the loop."""
KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
}
"""A machine that lost its power closes no connection: its connection stayed for ever, and so did its routing
id, under which no other peer is served."""
_LAST = int(zmq.NOBLOCK)  # plain numbers: pyzmq's flags cost more than the sending
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

ANYONE = "anyone"
"""Owner of requests that come by TCP without keys."""
Frames: TypeAlias = "Sequence[bytes] | None"
"""Header and payloads; None where no empty frame stands in front of them."""


@lru_cache(maxsize=1_024)
def _user_at(address: str) -> str:
    """The user in an ipc peer's address `host:UID:GID:PID`. Raises IndexError or ValueError without one."""
    return f"user {int(address.rsplit(':', 3)[1])}"


class PendingRequest(NamedTuple):
    """The reply route of a request. The request itself is not kept here: it may be large, and refused."""

    socket: ProducerSocket
    route: Sequence[bytes]
    key: str | None = None
    """Key with which the peer connected, where a key is needed."""
    owner: str = ANYONE
    """Owner of the request: the key, or on ipc the user, as the kernel says."""

    def answer(self, reply: bytes) -> None:
        send = self.socket.socket.send
        for frame in self.route:
            send(frame, _MORE)
        send(reply, _LAST)


class CannotListen(UsageError):
    """This producer socket cannot be opened now. That may pass: DHCP brings an address, a mount a folder."""


class ProducerSocket:
    """One endpoint. Raises CannotListen, or another error for what is wrong until something is changed."""

    def __init__(self, listener: Listener) -> None:
        self.endpoint = endpoint = listener.endpoint
        try:
            self.socket = context().socket(zmq.ROUTER)
        except zmq.ZMQError as exc:  # no descriptor is left
            raise CannotListen(f"cannot listen on {endpoint}: {zmq.strerror(exc.errno or 0)}") from exc
        self.socket.setsockopt(zmq.IPV6, int(isinstance(endpoint, TcpEndpoint) and endpoint.is_ipv6))
        self.socket.setsockopt(zmq.MAXMSGSIZE, listener.max_frame_bytes)  # before bind, or it does not count
        self.socket.setsockopt(zmq.RCVHWM, REQUESTS_PER_PEER)
        self.socket.setsockopt(zmq.SNDHWM, REPLIES_PER_PEER)
        for option, value in KEEPALIVE.items():
            self.socket.setsockopt(option, value)
        self._group = listener.group
        self._guarded = listener.secret_file is not None and isinstance(endpoint, TcpEndpoint)
        self._bound: Bound | None = None
        """None for TCP, which needs no path."""
        self._lock: Lock | None = None
        try:
            if isinstance(endpoint, TcpEndpoint):
                self._protect(endpoint, listener.secret_file)
            self._bind()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        path = None if isinstance(self.endpoint, TcpEndpoint) else Path(self.endpoint.path)
        try:
            if path is None:
                self.socket.bind(str(self.endpoint))
            else:
                self._bind_path(path)
        except zmq.ZMQError as exc:
            why = zmq.strerror(exc.errno or 0)
            if path is not None and path.is_dir():  # as where a socket to mount in a container is missing
                why = "there is a folder, remove it"
            raise CannotListen(f"cannot listen on {self.endpoint}: {why}") from exc

    def _bind_path(self, path: Path) -> None:
        """Lock and bind the path: a second bind on an ipc path steals it silently; only a lock shows that."""
        try:
            self._lock = Lock(Path(f"{path}.lock"))
        except AlreadyRuns:
            raise
        except UsageError as exc:
            raise CannotListen(f"cannot listen on {self.endpoint}: {exc}") from exc
        self._bound = Bound(self.socket, path, 0o660)
        self._give_to_group(path)

    def ensure_bound(self) -> None:
        """Bind again where the path was removed. Raises UsageError where another process has taken it."""
        if self._bound is None or not self._bound.lost() or in_changed_home(self._bound.path):
            return
        if self._locks_again(self._bound.path) and self._bound.rebind():
            self._give_to_group(self._bound.path)

    def _locks_again(self, path: Path) -> bool:
        """Lock again: the lock file may be gone, too, and another's there. False where that is not clear now:

        no room, no descriptor, no folder. Connected producers are served meanwhile.
        """
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.release()
        try:
            with contextlib.suppress(OSError):
                path.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock = Lock(Path(f"{path}.lock"))
        except AlreadyRuns:
            raise
        except UsageError as exc:
            logger.bind(event=LogEvent.SOCKET_GONE).warning(
                "{} is gone, and cannot be made again: {}", path, exc
            )
            return False
        return True

    def _give_to_group(self, path: Path) -> None:
        if self._group is None:
            return
        try:
            shutil.chown(path, group=self._group)
        except (LookupError, OSError) as exc:
            raise CannotListen(
                f"ingest.group = {self._group!r}: cannot give {path} to that group: {exc}"
            ) from exc
        os.chmod(path, 0o660)  # noqa: PTH101  # beside the chown it belongs to

    def _protect(self, endpoint: TcpEndpoint, secret_file: Path | None) -> None:
        if secret_file is not None:
            try:
                arm(self.socket, secret_file)
            except ConfigError as exc:
                raise CannotListen(f"cannot listen on {self.endpoint}: {exc}") from exc
        elif not endpoint.is_loopback:
            raise ConfigError(
                f"ingest: {self.endpoint} can be reached from outside, and needs ingest.curve_secret_file "
                "(edgectl keys make ingest)"
            )

    def receive(self) -> Iterator[tuple[PendingRequest, Frames]]:
        """Requests that wait, one from each peer in turn, without waiting."""
        probes = 0
        while probes < PROBES_AT_ONCE:
            try:
                frames, key, owner = self._request()
            except zmq.Again:
                return
            parts = split_envelope(frames)
            if parts.is_probe:  # not a request: its answer would be taken for that of the next request
                probes += 1
                continue
            yield PendingRequest(self, parts.route, key, owner), parts.request

    def _request(self) -> tuple[list[bytes], str | None, str]:
        """All frames that came together, the peer's key, and their owner.

        A frame knows if more follow: asking the socket is slower.
        """
        recv = self.socket.recv
        frame = recv(_LAST, copy=False)
        frames = [frame.bytes]
        while frame.more:
            frame = recv(_LAST, copy=False)
            frames.append(frame.bytes)
        if self._guarded:
            key = str(frame.get("User-Id"))
            return frames, key, f"key {key}"
        return frames, None, self._user(frame) if self._bound else ANYONE

    @staticmethod
    def _user(frame: zmq.Frame) -> str:
        """Owner on ipc: libzmq says `host:UID:GID:PID` of a peer."""
        try:
            return _user_at(str(frame.get("Peer-Address")))
        except (zmq.ZMQError, IndexError, ValueError):  # a libzmq, or a system, that does not say it
            return ANYONE

    def close(self) -> None:
        self.socket.close(0)
        if self._lock is not None:
            self._lock.release()
