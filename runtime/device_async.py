"""The client for asyncio: `runtime.device`, with every wait awaited.

    async with AsyncDevice() as device:
        await device.set("/press", {"speed": 3})
        async for change in device.changes("/press"):
            await device.applied(change, "/press")

        command = await device.receive("recipe", wait_s=60)
        if command:
            async with command:
                command.result = {"loaded": await load(command.json())}

A handler of `method` may be a coroutine function. Several tasks may `serve` at once, each one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import zmq.asyncio

from runtime.core.management.device_work import (
    EXTEND_FOR_S,
    EXTEND_SHARE,
    CommandInHand,
    DeviceCall,
    TwinChange,
    as_path,
    described_error,
    handler_for,
)
from runtime.core.management.exchange import POLL_S, BadValue, ChangeMoved, DeviceError, LeaseLost
from runtime.core.management.replies import (
    AnswerTaken,
    CallHandedOver,
    CommandHandedOver,
    Identified,
    Kept,
    LeafList,
    ManagementReply,
    TwinValue,
    Watched,
)
from runtime.core.management.requests import (
    AppliedRequest,
    LeavesRequest,
    ManagementRequest,
    PingRequest,
    ReceiveRequest,
    ReportRequest,
    ServeRequest,
    TwinPart,
    TwinRequest,
    WatchRequest,
    WhoAmIRequest,
)
from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_rules import same
from runtime.core.retry_plan import Ask, Pause
from runtime.device_client import DeviceClient, log_unless_delivered, log_unless_meant, named, part_s
from runtime.errors import UsageError

__all__ = ["AsyncCommand", "AsyncDevice"]


class AsyncDevice(DeviceClient):
    """The same for asyncio. Tasks may share it: each request has a socket to itself."""

    async def get(self, path: str = "/", half: str = "desired") -> TwinValue:
        """A part of the twin, as `Device.get`."""
        reply = await self.ask(TwinRequest(TwinPart(half), as_path(path)))
        assert isinstance(reply, TwinValue)
        return reply

    async def set(
        self, path: str, value: Any, *, if_change: int | None = None, confirm_s: float = 0.0
    ) -> Kept:
        """Report `value` at `path` in place of all that is there, as `Device.set`."""
        request = ReportRequest(ReportMode.SET, as_path(path), if_change, confirm_s, value)
        try:
            return await self._kept(request)
        except ChangeMoved as moved:
            if not moved.repeated:
                raise
            held = await self.get(path, "wanted")
            if not same(held.value, value):
                raise
            return Kept(held.change)

    async def patch(
        self, path: str, value: Any, *, if_change: int | None = None, confirm_s: float = 0.0
    ) -> Kept:
        """Report a merge patch at `path`."""
        return await self._kept(ReportRequest(ReportMode.PATCH, as_path(path), if_change, confirm_s, value))

    async def remove(self, path: str, *, if_change: int | None = None, confirm_s: float = 0.0) -> Kept:
        """Report nothing at `path` any more."""
        return await self._kept(ReportRequest(ReportMode.REMOVE, as_path(path), if_change, confirm_s))

    async def watch(self, path: str = "/", *, after: int = 0, wait_s: float = 0.0) -> TwinChange | None:
        """The desired properties at `path` once they changed after number `after`, or None."""
        deadline_s = time.monotonic() + wait_s
        while True:
            reply = await self.ask(WatchRequest(as_path(path), after, part_s(deadline_s)))
            assert isinstance(reply, Watched)
            if not reply.unchanged:
                return TwinChange(reply.change, reply.value)
            if time.monotonic() >= deadline_s:
                return None

    async def changes(self, path: str = "/", *, after: int = 0) -> AsyncIterator[TwinChange]:
        """Every change of the desired properties at `path`, for ever; the first is what holds now."""
        while True:
            change = await self.watch(path, after=after, wait_s=POLL_S)
            if change is not None:
                yield change
                after = change.number

    async def applied(
        self, change: TwinChange, path: str = "/", *, status: int = 200, message: str = ""
    ) -> Kept:
        """Say that a desired change was applied, or why it could not be. Raises ChangeMoved."""
        return await self._kept(AppliedRequest(change.number, as_path(path), status, message))

    async def receive(
        self, *names: str, leaf: str = "*", lease_s: float = 60.0, wait_s: float = 0.0
    ) -> AsyncCommand | None:
        """The next command with one of these names (default: any), or None where none came in time."""
        reply = await self._poll(ReceiveRequest(names or ("*",), leaf, lease_s), wait_s)
        return AsyncCommand(self, reply, lease_s) if isinstance(reply, CommandHandedOver) else None

    async def commands(
        self, *names: str, leaf: str = "*", lease_s: float = 60.0
    ) -> AsyncIterator[AsyncCommand]:
        """Every command with one of these names, one after the other, for ever."""
        while True:
            command = await self.receive(*names, leaf=leaf, lease_s=lease_s, wait_s=POLL_S)
            if command is not None:
                yield command

    async def serve(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Answer calls of the methods that `method` decorates, until `until` says so: asked every 2 s."""
        while not until():
            await self.serve_once(wait_s=POLL_S)

    async def serve_once(self, *, wait_s: float = 0.0) -> bool:
        """Answer one call; False where none came in time."""
        if not self._handlers:
            raise UsageError("no method has a handler; decorate one with @device.method(NAME)")
        reply = await self._poll(ServeRequest(tuple(self._handlers)), wait_s)
        if not isinstance(reply, CallHandedOver):
            return False
        call = DeviceCall(reply)
        try:
            value = handler_for(self._handlers, call.method)(call)
            answer = call.answer(await value if inspect.isawaitable(value) else value)
        except Exception as error:
            log_unless_meant(call, error)
            answer = call.error_answer(error)
        try:
            taken = await self.ask(answer, retry_for_s=call.left_s)
        except BadValue as error:
            taken = await self.ask(call.error_answer(error), retry_for_s=call.left_s)
        except LeaseLost:
            taken = AnswerTaken(False)
        log_unless_delivered(call, taken)
        return True

    async def ping(self) -> None:
        """Return when the worker answers. Raises Unanswered."""
        await self.ask(PingRequest())

    async def whoami(self) -> Identified:
        """Who this program is to the worker, and what it may do. Raises NotGranted where it is none."""
        reply = await self.ask(WhoAmIRequest())
        assert isinstance(reply, Identified)
        return reply

    async def leaves(self) -> Mapping[str, float | None]:
        """The known devices behind this one, and the seconds since each was last active."""
        reply = await self.ask(LeavesRequest())
        assert isinstance(reply, LeafList)
        return reply.leaves

    async def ask(self, request: ManagementRequest, *, retry_for_s: float | None = None) -> ManagementReply:
        """Send one request of the protocol; for what has no method here."""
        exchange = self._exchange(request, retry_for_s)
        step: Ask | Pause | ManagementReply = exchange.begin(time.monotonic())
        while True:
            if isinstance(step, Ask):
                frames = await self._round_trip(exchange.frames, step.timeout_s)
                now_s = time.monotonic()
                step = exchange.silence(now_s) if frames is None else exchange.answered(frames, now_s)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = exchange.paused(time.monotonic())
            else:
                return step

    async def close(self) -> None:
        """Close the sockets that wait for the next request. The device may be used again."""
        self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _kept(self, request: ManagementRequest) -> Kept:
        reply = await self.ask(request)
        assert isinstance(reply, Kept)
        return reply

    async def _poll(self, request: ReceiveRequest | ServeRequest, wait_s: float) -> ManagementReply:
        """Wait for work, in parts, as `Device` does; a task that is cancelled loses none."""
        deadline_s = time.monotonic() + wait_s
        while True:
            poll = self._poll_name(request)
            try:
                reply = await self.ask(named(request, part_s(deadline_s), poll))
            except BaseException:
                self._unanswered[request] = poll
                raise
            if isinstance(reply, CommandHandedOver | CallHandedOver) or time.monotonic() >= deadline_s:
                return reply

    async def _round_trip(self, frames: Sequence[bytes], timeout_s: float) -> Sequence[bytes] | None:
        socket = self._socket(zmq.asyncio.Context.instance())
        try:
            await socket.send_multipart(frames)
            reply: Sequence[bytes] | None = None
            if await socket.poll(int(timeout_s * 1000)):
                reply = await socket.recv_multipart()
        except BaseException:  # cancelled between question and answer: the socket is of no use any more
            socket.close(linger=0)
            raise
        if reply is None:
            socket.close(linger=0)
        else:
            self._give_back(socket)
        return reply


