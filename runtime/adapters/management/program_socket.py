"""The programs' socket: a ROUTER on a unix socket, where the kernel says who each peer is.

libzmq reads SO_PEERCRED when a peer connects, and every frame carries it: no key and no password is needed.
Bounds: MAXMSGSIZE (a frame), RCVHWM (requests waiting per peer), SNDHWM (replies that a peer does not fetch).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq
from loguru import logger

from runtime.adapters.bus.sockets import Bound, context
from runtime.adapters.process.home_mount import in_changed_home
from runtime.core.ingest.reply_route import split_envelope
from runtime.core.log_events import LogEvent
from runtime.core.management.protocol import MAX_PAYLOAD_BYTES
from runtime.errors import UsageError

REQUESTS_PER_PEER = 8
REPLIES_PER_PEER = 64
MAX_FRAME_BYTES = 2 * MAX_PAYLOAD_BYTES
"""A larger frame ends the connection; up to here a too large payload is answered."""
PROBES_AT_ONCE = 64
"""Messages that are no request, which need no answer, read in one turn."""


class PeerProcess(NamedTuple):
    """The process at the other end, as the kernel vouches for it. All None: it is not told."""

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


class ProgramRequest(NamedTuple):
    """A request, and the way back to who sent it."""

    peer: PeerProcess
    route: Sequence[bytes]
    frames: Sequence[bytes] | None
    """Header and payload; None where no empty frame stands in front of them."""


class ProgramSocket:
    """The bound socket. Raises UsageError where it cannot be opened."""

    def __init__(self, path: Path, group: str | None) -> None:
        self._path, self._group = path, group
        self.socket = context().socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self.socket.setsockopt(zmq.RCVHWM, REQUESTS_PER_PEER)
        self.socket.setsockopt(zmq.SNDHWM, REPLIES_PER_PEER)
        try:
            self._bound = Bound(self.socket, path, 0o660)
            self._give_to_group()
        except (OSError, zmq.ZMQError, UsageError) as exc:
            self.socket.close(0)
            raise UsageError(f"cannot listen on {path}: {exc}") from exc

    def ensure_bound(self) -> None:
        """Bind again where the path was removed."""
        if self._bound.lost() and not in_changed_home(self._path) and self._bound.rebind():
            with contextlib.suppress(UsageError):
                self._give_to_group()

    def _give_to_group(self) -> None:
        if self._group is None:
            return
        try:
            shutil.chown(self._path, group=self._group)
            self._path.chmod(0o660)
        except (LookupError, OSError) as exc:
            text = f"management.group = {self._group!r}: cannot give {self._path} to that group: {exc}"
            logger.bind(event=LogEvent.MANAGEMENT_SOCKET_CLOSED).error("{}", text)
            raise UsageError(text) from exc

    def receive(self) -> Iterator[ProgramRequest]:
        """Requests that wait, one from each peer in turn, without waiting."""
        probes = 0
        while probes < PROBES_AT_ONCE:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            parts = split_envelope([frame.bytes for frame in frames])
            if parts.is_probe:
                probes += 1
                continue
            yield ProgramRequest(peer_of(frames[-1]), parts.route, parts.request)

    def answer(self, route: Sequence[bytes], reply: Sequence[bytes]) -> None:
        """Send a reply; where its peer is gone, or fetches none, it is dropped."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.send_multipart([*route, *reply], zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)


def peer_of(frame: zmq.Frame) -> PeerProcess:
    """libzmq says `host:UID:GID:PID` of a peer on a unix socket."""
    try:
        uid, gid, pid = (int(part) for part in str(frame.get("Peer-Address")).rsplit(":", 3)[1:])
    except (zmq.ZMQError, ValueError):
        return PeerProcess()
    return PeerProcess(uid, gid, pid or None)
