"""The bus between processes: the only importer of zmq in the runtime besides the producer's client.

Hints: each worker publishes on a PUB socket of its own (`run/<worker>.hints`), to which other workers
subscribe. A hint is one word, carries no data, and may be lost: that costs latency, never truth, which is on
disk.

Deliveries: `DeliveryReporter` (upload, `edgectl quarantine`) reports settled messages to the
`DeliveryReceiver` of ingest, and repeats each report until it is confirmed. The producers' side is in
`producer_socket.py`.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import zmq
from loguru import logger

from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.home_mount import in_changed_home
from runtime.adapters.process.run_folder import restore
from runtime.core.log_events import LogEvent
from runtime.core.settlement import (
    Report,
    Settled,
    decode_confirmation,
    decode_report,
    encode_confirmation,
    encode_report,
    split,
)
from runtime.errors import Rejected
from runtime.layout import Layout

__all__ = ["DeliveryReceiver", "DeliveryReporter", "Hints", "Settled"]

STORED = "stored"  # ingest: new messages are on disk
IDENTITY_CHANGED = "identity-changed"  # provisioning, refresh: read identity.db again
SAS_REFUSED = "sas-refused"  # upload: the hub refused the SAS in force

LOOK_EVERY_S = 1.0
RESEND_AFTER_S = 2.0
EARLIER_S = 1.0
"""At its start a reporter waits so long for ingest to carry out what the one before it reported."""
REPORT_IDS = 1_000
"""Most ids in one report: the deletes in a commit must not delay its acknowledgements."""


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context of this process; a closed socket never holds up the exit."""
    ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    ctx.linger = 0
    return ctx


class Bound:
    """An ipc socket bound with `mode` from its first instant. The caller holds the worker's flock."""

    def __init__(self, socket: zmq.Socket[bytes], path: Path, mode: int = 0o600) -> None:
        self.path = path
        self._socket = socket
        self._mode = mode
        self._look_s = 0.0
        self._bind()

    def lost(self) -> bool:
        """True if the path leads to this socket no more: it was removed. Looked at once a second."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return False
        self._look_s = now_s + LOOK_EVERY_S
        return self._file_id() != self._identity

    def rebind(self) -> bool:
        """Bind to the path again; True if it worked. Peers stay connected, and messages on their way arrive.

        The old listener is not closed: zmq does that later, in another thread, and removes the *path* then.
        It costs a descriptor until the process ends.
        """
        if in_changed_home(self.path):
            return False
        try:
            restore(self.path.parent)
            self._bind()
        except (OSError, zmq.ZMQError) as exc:  # a full disk: tried again at the next look
            logger.bind(event=LogEvent.SOCKET_GONE).warning(
                "{} is gone, and cannot be made again: {}", self.path, exc
            )
            return False
        logger.bind(event=LogEvent.SOCKET_MADE_AGAIN).warning("{} was gone; made again", self.path)
        return True

    def _bind(self) -> None:
        before = os.umask(0o777 & ~self._mode)
        try:
            self._socket.bind(f"ipc://{self.path}")
        finally:
            os.umask(before)
        self._identity = self._file_id()

    def _file_id(self) -> tuple[int, int] | None:
        try:
            stats = self.path.stat()
        except OSError:
            return None
        return stats.st_dev, stats.st_ino


def wait_readable(sources: Iterable[object], timeout_s: float, spin_s: float = 0.0) -> list[object]:
    """Wait until one of the sources (zmq sockets, or anything with fileno()) is readable, or for the time.

    Returns those zmq sockets that are readable, and the file descriptors of the other sources. For the first
    `spin_s` the thread stays awake, but gives its core to any other that waits for one.
    """
    poller = zmq.Poller()
    for source in sources:
        poller.register(source, zmq.POLLIN)
    if spin_s and (ready := _spin(poller, min(spin_s, timeout_s))):
        return ready
    return [source for source, _ in poller.poll(int(max(0.0, timeout_s) * 1000))]


def _spin(poller: zmq.Poller, spin_s: float) -> list[object]:
    until_s = time.perf_counter() + spin_s
    while time.perf_counter() < until_s:
        if ready := poller.poll(0):
            return [source for source, _ in ready]
        os.sched_yield()
    return []


class Hints:
    """Hints that this worker publishes, and those that it receives from the others."""

    def __init__(self, layout: Layout, worker: str, listen_to: Iterable[str] = ()) -> None:
        self._pub = context().socket(zmq.PUB)
        self._bound = Bound(self._pub, layout.hints_socket(worker))
        self._sub = context().socket(zmq.SUB)
        self._sub.setsockopt(zmq.SUBSCRIBE, b"")
        for other in listen_to:
            self._sub.connect(f"ipc://{layout.hints_socket(other)}")  # it need not exist yet
        self.woken_by: list[object] = []
        """The sources that were readable when the last wait ended: sockets, or file descriptors."""

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket, to be polled together with other sockets."""
        return self._sub

    def ensure_bound(self) -> None:
        """Bind again where the path was removed: else no worker that starts from now on gets our hints."""
        if self._bound.lost():
            self._bound.rebind()

    def publish(self, hint: str) -> None:
        """Publish a hint to the workers that listen now."""
        self._pub.send(hint.encode())

    def drain(self) -> set[str]:
        """Return all hints that wait, without waiting."""
        hints = set()
        while self._sub.poll(0):
            hints.add(self._sub.recv().decode())
        return hints

    def wait(self, timeout_s: float, also: Iterable[object] = ()) -> set[str]:
        """Wait for a hint, for one of `also` (anything with fileno()) to become readable, or for the time."""
        self.ensure_bound()
        self.woken_by = wait_readable([self._sub, *also], timeout_s)
        return self.drain()

    def close(self) -> None:
        self._pub.close(0)
        self._sub.close(0)


