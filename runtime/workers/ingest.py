"""ingest: takes messages from producers, stores them, then acknowledges: see `IngestLoop.turn`.

One thread, one loop, no artificial wait: while one commit waits for the disk the next requests gather,
so the busier it is, the more share an fsync.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections import Counter
from collections.abc import Sequence

from loguru import logger

from runtime import wiring
from runtime.adapters.bus.connection_guard import ConnectionGuard
from runtime.adapters.bus.curve import KeyGate
from runtime.adapters.bus.preflight import check_listeners
from runtime.adapters.bus.producer_socket import Frames, PendingRequest
from runtime.adapters.bus.producer_sockets import ProducerSockets
from runtime.adapters.bus.sockets import STORED, DeliveryReceiver, Hints, wait_readable
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.adapters.store.counters import Loss
from runtime.adapters.store.errors import StoreError, StoreFull
from runtime.adapters.store.spool import Spool
from runtime.config import Config
from runtime.core.ingest.admission import Admission, MeasureFiles, TakeFiles
from runtime.core.ingest.busy_poll import BusyPoll
from runtime.core.ingest.delivery_hold import DeliveryHold, Received
from runtime.core.ingest.loss_log import LossLog
from runtime.core.ingest.new_names import leaves_met
from runtime.core.ingest.protocol import (
    BadRequest,
    Code,
    Ping,
    Pong,
    Put,
    Refusal,
    Reply,
    Request,
    SizeLimits,
    Stored,
    decode_request,
    encode_reply,
)
from runtime.core.ingest.refused_request import RETRY_FULL_MS
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.operations.metrics import LATENCY_BOUNDS_S, Histogram
from runtime.core.recent_counts import RecentCounts
from runtime.core.settlement import Settled
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.leaf_gate import LeafGate
from runtime.workers.store_manager import LOG_EVERY_S, StoreManager, refusal

NAME = "ingest"
IDLE_S = 1.0
BUG = Refusal(Code.INTERNAL, "a bug of ours: this request cannot be decided", RETRY_FULL_MS * 10)
KEY_REMOVED = Refusal(Code.NOT_ALLOWED, "this key is not allowed here any more", RETRY_FULL_MS)
"""The refusal is not final: the key's file may be in the course of being rewritten."""
QUICK_FLUSH_S = 0.002
QUICK_REQUESTS = 32
"""Most requests of a commit where a flush is quick: while it is written, further requests come in."""


def run(config: Config, stop: Stop) -> None:
    """Serve producers until asked to stop."""
    ingest = IngestLoop(config, stop, SystemClock())
    try:
        while not stop.requested():
            ingest.turn()
    finally:
        ingest.close()


