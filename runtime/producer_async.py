"""The client for asyncio: `runtime.producer`, with every wait awaited.

async with AsyncProducer() as producer:
    await producer.put(b"21.5", stream="weather")      # returns when it is on disk
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Unpack

import zmq.asyncio

from runtime.core.ingest.exchange import Exchange, KeyedRequest, TooLarge
from runtime.core.ingest.protocol import BadRequest, Operation, Reply, Stored, decode_reply
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
from runtime.producer import Client, ProducerOptions

__all__ = ["AsyncProducer"]


class AsyncProducer(Client):
    """The same for asyncio: calls are answered one after the other, in the order they were made."""

    def __init__(self, endpoint: str | None = None, **options: Unpack[ProducerOptions]) -> None:
        self._lock = asyncio.Lock()
        super().__init__(endpoint, **options)

    def _restart_in_child(self) -> None:
        super()._restart_in_child()
        self._lock = asyncio.Lock()

    async def put(self, payload: Payload, **fields: Unpack[Fields]) -> int | None:
        """Store one message and return its id. Raises NotStored."""
        async with self._turn():
            return (await self._store(self._numbering.request([encoded(payload)], **fields)))[0]

    async def put_many(self, messages: Iterable[Described], **fields: Unpack[Fields]) -> list[int | None]:
        """Store many messages in order, in packs. Raises NotStored, with what is stored and what is left."""
        progress = Progress()
        with progress.explained():
            for pack in packs(messages):
                progress.begin(pack)
                async with self._turn():
                    await self._store_pack(pack, fields, progress)
                progress.end()
        return progress.ids

    async def complete_batch(self, **fields: Unpack[Fields]) -> int | None:
        """Say that the batch `batch_id` is whole. Raises NotStored."""
        return await self._complete(Operation.COMPLETE_BATCH, fields)

    async def complete_message(self, **fields: Unpack[Fields]) -> int | None:
        """Say that the message `message_id`, sent in chunks, is whole. Raises NotStored."""
        return await self._complete(Operation.COMPLETE_MESSAGE, fields)

    async def resend(self, request: KeyedRequest) -> Sequence[int | None]:
        """Send again the `request` of an error, under its own key."""
        async with self._turn():
            return (await self._stored(self._new_exchange(request, sent_before=True))).ids

    async def ping(self) -> None:
        """Return when ingest answers. Raises NoAnswer."""
        async with self._turn():
            await self._exchange(self._new_exchange(KeyedRequest({"operation": Operation.PING}, [])))

    async def close(self) -> None:
        """Close the socket. The producer may be used again."""
        async with self._turn():
            self._hang_up()

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _turn(self) -> asyncio.Lock:
        """The lock of the socket, as in `Producer`."""
        return self._lock

    async def _complete(self, operation: Operation, fields: Fields) -> int | None:
        async with self._turn():
            return (await self._store(self._numbering.request([], operation, **fields)))[0]

    async def _store_pack(self, pack: RequestPack, fields: Fields, progress: Progress) -> None:
        try:
            progress.stored(await self._store(self._numbering.pack(pack, fields)))
            return
        except TooLarge as error:
            smaller = halves(pack, error)
        for half in smaller:
            await self._store_pack(half, fields, progress)

    async def _store(self, request: KeyedRequest, *, again: bool = False) -> Sequence[int | None]:
        exchange = self._new_exchange(request)
        try:
            reply = await self._stored(exchange)
        except BaseException as error:  # also what a mistake in the fields raises, before anything is sent
            self._failed(exchange, error)
            raise
        another = None if again else self._to_store_again(exchange, reply)
        return reply.ids if another is None else await self._store(another, again=True)

    async def _stored(self, exchange: Exchange) -> Stored:
        reply = await self._exchange(exchange)
        assert isinstance(reply, Stored)
        return reply

    async def _exchange(self, exchange: Exchange) -> Reply:
        frames = exchange.request.frames()
        step = exchange.begin(time.monotonic())
        while True:
            if isinstance(step, Ask):
                reply = await self._ask(frames, step.timeout_s)
                now_s = time.monotonic()
                step = exchange.silence(now_s) if reply is None else exchange.answered(reply, now_s)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = exchange.paused(time.monotonic())
            else:
                return step

    async def _ask(self, frames: Sequence[bytes], timeout_s: float) -> Reply | None:
        socket = self._connect(zmq.asyncio.Context.instance())
        try:
            await socket.send_multipart(frames)
            if await socket.poll(int(timeout_s * 1000)):
                return decode_reply(await socket.recv_multipart())
        except BadRequest:
            pass  # not ingest's answer: as good as none
        except BaseException:
            self._hang_up()  # cancelled between question and answer: the socket is of no use any more
            raise
        self._hang_up()
        return None