class DeliveryReceiver:
    """Ingest's end: receives reports, confirms them after the commit."""

    def __init__(self, layout: Layout) -> None:
        self.socket = context().socket(zmq.ROUTER)
        self._bound = Bound(self.socket, layout.delivery_socket)

    def ensure_bound(self) -> None:
        """Bind again where the path was removed: else delivered messages would never leave the store."""
        if self._bound.lost():
            self._bound.rebind()

    def receive(self) -> list[tuple[bytes, Report]]:
        """Reports that wait, without waiting: enough to fill one commit."""
        reports: list[tuple[bytes, Report]] = []
        ids = 0
        while ids < REPORT_IDS and self.socket.poll(0):
            sender, *frames = self.socket.recv_multipart()
            try:
                report = decode_report(frames[0] if len(frames) == 1 else b"")
            except Rejected:
                continue  # the socket is private: a stray client, which will see no confirmation
            reports.append((sender, report))
            ids += len(report.settled.ids())
        return reports

    def confirm(self, reports: Iterable[tuple[bytes, Report]]) -> None:
        """Confirm that these reports are carried out, on disk."""
        for sender, report in reports:
            self.socket.send_multipart([sender, encode_confirmation(report.number)])

    def close(self) -> None:
        self.socket.close(0)


class DeliveryReporter:
    """The other end: sends without blocking, keeps unconfirmed reports, and repeats lost ones.

    Ingest confirms reports in the order in which they were sent. A confirmation that comes before that of an
    earlier one proves the earlier one lost: an ingest that had read it died. It is repeated at once. Where no
    confirmation comes at all everything is repeated after a while, on a new socket.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        clock: Clock | None = None,
        resend_after_s: float = RESEND_AFTER_S,
        hold_s: float = 0.0,
    ) -> None:
        """`hold_s`: ingest may hold reports for so long, also those of the reporter before this one.

        Where that one died, `earlier_settled` says when the rows of what it has reported are gone.
        """
        self._endpoint = f"ipc://{layout.delivery_socket}"
        self._clock = clock or SystemClock()
        self._resend_after_s = resend_after_s + hold_s
        self._next_number = 1
        self._sent: OrderedDict[int, Report] = OrderedDict()  # not confirmed, in order of sending
        self._unsent: OrderedDict[int, Report] = OrderedDict()  # the queue was full
        self._answered_s = 0.0
        self._in_a_hurry = False
        self._earlier_until_s = 0.0
        self._open()
        if hold_s:
            self._earlier_until_s = self._clock.boot_s() + EARLIER_S
            self._send_new(Report(self._next_number, hurry=True))

    def _open(self) -> None:
        self.socket = context().socket(zmq.DEALER)
        self.socket.connect(self._endpoint)

    @property
    def unconfirmed(self) -> set[int]:
        """Ids that were reported and may still be in the store."""
        return {number for report in self._waiting() for number in report.settled.ids()}

    def report(self, settled: Settled, store: str | None = None) -> None:
        """Report the settlement of messages of the store with this uuid."""
        for part in split(settled, REPORT_IDS):
            self._send_new(Report(self._next_number, part, store=store, hurry=self._in_a_hurry))

    def hurry(self) -> None:
        """Have ingest carry out at once what is reported so far, and what is reported from now on."""
        if not self._in_a_hurry and self._waiting():
            self._send_new(Report(self._next_number, hurry=True))
        self._in_a_hurry = True

    @property
    def earlier_settled(self) -> bool:
        """True once ingest holds nothing of the reporter before this one, or the time for that is over."""
        asking = 1 in self._sent or 1 in self._unsent
        return not asking or self._clock.boot_s() >= self._earlier_until_s

    def report_damage(self, reason: str, *, unreadable: bool = False) -> None:
        """Report that the store cannot be read, so that ingest salvages it, or probes whether that passes.

        Queued once: while the salvage has no room no report is confirmed, and callers report again and again.
        """
        if any(report.damaged and report.unreadable is unreadable for report in self._waiting()):
            return
        self._send_new(Report(self._next_number, damaged=reason, unreadable=unreadable))

    def confirmed(self) -> set[int]:
        """Ids whose settlement is on disk since the last call. Repeats lost reports, and those overdue."""
        done: set[int] = set()
        while self.socket.poll(0):
            number = decode_confirmation(self.socket.recv())
            if number not in self._sent:
                continue
            self._answered_s = self._clock.boot_s()  # ingest answers: reports sent later are on their way
            while (first := next(iter(self._sent))) != number:
                self._unsent[first] = self._sent.pop(first)  # overtaken
            done |= self._sent.pop(number).settled.ids()
        if self._waiting() and self._clock.boot_s() - self._answered_s > self._resend_after_s:
            self._repeat()
        self._send_unsent()
        return done

    def _waiting(self) -> list[Report]:
        return [*self._sent.values(), *self._unsent.values()]

    def _send_new(self, report: Report) -> None:
        if not self._sent and not self._unsent:
            self._answered_s = self._clock.boot_s()
        self._next_number = report.number + 1
        self._unsent[report.number] = report
        self._send_unsent()

    def _repeat(self) -> None:
        self.socket.close(0)
        self._open()
        self._answered_s = self._clock.boot_s()
        self._unsent = OrderedDict((report.number, report) for report in self._waiting())
        self._sent.clear()

    def _send_unsent(self) -> None:
        while self._unsent:
            number, report = next(iter(self._unsent.items()))
            try:
                self.socket.send(encode_report(report), zmq.NOBLOCK)
            except zmq.Again:
                return  # the queue is full: tried again at the next look
            self._sent[number] = self._unsent.pop(number)

    def close(self) -> None:
        self.socket.close(0)
