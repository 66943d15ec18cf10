"""Results on their way to `ingest`: as messages of a producer, under keys, each repeated until acknowledged.

One request is in flight. It is repeated, under the same keys, on a fresh socket where no answer comes, so
that a result is stored once whatever dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from runtime.adapters.bus.sockets import context
from runtime.core.ingest.protocol import BadRequest, Refusal, Reply, Stored, decode_reply, encode_request

ANSWER_S = 2.0
PAUSE_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class KeyedMessages:
    """Messages with consecutive sequences of one producer."""

    producer: str
    boot: str
    first: int
    payloads: Sequence[bytes]
    stream: str
    properties: Sequence[dict[str, str]]

    def frames(self) -> list[bytes]:
        header: dict[str, Any] = {
            "producer": self.producer,
            "boot": self.boot,
            "sequence": self.first,
            "stream": self.stream,
            "messages": [{"properties": one} if one else {} for one in self.properties],
        }
        return encode_request(header, self.payloads)


class ResultLine:
    """The socket to ingest; `outcome` gives the end of what was sent, once."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._frames: list[bytes] = []
        self._resend_s = 0.0
        self._open()

    def _open(self) -> None:
        self.socket = context().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, int("[" in self._endpoint))
        self.socket.connect(self._endpoint)

    @property
    def busy(self) -> bool:
        return bool(self._frames)

    def send(self, messages: KeyedMessages, now_s: float) -> None:
        """Send these, until they are acknowledged or refused for ever."""
        assert not self._frames, "one request is in flight"
        self._frames = messages.frames()
        self._say(now_s)

    def outcome(self, now_s: float) -> Reply | None:
        """The answer that ends it: Stored, or a refusal without a pause. None where it goes on."""
        reply = self._reply()
        if isinstance(reply, Stored) or (isinstance(reply, Refusal) and reply.retry_after_ms is None):
            self._frames = []
            return reply
        if isinstance(reply, Refusal):
            self._resend_s = now_s + min((reply.retry_after_ms or 0) / 1000, PAUSE_MAX_S)
        elif self._frames and now_s >= self._resend_s:
            self.socket.close(0)  # an answer that comes late would be taken for the next one's
            self._open()
            self._say(now_s)
        return None

    def wait_s(self, now_s: float) -> float:
        """Seconds until `outcome` has something to do, if no answer comes."""
        return max(0.0, self._resend_s - now_s) if self._frames else ANSWER_S

    def _say(self, now_s: float) -> None:
        self._resend_s = now_s + ANSWER_S
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart([b"", *self._frames], zmq.NOBLOCK)

    def _reply(self) -> Reply | None:
        reply: Reply | None = None
        while self._frames and reply is None and self.socket.poll(0):
            with contextlib.suppress(BadRequest):
                reply = decode_reply(self.socket.recv_multipart()[1:])
        return reply

    def close(self) -> None:
        self.socket.close(0)
