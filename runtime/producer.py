"""The client that applications import.

    with Producer() as producer:
        producer.put(b"21.5", stream="weather")      # returns when it is on disk

`put` returns only when the message is stored; `retry_for_s` bounds the wait. While ingest restarts, or its
reply is lost, the program notices only the delay: the socket is reopened, the same request sent again, and
its key keeps it from being stored twice. Every refusal is an error of its own type (see
`runtime.core.ingest.exchange`): Full, Unavailable and NoAnswer may go away by waiting, Invalid, TooLarge and
Forgotten will not.

Threads may share a Producer: they wait for each other. One for each thread is faster. A signal handler needs
one of its own. After a fork the child goes on as a new boot of the same producer: a hook of
`os.register_at_fork` restarts the numbering while the child still has a single thread.
`runtime.producer_async` has the same for asyncio.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypedDict, Unpack

import zmq

from runtime.core.ingest.exchange import (  # the errors are handed on
    Exchange,
    Forgotten,
    Full,
    Invalid,
    KeyedRequest,
    NoAnswer,
    NotStored,
    TooLarge,
    Unavailable,
)
from runtime.core.ingest.protocol import WARNING_REUSED, BadRequest, Operation, Reply, Stored, decode_reply
from runtime.core.ingest.request_packs import (
    Described,
    Fields,
    Payload,
    Progress,
    RequestPack,
    encoded,
    halves,
    packs,
)
from runtime.core.retry_plan import Ask, Pause
from runtime.errors import UsageError

__all__ = [
    "Curve",
    "Fields",
    "Forgotten",
    "Full",
    "Invalid",
    "NoAnswer",
    "NotStored",
    "Producer",
    "TooLarge",
    "Unavailable",
]


class ProducerOptions(TypedDict, total=False):
    """How a producer behaves; see `Client`."""

    name: str | None
    retry_for_s: float | None
    answer_timeout_s: float
    curve: Curve | None


class Curve(NamedTuple):
    """Keys for an endpoint on TCP (`edgectl keys`), each 40 characters in Z85."""

    server_public: bytes
    own_public: bytes
    own_secret: bytes


_KEY = ("producer", "boot", "sequence")


class Numbering:
    """Turns calls into requests, each under the next free key."""

    def __init__(self, name: str | None) -> None:
        self._name = name or _default_name()
        self.restart()

    def restart(self) -> None:
        """Restart the numbering, as another boot."""
        self._boot = uuid.uuid4().hex[:16]
        self._next = 1

    def request(
        self, payloads: Sequence[bytes], operation: Operation = Operation.PUT, **said: Any
    ) -> KeyedRequest:
        key = {"producer": self._name, "boot": self._boot, "sequence": self._next}
        self._next += max(1, len(payloads))
        verb = None if operation is Operation.PUT else operation
        return KeyedRequest({"operation": verb, **key, **said}, payloads)

    def give_back(self, request: KeyedRequest) -> None:
        """The request certainly left no trace: its key is free again, if no other came after it."""
        sequence = request.header["sequence"]
        if request.header["boot"] == self._boot and self._next == sequence + max(1, len(request.payloads)):
            self._next = sequence

    def under_another(self, request: KeyedRequest) -> KeyedRequest:
        """The same request under the next key."""
        fresh = self.request(request.payloads)
        return KeyedRequest(
            {**request.header, **{part: fresh.header[part] for part in _KEY}}, request.payloads
        )

    def pack(self, pack: RequestPack, fields: Fields) -> KeyedRequest:
        return self.request(pack.payloads, messages=pack.each if any(pack.each) else None, **fields)


class Client:
    """The common part of `Producer` and `AsyncProducer`: everything but the waiting."""

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        name: str | None = None,
        retry_for_s: float | None = 60.0,
        answer_timeout_s: float = 1.0,
        curve: Curve | None = None,
    ) -> None:
        """Connect to `endpoint` (default: what the runtime's configuration says); ingest need not run yet.

        `name` names this program in keys and logs. `retry_for_s` bounds each wait; None waits for ever.
        """
        self._endpoint = endpoint or default_endpoint()
        self._retry_for_s = retry_for_s
        self._answer_timeout_s = answer_timeout_s
        self._curve = curve
        self._numbering = Numbering(name)
        self._socket: Any = None
        _clients.add(self)

    def _new_exchange(self, request: KeyedRequest, *, sent_before: bool = False) -> Exchange:
        return Exchange(
            request,
            retry_for_s=self._retry_for_s,
            timeout_s=self._answer_timeout_s,
            sent_before=sent_before,
        )

    def _failed(self, exchange: Exchange, error: BaseException) -> None:
        if isinstance(error, Forgotten):
            self._numbering.restart()  # the next ones would be refused for the same reason
        elif exchange.left_no_trace:
            self._numbering.give_back(exchange.request)

    def _to_store_again(self, exchange: Exchange, reply: Stored) -> KeyedRequest | None:
        """The request to store again, where its numbers were used before; None where it is stored."""
        used = exchange.meets_used_numbers(reply)
        if used or any(code == WARNING_REUSED for code, _ in reply.warnings):
            self._numbering.restart()
        return self._numbering.under_another(exchange.request) if used else None

    def _connect(self, context: zmq.Context[Any]) -> Any:
        """A fresh REQ socket, unless there is one."""
        if self._socket is None:
            socket = context.socket(zmq.REQ)
            try:
                self._open(socket)
            except BaseException as exc:
                socket.close(linger=0)  # one that is not connected would wait for ever with the next message
                if isinstance(exc, zmq.ZMQError):
                    raise UsageError(
                        f"cannot connect to {self._endpoint}: {zmq.strerror(exc.errno or 0)}"
                    ) from exc
                raise
            self._socket = socket
        return self._socket

    def _open(self, socket: Any) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int("[" in self._endpoint))  # off unless asked for
        if self._curve is not None:
            keys = self._curve
            socket.curve_serverkey = keys.server_public
            socket.curve_publickey, socket.curve_secretkey = keys.own_public, keys.own_secret
        socket.connect(self._endpoint)

    def _restart_in_child(self) -> None:
        """Go on as another boot, with a socket of the child's own; called in the child of a fork."""
        self._numbering.restart()
        self._socket = None  # the parent's: closing it here would write into the parent's connection

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _restart_clients_in_child() -> None:
    """The child of a fork has one thread now; later two of them could restart one numbering twice, and give
    one key to two messages."""
    for client in list(_clients):
        client._restart_in_child()


os.register_at_fork(after_in_child=_restart_clients_in_child)


class Producer(Client):
    """Sends messages to ingest and returns when they are on disk."""

    def __init__(self, endpoint: str | None = None, **options: Unpack[ProducerOptions]) -> None:
        self._lock = threading.RLock()
        super().__init__(endpoint, **options)

    def _restart_in_child(self) -> None:
        super()._restart_in_child()
        self._lock = threading.RLock()  # a thread that exists in the parent only may hold the old one

    def put(self, payload: Payload, **fields: Unpack[Fields]) -> int | None:
        """Store one message and return its id. Raises NotStored."""
        with self._turn():
            return self._store(self._numbering.request([encoded(payload)], **fields))[0]

    def put_many(self, messages: Iterable[Described], **fields: Unpack[Fields]) -> list[int | None]:
        """Store many messages in order; `fields` hold for all that say nothing else. Raises NotStored.

        They go in packs, each stored as a whole; what is too large together goes in smaller ones. Where one
        is not stored, the error says what is (`error.ids`), what may be (`error.request`) and what is left
        (`error.remaining`). Where the source of `messages` itself raises, what it gave before is stored
        first. Others may come between two packs: the source may take its time, and may `put` meanwhile.
        """
        progress = Progress()
        with progress.explained():
            for pack in packs(messages):
                progress.begin(pack)
                with self._turn():
                    self._store_pack(pack, fields, progress)
                progress.end()
        return progress.ids

    def complete_batch(self, **fields: Unpack[Fields]) -> int | None:
        """Say that the batch `batch_id` is whole. Raises NotStored."""
        return self._complete(Operation.COMPLETE_BATCH, fields)

    def complete_message(self, **fields: Unpack[Fields]) -> int | None:
        """Say that the message `message_id`, sent in chunks, is whole. Raises NotStored."""
        return self._complete(Operation.COMPLETE_MESSAGE, fields)

    def resend(self, request: KeyedRequest) -> list[int | None]:
        """Send again the `request` of an error under its own key: stored once, whatever became of it."""
        with self._turn():  # what became of it before is not known, so its key is never given to another
            return list(self._stored(self._new_exchange(request, sent_before=True)).ids)

    def ping(self) -> None:
        """Return when ingest answers. Raises NoAnswer."""
        with self._turn():
            self._exchange(self._new_exchange(KeyedRequest({"operation": Operation.PING}, [])))

    def close(self) -> None:
        """Close the socket. The producer may be used again."""
        with self._turn():
            self._hang_up()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turn(self) -> threading.RLock:
        """The lock of the socket: threads wait for each other.

        Raises UsageError where this thread has it: a signal handler that puts would wait for the put that it
        interrupted. The lock itself says so, for a Ctrl-C may fall between any two lines of ours.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition asks it
            raise UsageError("this Producer is talking already; a signal handler needs one of its own")
        return self._lock

    def _complete(self, operation: Operation, fields: Fields) -> int | None:
        with self._turn():
            return self._store(self._numbering.request([], operation, **fields))[0]

    def _store_pack(self, pack: RequestPack, fields: Fields, progress: Progress) -> None:
        try:
            progress.stored(self._store(self._numbering.pack(pack, fields)))
            return
        except TooLarge as error:
            smaller = halves(pack, error)
        for half in smaller:
            self._store_pack(half, fields, progress)

    def _store(self, request: KeyedRequest, *, again: bool = False) -> Sequence[int | None]:
        exchange = self._new_exchange(request)
        try:
            reply = self._stored(exchange)
        except BaseException as error:  # also what a mistake in the fields raises, before anything is sent
            self._failed(exchange, error)
            raise
        another = None if again else self._to_store_again(exchange, reply)
        return reply.ids if another is None else self._store(another, again=True)

    def _stored(self, exchange: Exchange) -> Stored:
        reply = self._exchange(exchange)
        assert isinstance(reply, Stored)
        return reply

    def _exchange(self, exchange: Exchange) -> Reply:
        frames = exchange.request.frames()
        step = exchange.begin(time.monotonic())
        while True:
            if isinstance(step, Ask):
                reply = self._ask(frames, step.timeout_s)
                now_s = time.monotonic()
                step = exchange.silence(now_s) if reply is None else exchange.answered(reply, now_s)
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
                step = exchange.paused(time.monotonic())
            else:
                return step

    def _ask(self, frames: Sequence[bytes], timeout_s: float) -> Reply | None:
        socket = self._connect(zmq.Context.instance())
        try:
            socket.send_multipart(frames)
            if socket.poll(int(timeout_s * 1000)):
                return decode_reply(socket.recv_multipart())
        except BadRequest:
            pass  # not ingest's answer: as good as none
        except BaseException:
            self._hang_up()  # e.g. Ctrl-C between question and answer: the socket is of no use any more
            raise
        self._hang_up()
        return None


def default_endpoint() -> str:
    """The endpoint on which this machine's runtime listens, from its configuration. Raises ConfigError."""
    from runtime.producer_config import load_as_producer  # late: a named endpoint needs no configuration

    return str(load_as_producer(os.environ).endpoint)


def _default_name() -> str:
    """The program's own name, as far as a key may hold it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(sys.argv[0] or "python").stem).strip("-")[:40] or "python"