class AsyncCommand(CommandInHand):
    """A command in hand, as `DeviceCommand`, for `async with`."""

    def __init__(self, device: AsyncDevice, handed: CommandHandedOver, lease_s: float) -> None:
        super().__init__(handed, lease_s)
        self._device = device
        self._pid = os.getpid()
        self._word_s = time.monotonic()
        self._extending: asyncio.Task[None] | None = None

    async def progress(self, percent: float | None = None, message: str = "") -> None:
        """Extend the lease and say how far it is; the cloud sees it. Raises LeaseLost."""
        self._word_s = time.monotonic()
        await self._device.ask(self.extension(percent, message))

    async def complete(self, result: Any = None, *, status: int = 200) -> None:
        """It is carried out. When this returns that is on disk. Raises LeaseLost where it took too long."""
        await self._end(self.completion(result, status))

    async def fail(
        self, reason: str, *, status: int = 500, retry_after_s: float | None = None, result: Any = None
    ) -> None:
        """It could not be carried out. With `retry_after_s` nothing was done, and it is to be tried again."""
        await self._end(self.failure(reason, status, retry_after_s, result))

    async def _end(self, request: ManagementRequest) -> None:
        await self._stop_extending()
        await self._device.ask(request)
        self.ended = True

    async def __aenter__(self) -> Self:
        self._extending = asyncio.create_task(self._extend())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_extending()
        if self.ended or os.getpid() != self._pid:
            return
        if error is None:
            await self.complete(self.result)
        elif isinstance(error, Exception):
            try:
                await self.fail(described_error(error))
            except DeviceError as unsaid:
                error.add_note(f"that command {self.number} failed could not be said: {unsaid}")

    async def _stop_extending(self) -> None:
        task, self._extending = self._extending, None
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _extend(self) -> None:
        pause_s = self.lease_s * EXTEND_SHARE
        while time.monotonic() - self._word_s < EXTEND_FOR_S:
            await asyncio.sleep(pause_s)
            try:
                await self._device.ask(self.extension(), retry_for_s=pause_s)
            except LeaseLost:
                self.lost = True
                return
            except DeviceError:
                continue  # the worker restarts; the lease has two thirds of its time left
