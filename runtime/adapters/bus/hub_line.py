"""The hub line's two sockets: `upload` connects, `management` binds. Both send without waiting.

A frame that cannot be sent is dropped: the ends (`core/management/hub_line_ends.py`) repeat what matters.
"""

from __future__ import annotations

import contextlib
import os

import zmq

from runtime.adapters.bus.sockets import Bound, context
from runtime.adapters.process.clock import SystemClock
from runtime.core.management.hub_line import FromManagement, FromUpload
from runtime.core.management.hub_line_ends import Frames, ManagementEnd, UploadEnd, first_number_of
from runtime.layout import Layout

MOST_FRAME_BYTES = 1024 * 1024
"""Far more than the largest payload, 128 KiB of a method's call: the socket is private."""
MOST_QUEUED = 100
"""Frames that a socket keeps for a process that is stopped: what is beyond is dropped, and repeated."""
MOST_AT_ONCE = 200
"""Frames read in one turn: a loop has other things to do."""


class LineToManagement:
    """Upload's side."""

    def __init__(self, layout: Layout) -> None:
        self.end = UploadEnd(os.urandom(8).hex())
        self.socket = context().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued while management is away
        _limit(self.socket)
        self.socket.connect(f"ipc://{layout.hub_line_socket}")

    def receive(self, now: float) -> list[FromManagement]:
        """The new things that management says, without waiting."""
        frames = _received(self.socket)
        return [said for one in frames if (said := self.end.received(one, now)) is not None]

    def send(self, now: float) -> None:
        """Send what is due."""
        for frames in self.end.due(now):
            with contextlib.suppress(zmq.Again):
                self.socket.send_multipart(frames, zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)


class LineToUpload:
    """Management's side."""

    def __init__(self, layout: Layout) -> None:
        self.end = ManagementEnd(os.urandom(8).hex(), first_number_of(SystemClock().boot_s()))
        self.socket = context().socket(zmq.ROUTER)
        _limit(self.socket)
        self._bound = Bound(self.socket, layout.hub_line_socket)
        self._peer = b""

    def ensure_bound(self) -> None:
        """Bind again where the path was removed."""
        if self._bound.lost():
            self._bound.rebind()

    def receive(self, now: float) -> list[FromUpload]:
        """The new things that upload says, and what follows from its silence; without waiting."""
        news: list[FromUpload] = []
        for peer, *frames in _received(self.socket):
            self._peer = peer
            news += self.end.received(frames, now)
        return news + self.end.overdue(now)

    def send(self, now: float) -> None:
        """Send what is due to the upload that was received from last."""
        for frames in self.end.due(now):
            if self._peer:
                with contextlib.suppress(zmq.Again, zmq.ZMQError):  # that process is gone
                    self.socket.send_multipart([self._peer, *frames], zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)


def _limit(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, MOST_QUEUED)
    socket.setsockopt(zmq.RCVHWM, MOST_QUEUED)


def _received(socket: zmq.Socket[bytes]) -> list[Frames]:
    frames: list[Frames] = []
    while len(frames) < MOST_AT_ONCE and socket.poll(0):
        frames.append(socket.recv_multipart())
    return frames