class IngestLoop:
    """The worker's loop, one turn at a time."""

    def __init__(self, config: Config, stop: Stop, clock: Clock) -> None:
        settings = config.settings.ingest
        self._stop = stop
        self._commit_limits = _commit_limits(config)
        """Messages and payload bytes of one commit."""
        self._limits = SizeLimits(settings.max_message_bytes, settings.max_request_bytes)
        self._heartbeat = Heartbeat(config.layout, NAME, clock, stop)
        self._watch = ConfigWatch(config, NAME, clock, _check_listeners)
        self._manager = StoreManager(config, clock, beat=self._heartbeat.publish)
        self._spool = Spool(config.layout.spool, settings.drop_folder, self._heartbeat.busy)
        self._gate = KeyGate(settings.curve_clients) if settings.curve_clients else None
        self._sockets = ProducerSockets(wiring.listeners(config), clock)
        self._leaves = LeafGate(config, clock)
        self._guard = ConnectionGuard(self._sockets.endpoints, settings.memory_bytes)
        self._deliveries = DeliveryReceiver(config.layout)
        self._hold = DeliveryHold(config.settings.store.fold_s)
        self._busy_poll = BusyPoll(len(os.sched_getaffinity(0)))
        self._hints = Hints(config.layout, "ingest")
        self._counts: Counter[str] = Counter()
        self._refused_lately = RecentCounts()
        self._throttle = LogThrottle(LOG_EVERY_S)
        self._losses = LossLog(LOG_EVERY_S)
        self._clock = clock
        self._last_requests = 0
        self._commit_times, self._ack_times = Histogram(LATENCY_BOUNDS_S), Histogram(LATENCY_BOUNDS_S)
        self._read_s = 0.0
        """The time at which this turn began to read requests."""
        self._stored = self._settled = False
        """The messages, and the deliveries, of this turn are on disk."""
        self._unnamed_files: list[str] = []
        """Files in the spool that no message names any longer."""

    def turn(self) -> None:
        """Poll, drain, decide, one commit, reply. Dying in between costs a resend, never a message."""
        self._sockets.ensure_bound()
        self._deliveries.ensure_bound()
        self._hints.ensure_bound()
        self._manager.tick()
        self._spool.tidy(self._clock.boot_s(), self._manager.files_named)
        self._heartbeat.publish(self._figures)
        if self._watch.changed():
            self._reconfigure(self._watch.config)
        self._log_losses(self._clock.boot_s())
        patience_s = min(self._manager.patience_s(IDLE_S), self._hold.left_s(self._clock.boot_s()))
        gate = [self._gate.socket] if self._gate else []
        sockets = (*(each.socket for each in self._sockets.open), self._deliveries.socket, *gate)
        began_s = time.perf_counter()
        ready = wait_readable((*sockets, self._stop), patience_s, self._busy_poll.spin_s)
        waited_s = time.perf_counter() - began_s
        if self._gate:
            self._gate.answer()
        pending = self._receive()
        self._busy_poll.waited(waited_s, len(pending))
        now_s = self._clock.boot_s()
        self._hold.add(self._deliveries.receive() if self._deliveries.socket in ready else [], now_s)
        reports = self._hold.take(now_s, carried=any(isinstance(request, Put) for _, request in pending))
        if not pending and not reports:
            self._manager.idle()
            return
        replies = self._store(pending, self._settled_by(reports))
        self._acknowledge(pending, replies)  # on disk since the line above: now it may be said
        if self._stored and any(isinstance(reply, Stored) for reply in replies):
            self._hints.publish(STORED)  # upload does not wait as producers do
        self._remove_files()
        if self._settled:
            self._deliveries.confirm(reports)

    def _settled_by(self, reports: Sequence[Received]) -> Settled:
        """What these reports settle in the present store."""
        for _, report in reports:
            if report.damaged is not None:
                self._manager.damage_reported(report.damaged, unreadable=report.unreadable)
        return Settled.of(report.settled for _, report in reports if self._manager.is_this(report.store))

    def _reconfigure(self, config: Config) -> None:
        """Take the settings that count while ingest runs."""
        self._hold.hold_s = config.settings.store.fold_s
        self._commit_limits = _commit_limits(config)
        self._manager.reconfigure(config)
        self._leaves.reconfigure(config)

    def _figures(self) -> dict[str, object]:
        store_figures = self._manager.figures()
        alarms = [str(alarm) for alarm in (store_figures.get("alarm"), self._sockets.alarm) if alarm]
        return {
            "counted": self._counts,
            "refused_lately": self._refused_lately.counts(self._clock.boot_s()),
            "connections_cut": self._guard.cut,
            "closed_doors": self._sockets.closed,
            "latency": {"commit": self._commit_times.as_record(), "ack": self._ack_times.as_record()},
            **store_figures,
            **({"alarm": "; ".join(alarms)} if alarms else {}),
        }

    def _receive(self) -> list[tuple[PendingRequest, Request | Refusal]]:
        """The requests that wait, up to the bounds of one commit; a request is taken whole.

        Producers that shared the last commit will ask again: the loop waits for them, half a quick flush at
        most.
        """
        self._stored = self._settled = False
        received: list[tuple[PendingRequest, Request | Refusal]] = []
        room, room_bytes = self._commit_limits
        flush_s = self._manager.flush_s
        requests = QUICK_REQUESTS if flush_s < QUICK_FLUSH_S else room
        self._read_s = time.perf_counter()
        until_s = self._read_s + min(flush_s, QUICK_FLUSH_S) / 2
        while True:
            for peer, frames in self._sockets.receive():
                request = self._read(frames, peer.owner) if self._admits(peer) else KEY_REMOVED
                received.append((peer, request))
                room_bytes -= sum(map(len, frames or ()))  # a refused request took time, too
                if isinstance(request, Put):
                    room -= len(request.payloads) - 1
                if len(received) >= min(room, requests) or room_bytes <= 0:
                    return received
            if len(received) >= self._last_requests or time.perf_counter() >= until_s:
                return received
            os.sched_yield()  # to producers that wait for a core with a request

    def _read(self, frames: Frames, owner: str) -> Request | Refusal:
        """Any frames at all give a request or a refusal: a bug in the way of one must not stop all."""
        if frames is None:
            return Refusal(Code.BAD_ENVELOPE, "use a REQ socket, or send an empty frame first")
        try:
            return decode_request(frames, self._limits, owner)
        except BadRequest as exc:
            return Refusal(Code(exc.code), str(exc))
        except Exception as exc:
            return self._bug(exc)

    def _bug(self, exc: Exception) -> Refusal:
        """Log where the bug is; not the exception's text, which may repeat what a producer sent."""
        at = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{type(exc).__name__} at {at.filename}:{at.lineno}"
        times = self._throttle.times(where, self._clock.boot_s())
        if times:
            logger.bind(event=LogEvent.REQUEST_BUG, times=times).error(
                "a bug of ours meets a request, which is refused: {}", where
            )
        return BUG

    def _admits(self, peer: PendingRequest) -> bool:
        return self._gate is None or peer.key is None or self._gate.admits(peer.key, self._clock.boot_s())

    def _store(
        self, pending: Sequence[tuple[PendingRequest, Request | Refusal]], settled: Settled
    ) -> list[Reply]:
        """Store all of it in one commit. Returns the replies that may go out once it is on disk."""
        requests = [request for _, request in pending]
        try:
            admission, replies = self._decide(requests, settled)
            if admission.wants_count and self._manager.count():
                self._spool.settle(stored=False)
                admission, replies = self._decide(requests, settled)
            leaves = leaves_met(admission.view.streams, admission.new_streams)  # the commit adds to the view
            losses = self._commit(admission, settled)
            self._last_requests = len(pending)
            self._spool.settle(stored=True)
        except StoreError as error:
            self._manager.failed(error)
            in_doubt = not isinstance(error, StoreFull)  # it may be found on disk later
            self._spool.settle(stored=None if in_doubt else False)
            self._settle_alone(settled)
            refused = refusal(error)
            return [r if isinstance(r, Refusal) else _unstored(r, refused) for r in requests]
        self._stored = self._settled = True
        self._count_outcome(admission, losses)
        if leaves:
            self._leaves.stored(leaves)
            self._counts["new_leaves"] += len(leaves)
        return replies

    def _commit(self, admission: Admission | None, settled: Settled) -> list[Loss]:
        """Commit, and count how long it took. Raises StoreError."""
        began_s = time.perf_counter()
        losses = self._manager.commit(admission, settled)
        if settled or (admission is not None and admission.rows):
            self._commit_times.observe(time.perf_counter() - began_s)
        return losses

    def _decide(self, requests: list[Request | Refusal], settled: Settled) -> tuple[Admission, list[Reply]]:
        """Decide these requests. One that meets a bug is refused, and its traces are gone."""
        keys = {r.producer for r in requests if isinstance(r, Put) and r.producer is not None}
        while True:
            admission = self._manager.admission(keys, settled, self._leaves.terms())
            replies: list[Reply] = []
            for at, request in enumerate(requests):
                try:
                    replies.append(
                        request if isinstance(request, Refusal) else decide(admission, request, self._spool)
                    )
                except Exception as exc:
                    self._spool.settle(stored=False)
                    requests[at] = self._bug(exc)
                    break
            else:
                return admission, replies

    def _settle_alone(self, settled: Settled) -> None:
        """Commit deliveries alone: new messages found no room, and removing delivered ones makes room."""
        try:
            self._count_outcome(None, self._commit(None, settled))
            self._settled = True
        except StoreError as error:
            self._manager.failed(error)

    def _acknowledge(
        self, pending: Sequence[tuple[PendingRequest, object]], replies: Sequence[Reply]
    ) -> None:
        stored = 0
        for (peer, _), reply in zip(pending, replies, strict=True):
            stored += isinstance(reply, Stored)
            if isinstance(reply, Refusal):
                self._count_refusal(reply.code)
            else:
                assert self._stored or isinstance(reply, Pong), "nothing is acknowledged without its commit"
            peer.answer(encode_reply(reply))
        if stored:
            self._ack_times.observe(time.perf_counter() - self._read_s, stored)

    def _count_refusal(self, code: str) -> None:
        """Count and log a refusal's code. Its text, which may repeat what a producer sent, is in no log."""
        now_s = self._clock.boot_s()
        self._counts[f"refused_{code}"] += 1
        self._refused_lately.add(code, now_s)
        times = self._throttle.times(code, now_s)
        if times:
            logger.bind(event=LogEvent.PRODUCERS_REFUSED, code=code, times=times).warning(
                "producers are refused: {}", code
            )

    def _count_outcome(self, admission: Admission | None, losses: Sequence[Loss]) -> None:
        if admission is not None and admission.rows:
            self._counts["stored"] += len(admission.rows)
        for loss in losses:
            self._unnamed_files += loss.files
            if loss.amount.messages:
                self._counts[f"lost_{loss.reason}"] += loss.amount.messages
                self._losses.add((str(loss.stream), loss.reason), loss.amount.messages, loss.ranges)

    def _remove_files(self) -> None:
        """Delete files of messages that gave way. Their removal is on disk; no request waits for the room."""
        files, self._unnamed_files = self._unnamed_files, []
        self._spool.remove(files)

    def _log_losses(self, now_s: float) -> None:
        for (stream, reason), lost in self._losses.due(now_s):
            logger.bind(event=LogEvent.MESSAGES_LOST, stream=stream, reason=reason, ids=lost.ranges).warning(
                "{} messages left the store undelivered", lost.messages
            )

    def close(self) -> None:
        if reports := self._hold.take(0.0, carried=True):
            self._settled = False
            self._store([], self._settled_by(reports))
            if self._settled:
                self._deliveries.confirm(reports)
        self._log_losses(math.inf)
        self._guard.close()
        self._manager.close()
        self._sockets.close()
        if self._gate:
            self._gate.close()
        self._deliveries.close()
        self._hints.close()


def decide(admission: Admission, request: Request, spool: Spool) -> Reply:
    """Decide one request, and take the files that it names: they are on disk when this returns."""
    reply = admission.decide(request)
    if not isinstance(reply, MeasureFiles):
        return reply
    sizes = [spool.size(*file) for file in reply.files]
    decision = admission.measured(reply, sizes, copied=spool.copies)
    if not isinstance(decision, TakeFiles):
        return decision
    return admission.taken(decision, spool.take(decision.files))


def _check_listeners(config: Config) -> None:
    """Raise ConfigError where the producer sockets of this configuration could not be opened."""
    check_listeners(wiring.listeners(config), config.layout)


def _commit_limits(config: Config) -> tuple[int, int]:
    return config.settings.ingest.commit_messages, config.settings.ingest.commit_bytes


def _unstored(request: Request, refused: Refusal) -> Reply:
    return Pong() if isinstance(request, Ping) else refused
