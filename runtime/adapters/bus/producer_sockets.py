"""All producer sockets of ingest: those that can be opened are served, the others are tried again and named.

A socket that cannot be opened closes no other. At boot an address comes with DHCP, a folder with its mount, a
key with its credential; a port is free when its holder has gone. An error that no waiting changes ends the
start: an endpoint that would be open without keys, an ipc path that another ingest serves, and a path that
cannot be made where there is no other socket (supervisord starts us again, and a person at a terminal reads
the reason).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loguru import logger

from runtime.adapters.bus.producer_socket import CannotListen, Frames, PendingRequest, ProducerSocket
from runtime.adapters.process.clock import Clock
from runtime.core.address import IpcEndpoint, Listener
from runtime.core.log_events import LogEvent

TRY_AGAIN_S = 1.0


class ProducerSockets:
    """The producer sockets, by endpoint."""

    def __init__(self, listeners: Iterable[Listener], clock: Clock) -> None:
        self._clock = clock
        self._waiting = {listener.endpoint: listener for listener in listeners}
        """Those that are not open."""
        self.endpoints = tuple(self._waiting)
        self.open: list[ProducerSocket] = []
        self.closed: dict[str, str] = {}
        """Reasons, by the spelling of the endpoint."""
        self._try_s = 0.0
        try:
            self._try()
            if not self.open:
                self._must_wait()
        except BaseException:
            self.close()
            raise

    def ensure_bound(self) -> None:
        """Open those that can be opened by now. Raises UsageError where another ingest has taken a path."""
        for socket in self.open:
            socket.ensure_bound()
        if self._waiting and self._clock.boot_s() >= self._try_s:
            self._try()

    def receive(self) -> Iterator[tuple[PendingRequest, Frames]]:
        """One request from each socket in turn, so that a flood at one does not block the other."""
        waiting = [socket.receive() for socket in self.open]
        while waiting:
            for requests in tuple(waiting):
                request = next(requests, None)
                if request is None:
                    waiting.remove(requests)
                else:
                    yield request

    @property
    def alarm(self) -> str:
        """Alarm text for a person; empty where all are open."""
        return "; ".join(self.closed.values())

    def close(self) -> None:
        for socket in self.open:
            socket.close()

    def _must_wait(self) -> None:
        """Raises CannotListen where waiting does not help the only sockets."""
        for endpoint in self._waiting:
            if isinstance(endpoint, IpcEndpoint):
                raise CannotListen(self.closed[str(endpoint)])

    def _try(self) -> None:
        self._try_s = self._clock.boot_s() + TRY_AGAIN_S
        for endpoint, listener in tuple(self._waiting.items()):
            try:
                self.open.append(ProducerSocket(listener))
            except CannotListen as exc:
                if self.closed.get(str(endpoint)) != str(exc):
                    logger.bind(event=LogEvent.PRODUCER_SOCKET_CLOSED).error(
                        "{}; tried again every second", exc
                    )
                self.closed[str(endpoint)] = str(exc)
                continue
            del self._waiting[endpoint]
            if self.closed.pop(str(endpoint), None):
                logger.info("producers are served at {} now", endpoint)
