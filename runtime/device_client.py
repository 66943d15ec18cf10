"""The common part of `Device` and `AsyncDevice`: sockets, handlers, and the names of polls."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypedDict

import zmq

from runtime.core.management.device_work import DeviceCall, MethodError
from runtime.core.management.exchange import POLL_S, DeviceExchange
from runtime.core.management.replies import AnswerTaken, ManagementReply
from runtime.core.management.requests import ManagementRequest, ReceiveRequest, ServeRequest
from runtime.errors import UsageError

MAX_IDLE_SOCKETS = 4
_log = logging.getLogger("runtime.device")


class DeviceOptions(TypedDict, total=False):
    """How a device behaves; see `DeviceClient`."""

    retry_for_s: float | None
    answer_timeout_s: float


class DeviceClient:
    """The common part of `Device` and `AsyncDevice`: everything but the waiting."""

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        retry_for_s: float | None = 60.0,
        answer_timeout_s: float = 1.0,
    ) -> None:
        """Connect to `endpoint` (default: management.sock in the home); the worker need not run yet.

        `retry_for_s` bounds each wait for an answer; None waits for ever.
        """
        self._endpoint = endpoint or default_management_endpoint()
        self._retry_for_s = retry_for_s
        self._answer_timeout_s = answer_timeout_s
        self._handlers: dict[str, Callable[[DeviceCall], Any]] = {}
        self._life = uuid.uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._unanswered: dict[ManagementRequest, str] = {}
        """The names of polls whose answer was lost: the worker gives it again under the same name."""
        self._idle: deque[Any] = deque()
        _clients.add(self)

    def method(self, name: str) -> Callable[[Callable[[DeviceCall], Any]], Callable[[DeviceCall], Any]]:
        """Have the decorated function answer calls of this method, or of all that begin as in `press.*`.

        What it returns is the answer, as JSON, with status 200. A MethodError has a status of its own; every
        other exception is answered 500, and logged.
        """

        def register(handler: Callable[[DeviceCall], Any]) -> Callable[[DeviceCall], Any]:
            self._handlers[name] = handler
            return handler

        return register

    def _exchange(self, request: ManagementRequest, retry_for_s: float | None) -> DeviceExchange:
        return DeviceExchange(
            request,
            retry_for_s=self._retry_for_s if retry_for_s is None else retry_for_s,
            timeout_s=self._answer_timeout_s,
            wait_s=getattr(request, "wait_s", 0.0),
        )

    def _poll_name(self, request: ManagementRequest) -> str:
        return self._unanswered.pop(request, None) or f"{self._life}.{next(self._numbers)}"

    def _socket(self, context: zmq.Context[Any]) -> Any:
        """A REQ socket that no other request uses."""
        while True:
            try:
                socket = self._idle.pop()
            except IndexError:
                return self._connected(context)
            if not socket.closed:
                return socket

    def _connected(self, context: zmq.Context[Any]) -> Any:
        socket = context.socket(zmq.REQ)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(self._endpoint)
        except BaseException as exc:
            socket.close(linger=0)
            if isinstance(exc, zmq.ZMQError):
                reason = zmq.strerror(exc.errno or 0)
                raise UsageError(f"cannot connect to {self._endpoint}: {reason}") from exc
            raise
        return socket

    def _give_back(self, socket: Any) -> None:
        if len(self._idle) < MAX_IDLE_SOCKETS:
            self._idle.append(socket)
        else:
            socket.close(linger=0)

    def _hang_up(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close(linger=0)

    def _restart_in_child(self) -> None:
        """Forget the parent's sockets without closing them: that would write into its connections."""
        self._idle = deque()


_clients: weakref.WeakSet[DeviceClient] = weakref.WeakSet()


def _restart_clients_in_child() -> None:
    for client in list(_clients):
        client._restart_in_child()


os.register_at_fork(after_in_child=_restart_clients_in_child)


def named(request: ReceiveRequest | ServeRequest, wait_s: float, poll: str) -> ReceiveRequest | ServeRequest:
    """The request as it is sent: with the time to wait, and the name that a repeat of it has, too."""
    if isinstance(request, ServeRequest):
        return ServeRequest(request.methods, wait_s, poll)
    return ReceiveRequest(request.names, request.leaf, request.lease_s, wait_s, poll)


def part_s(deadline_s: float) -> float:
    return max(0.0, min(POLL_S, deadline_s - time.monotonic()))


def log_unless_meant(call: DeviceCall, error: Exception) -> None:
    if not isinstance(error, MethodError):
        _log.error("the handler of method %s raised", call.method, exc_info=error)


def log_unless_delivered(call: DeviceCall, taken: ManagementReply) -> None:
    if not (isinstance(taken, AnswerTaken) and taken.delivered):
        _log.warning("the answer to a call of %s came too late: its caller had given up", call.method)


def default_management_endpoint() -> str:
    """The socket of this machine's runtime. Raises ConfigError."""
    from runtime.config_file import find_home  # late: a named endpoint needs no configuration
    from runtime.layout import Layout

    return f"ipc://{Layout(find_home(os.environ)).management_socket}"
