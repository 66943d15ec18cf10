"""The client of programs that the cloud manages: twin, commands, methods.

    with Device() as device:
        device.set("/press", {"speed": 3})             # on disk when it returns; the cloud's twin follows
        for change in device.changes("/press"):        # what the cloud wants, also what it said meanwhile
            device.applied(change, "/press")

    command = device.receive("recipe", wait_s=60)
    if command:
        with command:                                  # done at its end, failed by an exception
            command.result = {"loaded": load(command.json())}

    @device.method("stop")
    def stop(call):
        return {"stopped": True}

    device.serve()

While the management worker restarts, or its reply is lost, the program notices only the delay: the same
request is sent again on a fresh socket, and each is harmless to repeat. The errors are named by what the
program does next (`runtime.core.management.exchange`).

Threads, and signal handlers, may share a Device: every request has a socket to itself while it waits. A child
of a fork goes on with sockets of its own; a command that the parent has in hand stays the parent's.
`runtime.device_async` has the same for asyncio.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import zmq

from runtime.core.management.device_work import (
    EXTEND_FOR_S,
    EXTEND_SHARE,
    CommandInHand,
    DeviceCall,
    MethodError,
    TwinChange,
    as_path,
    described_error,
    handler_for,
)
from runtime.core.management.exchange import (  # the errors are handed on
    POLL_S,
    BadValue,
    ChangeMoved,
    DeviceError,
    LeaseLost,
    NotGranted,
    NotNow,
    NotUnderstood,
    Unanswered,
    UnknownPath,
)
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
from runtime.device_client import (
    DeviceClient,
    DeviceOptions,
    log_unless_delivered,
    log_unless_meant,
    named,
    part_s,
)
from runtime.errors import UsageError

__all__ = [
    "BadValue",
    "ChangeMoved",
    "Device",
    "DeviceCall",
    "DeviceCommand",
    "DeviceError",
    "LeaseLost",
    "MethodError",
    "NotGranted",
    "NotNow",
    "NotUnderstood",
    "TwinChange",
    "Unanswered",
    "UnknownPath",
]


class Device(DeviceClient):
    """Twin, commands and methods of this device, by way of the management worker."""

    def __init__(self, endpoint: str | None = None, **options: Unpack[DeviceOptions]) -> None:
        super().__init__(endpoint, **options)

    # -- the twin --

    def get(self, path: str = "/", half: str = "desired") -> TwinValue:
        """A part of the twin: `desired`, `reported` as the hub has it, or `wanted` as programs want it.

        It is readable without a network. Raises UnknownPath.
        """
        reply = self.ask(TwinRequest(TwinPart(half), as_path(path)))
        assert isinstance(reply, TwinValue)
        return reply

    def set(self, path: str, value: Any, *, if_change: int | None = None, confirm_s: float = 0.0) -> Kept:
        """Report `value` at `path` in place of all that is there; on disk when this returns.

        With `if_change` only where that is the number of the last change there (ChangeMoved). With
        `confirm_s` it waits so long for the hub, and `confirmed` says whether the hub has it.
        """
        request = ReportRequest(ReportMode.SET, as_path(path), if_change, confirm_s, value)
        try:
            return self._kept(request)
        except ChangeMoved as moved:
            if not moved.repeated:
                raise
            held = self.get(path, "wanted")  # an earlier copy of the request may have changed it
            if not same(held.value, value):
                raise
            return Kept(held.change)

    def patch(self, path: str, value: Any, *, if_change: int | None = None, confirm_s: float = 0.0) -> Kept:
        """Report a merge patch at `path`: None in it removes, and what it does not name stays."""
        return self._kept(ReportRequest(ReportMode.PATCH, as_path(path), if_change, confirm_s, value))

    def remove(self, path: str, *, if_change: int | None = None, confirm_s: float = 0.0) -> Kept:
        """Report nothing at `path` any more."""
        return self._kept(ReportRequest(ReportMode.REMOVE, as_path(path), if_change, confirm_s))

    def watch(self, path: str = "/", *, after: int = 0, wait_s: float = 0.0) -> TwinChange | None:
        """The desired properties at `path` once they changed after number `after`, or None."""
        deadline_s = time.monotonic() + wait_s
        while True:
            reply = self.ask(WatchRequest(as_path(path), after, part_s(deadline_s)))
            assert isinstance(reply, Watched)
            if not reply.unchanged:
                return TwinChange(reply.change, reply.value)
            if time.monotonic() >= deadline_s:
                return None

    def changes(self, path: str = "/", *, after: int = 0) -> Iterator[TwinChange]:
        """Every change of the desired properties at `path`, for ever; the first is what holds now.

        Of several changes that came meanwhile only the last is seen.
        """
        while True:
            change = self.watch(path, after=after, wait_s=POLL_S)
            if change is not None:
                yield change
                after = change.number

    def applied(self, change: TwinChange, path: str = "/", *, status: int = 200, message: str = "") -> Kept:
        """Say that a desired change was applied, or why it could not be. Raises ChangeMoved."""
        return self._kept(AppliedRequest(change.number, as_path(path), status, message))

    # -- commands --

    def receive(
        self, *names: str, leaf: str = "*", lease_s: float = 60.0, wait_s: float = 0.0
    ) -> DeviceCommand | None:
        """The next command with one of these names (default: any), or None where none came in time."""
        reply = self._poll(ReceiveRequest(names or ("*",), leaf, lease_s), wait_s)
        return DeviceCommand(self, reply, lease_s) if isinstance(reply, CommandHandedOver) else None

    def commands(self, *names: str, leaf: str = "*", lease_s: float = 60.0) -> Iterator[DeviceCommand]:
        """Every command with one of these names, one after the other, for ever."""
        while True:
            command = self.receive(*names, leaf=leaf, lease_s=lease_s, wait_s=POLL_S)
            if command is not None:
                yield command

    # -- methods --

    def serve(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Answer calls of the methods that `method` decorates, until `until` says so: asked every 2 s."""
        while not until():
            self.serve_once(wait_s=POLL_S)

    def serve_once(self, *, wait_s: float = 0.0) -> bool:
        """Answer one call; False where none came in time."""
        if not self._handlers:
            raise UsageError("no method has a handler; decorate one with @device.method(NAME)")
        reply = self._poll(ServeRequest(tuple(self._handlers)), wait_s)
        if not isinstance(reply, CallHandedOver):
            return False
        call = DeviceCall(reply)
        try:
            answer = call.answer(handler_for(self._handlers, call.method)(call))
        except Exception as error:
            log_unless_meant(call, error)
            answer = call.error_answer(error)
        try:
            taken = self.ask(answer, retry_for_s=call.left_s)
        except BadValue as error:
            taken = self.ask(call.error_answer(error), retry_for_s=call.left_s)
        except LeaseLost:  # the worker has restarted since
            taken = AnswerTaken(False)
        log_unless_delivered(call, taken)
        return True

    # -- the worker itself --

    def ping(self) -> None:
        """Return when the worker answers. Raises Unanswered."""
        self.ask(PingRequest())

    def whoami(self) -> Identified:
        """Who this program is to the worker, and what it may do. Raises NotGranted where it is none."""
        reply = self.ask(WhoAmIRequest())
        assert isinstance(reply, Identified)
        return reply

    def leaves(self) -> Mapping[str, float | None]:
        """The known devices behind this one, and the seconds since each was last active."""
        reply = self.ask(LeavesRequest())
        assert isinstance(reply, LeafList)
        return reply.leaves

    def close(self) -> None:
        """Close the sockets that wait for the next request. The device may be used again."""
        self._hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kept(self, request: ManagementRequest) -> Kept:
        reply = self.ask(request)
        assert isinstance(reply, Kept)
        return reply

    def _poll(self, request: ReceiveRequest | ServeRequest, wait_s: float) -> ManagementReply:
        """Wait for work, in parts. A part whose answer was lost is repeated under its name, also by a later
        call: work that was handed over comes again."""
        deadline_s = time.monotonic() + wait_s
        while True:
            poll = self._poll_name(request)
            try:
                reply = self.ask(named(request, part_s(deadline_s), poll))
            except BaseException:
                self._unanswered[request] = poll
                raise
            if isinstance(reply, CommandHandedOver | CallHandedOver) or time.monotonic() >= deadline_s:
                return reply

    def ask(self, request: ManagementRequest, *, retry_for_s: float | None = None) -> ManagementReply:
        """Send one request of the protocol; for what has no method here."""
        exchange = self._exchange(request, retry_for_s)
        step: Ask | Pause | ManagementReply = exchange.begin(time.monotonic())
        while True:
            if isinstance(step, Ask):
                frames = self._round_trip(exchange.frames, step.timeout_s)
                now_s = time.monotonic()
                step = exchange.silence(now_s) if frames is None else exchange.answered(frames, now_s)
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
                step = exchange.paused(time.monotonic())
            else:
                return step

    def _round_trip(self, frames: Sequence[bytes], timeout_s: float) -> Sequence[bytes] | None:
        socket = self._socket(zmq.Context.instance())
        try:
            socket.send_multipart(frames)
            reply: Sequence[bytes] | None = None
            if socket.poll(int(timeout_s * 1000)):
                reply = socket.recv_multipart()
        except BaseException:  # e.g. Ctrl-C between question and answer: the socket is of no use any more
            socket.close(linger=0)
            raise
        if reply is None:
            socket.close(linger=0)
        else:
            self._give_back(socket)
        return reply


