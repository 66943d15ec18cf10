"""The reply route: the frames in front of a request, by which its reply goes back.

A ROUTER puts the peer's name in front of each message, a REQ socket an empty frame in front of its request,
and with `ZMQ_REQ_CORRELATE` a number in front of that. So however many proxies there are in between, the
reply route is everything up to and including the first empty frame, and the reply follows the same frames:

    [peer, empty, header, payload...]              a REQ socket
    [peer, number, empty, header, payload...]      one with ZMQ_REQ_CORRELATE
    [proxy, peer, empty, header, payload...]       one behind a ROUTER/DEALER proxy

Where no frame follows the empty one, the message is no request: `ZMQ_PROBE_ROUTER` announces a socket with
such a message. A REQ socket that got an answer to it would take each later answer for that of its next
request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

MOST_HOPS = 16
"""Most frames of a reply route in front of the empty one. No installation has so many proxies."""
MOST_HOP_BYTES = 255
"""ZeroMQ gives no peer a longer name."""
CORRELATION_BYTES = 4
"""Length of the correlation number, which may begin with any byte."""


class Addressed(NamedTuple):
    """A message as a ROUTER receives it, taken apart."""

    route: Sequence[bytes]
    """Frames to put in front of the reply."""
    request: Sequence[bytes] | None
    """Header and payloads; empty where it is no request; None where no reply route tells them apart."""

    @property
    def is_probe(self) -> bool:
        return self.request is not None and not self.request


def split_envelope(frames: Sequence[bytes]) -> Addressed:
    """The reply route, and the request, out of any frames; the first is always the peer's name."""
    if len(frames) > 1 and not frames[1]:  # nearly all
        return Addressed(frames[:2], frames[2:])
    for at, frame in enumerate(frames[1 : MOST_HOPS + 1], start=1):
        if not frame:
            return Addressed(frames[: at + 1], frames[at + 1 :])
        if len(frame) > MOST_HOP_BYTES or _is_header(frame):
            break
    return Addressed(frames[:1], None)


def _is_header(frame: bytes) -> bool:
    """True for the header of a request without an empty frame: an empty payload must not make it a hop."""
    if frame[:1] != b"{" or len(frame) == CORRELATION_BYTES:
        return False
    try:
        return isinstance(json.loads(frame), dict)
    except (ValueError, RecursionError):
        return False  # a peer's name may look like {this}