class DeviceCommand(CommandInHand):
    """A command in hand. In a `with` its lease is extended by itself; the end of the `with` completes it, an
    exception fails it.

    What ends the program (SystemExit, Ctrl-C) says nothing of the command: the worker sees the process end.
    The extending ends an hour after the last word of the program (`progress`), so that one that hangs does
    not hold a command for ever.
    """

    def __init__(self, device: Device, handed: CommandHandedOver, lease_s: float) -> None:
        super().__init__(handed, lease_s)
        self._device = device
        self._pid = os.getpid()
        self._over = threading.Event()
        self._word_s = time.monotonic()

    def progress(self, percent: float | None = None, message: str = "") -> None:
        """Extend the lease and say how far it is; the cloud sees it. Raises LeaseLost."""
        self._word_s = time.monotonic()
        self._device.ask(self.extension(percent, message))

    def complete(self, result: Any = None, *, status: int = 200) -> None:
        """It is carried out. When this returns that is on disk, and the result goes to the cloud.

        Raises LeaseLost where it took too long: another program may have it by now.
        """
        self._end(self.completion(result, status))

    def fail(
        self, reason: str, *, status: int = 500, retry_after_s: float | None = None, result: Any = None
    ) -> None:
        """It could not be carried out. With `retry_after_s` nothing was done, and it is to be tried again."""
        self._end(self.failure(reason, status, retry_after_s, result))

    def _end(self, request: ManagementRequest) -> None:
        self._over.set()
        self._device.ask(request)
        self.ended = True

    def __enter__(self) -> Self:
        extending = threading.Thread(target=self._extend, name=f"lease of command {self.number}", daemon=True)
        extending.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.ended or os.getpid() != self._pid:
            return
        if error is None:
            self.complete(self.result)
        elif isinstance(error, Exception):
            try:
                self.fail(described_error(error))
            except DeviceError as unsaid:
                error.add_note(f"that command {self.number} failed could not be said: {unsaid}")

    def _extend(self) -> None:
        pause_s = self.lease_s * EXTEND_SHARE
        while not self._over.wait(pause_s) and time.monotonic() - self._word_s < EXTEND_FOR_S:
            try:
                self._device.ask(self.extension(), retry_for_s=pause_s)
            except LeaseLost:
                self.lost = not self._over.is_set()
                return
            except DeviceError:
                continue  # the worker restarts; the lease has two thirds of its time left
