"""upload: from the store to the hub. `core.delivery` decides, `adapters.hub` connects, ingest deletes.

    read the store -> seal -> offer -> actions -> the connection -> events -> settled -> report to ingest

A row leaves the store only by its own PUBACK, and ingest removes it. The loop's other state can be lost at
any instant: it begins again with the messages that the store still has.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random

from loguru import logger

from runtime import wiring
from runtime.adapters.bus.sockets import (
    IDENTITY_CHANGED,
    SAS_REFUSED,
    STORED,
    DeliveryReporter,
    Hints,
)
from runtime.adapters.hub.file_upload import (
    BlockSent,
    FileOptions,
    FileUploader,
    HubCalled,
    Uploaded,
    UploadFailed,
)
from runtime.adapters.hub.https_api import HttpsRoute, Inquiry
from runtime.adapters.hub.mqtt_client import HubConnection, HubOptions
from runtime.adapters.hub.usage_file import UsageFile
from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import last_record
from runtime.adapters.store.errors import StoreDamaged, StoreReplaced, StoreUnknown, StoreUnreadable
from runtime.config import Config
from runtime.core.delivery.actions import (
    PROBE,
    Action,
    Discard,
    InquireQuota,
    Open,
    ReportSasRefused,
    Send,
    StartUpload,
)
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry, probe
from runtime.core.delivery.events import ConnectionEvent, Lost
from runtime.core.delivery.figures import UploadFigures
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.outgoing import MessageState
from runtime.core.delivery.window import QUEUED_SHARE, CongestionWindow
from runtime.core.identity.credentials import HubCredentials
from runtime.core.log_events import LogEvent
from runtime.core.settlement import Settled
from runtime.errors import NeedsHuman, Retryable
from runtime.workers.delivery_times import DeliveryTimes
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.upload_budget import BudgetWatch
from runtime.workers.upload_management import ManagementRelay
from runtime.workers.upload_meter import UnitMeter
from runtime.workers.upload_source import UploadSource

NAME = "upload"
LOOK_EVERY_S = 2.0
"""Interval of looks at the disk: hints may be lost."""
TURN_S = 1.0
"""The loop comes round at least so often, to beat."""
HUNG_S = 60.0
"""A loop that stands for so long ends the process, with the stacks of its threads in the log."""
PROMPT_S = 10.0
"""A hub that ends a connection because of a message does so within so long, and within the keep-alive."""
IDENTITY_BUSY_S = 0.05
"""Longest wait while identity.db is held; then the known identity serves: data does not wait for control."""
LEAVE_S = 3.0
"""A worker that is asked to stop waits so long for the sends in flight."""
MOST_UNCONFIRMED = 20_000
"""More deliveries that ingest has not confirmed than this: wait for ingest, else memory grows."""


def run(config: Config, stop: Stop) -> None:
    """Deliver messages until asked to stop, or until the known ids are of a store that is gone."""
    uploader = UploadLoop(config, stop)
    try:
        uploader.look()
        while not stop.requested():
            uploader.turn()
        uploader.leave()
    except StoreReplaced as exc:
        logger.bind(event=LogEvent.UPLOAD_RESTARTS).error("{}; leaving, to be started afresh", exc)
    faulthandler.cancel_dump_traceback_later()
    uploader.save_usage(at_end=True)


class UploadLoop:
    """The worker's loop, one turn at a time."""

    def __init__(self, config: Config, stop: Stop) -> None:
        layout, settings = config.layout, config.settings.upload
        self._stop = stop
        self._clock = SystemClock()
        self._hints = Hints(layout, "upload", ("ingest", "provisioning", "refresh"))
        self._heart = Heartbeat(layout, NAME, self._clock, stop)
        self._watch = ConfigWatch(config, NAME, self._clock)
        self._identity = _identity(config)
        self._reporter = DeliveryReporter(layout, hold_s=config.settings.store.fold_s)
        hub = wiring.hub_route(config.settings)
        options = (hub.ca_file, settings.keepalive_s, hub.websockets, hub.proxy, settings.connect_timeout_s)
        self._hub = HubConnection(HubOptions(*options))
        route = HttpsRoute(hub.ca_file, hub.https_port, hub.proxy)
        self._files = FileUploader(
            FileOptions(
                journal=layout.state / "uploads",
                spool=layout.spool,
                route=route,
                block_bytes=settings.block_bytes,
            )
        )
        self._inquiry = Inquiry(route)
        self._usage = UsageFile(layout)
        self._link = LinkBudget(wiring.link_policy(config.settings), self._usage.load())
        times_s = (settings.connect_timeout_s, settings.ack_timeout_s, settings.retry_max_s)
        prompt_s = min(PROMPT_S, settings.keepalive_s)
        limits = DeliveryLimits(*times_s, settings.files, settings.batch_s, prompt_s)
        window = CongestionWindow(settings.window, settings.ack_timeout_s / QUEUED_SHARE)
        self._delivery = Delivery(window, self._link, limits)
        acked_s = last_record(layout.status_file("upload"), self._clock.boot_id()).number("puback_boot_s")
        self._figures = UploadFigures(self._delivery, self._link, self._clock.boot_s(), acked_s)
        self._times = DeliveryTimes(self._delivery)
        self._source = UploadSource(config, self._delivery, self._clock)
        began_s = self._clock.boot_s()
        self._meter = UnitMeter(self._link, self._delivery)
        self._budget = BudgetWatch(
            config.settings, self._delivery, self._link, self._source.levels, self._meter.since_start
        )
        self._management = ManagementRelay(
            layout, self._hub, self._delivery, self._link, self._meter, began_s
        )
        self._management.switch("", began_s, on=config.settings.management.enabled)
        self._credentials: HubCredentials | None = None
        self._identity_trouble = self._identity_logged = ""
        self._control: Telemetry | None = None
        self._probes = 0
        self._spool = layout.spool
        self._swept = False
        self._look_at_s, self._look_further = 0.0, False
        self._unknown: str | None = None
        """The reason why the store cannot be read until an operator has decided."""

    def turn(self) -> None:
        """Wait for events, and carry out the actions that follow from them."""
        self._wait()
        now = self._clock.boot_s()
        for event in self._hub.drain():
            if isinstance(event, Lost):
                logger.debug("client {} lost, {}: {}", event.client, event.cause.value, event.reason)
            self._on_hub_event(event, now)
        self._on_file_events(now)
        self._on_inquiry_result(now)
        if self._management.drain_quota_doubt():
            self._inquire()
        self._on_confirmed(self._reporter.confirmed())
        may_read = len(self._delivery.settled) < MOST_UNCONFIRMED and not self._link.stopping
        self._look_further = may_read and self._reporter.earlier_settled and self._read()
        if self._watch.changed():
            self._reconfigure(self._watch.config)
        self._link.off = self._usage.switched_off()  # at every turn: after `edgectl link off` nothing is sent
        if self._delivery.in_flight:
            self._delivery.carried(self._hub.carried(), self._clock.boot_s())
        actions = self._delivery.actions(self._clock.boot_s(), random.random())
        self._source.remember(self._delivery.drain_reached(), actions)  # before more is sent
        with self._hub.together():
            for action in actions:
                self._carry_out(action)
        self._management.turn(self._clock.boot_s(), random.random(), self._hints.woken_by)
        self._files.set_permit(self._link.files(self._clock.boot_s()), off=self._link.off)
        settled = self._delivery.drain_settled()
        if settled:
            self._settle(settled)
        self._heart.publish(self._record)

    def _on_hub_event(self, event: ConnectionEvent, now: float) -> None:
        excused = self._management.excuses(event)
        if not self._management.is_for_management(event):
            self._figures.on_event(event, now)
            self._delivery.on_event(event, now, random.random(), excused=excused)
        self._management.on_event(event, self._device_id, now)

    @property
    def _device_id(self) -> str:
        return self._credentials.device_id if self._credentials else ""

    def leave(self) -> None:
        """Let sends in flight arrive and be reported: messages still in the store are sent a second time."""
        self._link.stopping = True
        self._reporter.hurry()
        until_s = self._clock.boot_s() + LEAVE_S
        while self._on_its_way() and self._clock.boot_s() < until_s:
            self.turn()

    def _on_its_way(self) -> bool:
        return bool(self._delivery.in_flight or self._reporter.unconfirmed)

    def look(self) -> None:
        """Read what other processes may have written without a hint that arrived."""
        now = self._clock.boot_s()
        self._look_at_s = now + LOOK_EVERY_S
        self._source.look_for_new = True
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        self._link.set_time(self._clock.wall_s(), now)
        with contextlib.suppress(Retryable, StoreDamaged):  # the next read meets it
            self._budget.look(now)
        self.save_usage()
        if self._link.ask_again(now):
            self._inquire()
        try:
            self._credentials, trouble = self._identity.hub_credentials(), ""
        except (Retryable, NeedsHuman) as exc:
            trouble = str(exc)  # the known credentials stay in use until they are refused
        if trouble and trouble == self._identity_trouble != self._identity_logged:
            self._identity_logged = trouble  # a change being written is over by the next look
            logger.bind(event=LogEvent.IDENTITY_UNREADABLE).warning("identity: {}", trouble)
        self._identity_trouble = trouble
        self._delivery.set_credentials(self._credentials.generation if self._credentials else None, now)
        if self._credentials is not None and not self._swept:
            self._sweep()

    def _reconfigure(self, config: Config) -> None:
        """Take the settings that count while upload runs."""
        self._link.set_policy(wiring.link_policy(config.settings))
        self._identity = _identity(config)  # refresh seals the tokens as it says now, and with its key
        enabled = config.settings.management.enabled
        self._management.switch(self._device_id, self._clock.boot_s(), on=enabled)

    def save_usage(self, *, at_end: bool = False) -> None:
        """Save the link's usage of today and this month."""
        self._usage.save(self._link.usage, self._link.policy, at_end=at_end)

    def _sweep(self) -> None:
        """Once: end the file uploads of messages that left while upload did not run."""
        try:
            oldest = self._source.oldest()
        except (Retryable, StoreDamaged):
            return
        self._swept = True
        for id in self._files.known():
            if oldest is None or id < oldest:
                self._files.forget(id, self._credentials)

    def _wait(self) -> None:
        now = self._clock.boot_s()
        due_s = min(self._delivery.wait_s(now), self._management.wait_s(now))
        wait_s = min(TURN_S, due_s, max(0.0, self._look_at_s - now))
        if self._look_further:
            wait_s = 0.0
        woken_by = [self._hub, self._files, self._reporter.socket, *self._management.sources]
        hints = self._hints.wait(wait_s, also=woken_by if self._link.stopping else [*woken_by, self._stop])
        if STORED in hints:
            self._source.look_for_new = True
        if IDENTITY_CHANGED in hints or self._clock.boot_s() >= self._look_at_s:
            self.look()

    def _read(self) -> bool:
        """Read from the store. True if to read further at once."""
        try:
            further = self._source.read()
            self._unknown = None
            return further
        except StoreDamaged as exc:
            logger.bind(event=LogEvent.STORE_DAMAGE_SEEN).error(
                "the store is damaged, ingest has to salvage it: {}", exc
            )
            self._reporter.report_damage(str(exc), unreadable=isinstance(exc, StoreUnreadable))
            self._stop.wait(TURN_S)
        except Retryable as exc:
            logger.debug("store: {}", exc)
            self._log_unknown(exc)
        return False

    def _log_unknown(self, exc: Retryable) -> None:
        """Log a trouble that an operator must decide; any other passes, and ingest logs it."""
        known, self._unknown = self._unknown, str(exc) if isinstance(exc, StoreUnknown) else None
        if self._unknown and not known:
            logger.bind(event=LogEvent.NOTHING_DELIVERABLE).error(
                "nothing can be delivered: {}", self._unknown
            )

    def _on_confirmed(self, ids: set[int]) -> None:
        """Ingest has removed these messages, on disk: only now their files may be deleted."""
        removed = self._delivery.confirmed(ids)
        self._source.confirmed(removed)
        for message in removed:
            if message.spool_file and message.state is not MessageState.SET_ASIDE:
                with contextlib.suppress(OSError):  # ingest clears away what no message names
                    (self._spool / message.spool_file).unlink(missing_ok=True)

    def _on_file_events(self, now: float) -> None:
        for event in self._files.drain():
            match event:
                case Uploaded(id, blob_name, destination) if self._is_ours(destination):
                    self._source.link(id, blob_name)
                    self._figures.file_uploaded(id)
                    self._delivery.uploaded(id, now)
                case Uploaded(id):
                    reason = "the device has another id, or another hub, meanwhile"
                    self._delivery.upload_failed(id, reason, now, random.random(), final=False)
                case BlockSent(id, size_bytes):
                    message = self._delivery.queue.messages.get(id)
                    self._link.uploaded(size_bytes, message.candidate.priority if message else 0)
                case HubCalled(id, calls):
                    self._meter.called_for_file(id, calls)
                case UploadFailed():
                    self._file_failed(event, now)

    def _file_failed(self, event: UploadFailed, now: float) -> None:
        logger.bind(event=LogEvent.FILE_UPLOAD_FAILED).warning(
            "file upload of message {}: {}", event.id, event.reason
        )
        if event.quota:
            self._link.record_quota_used_up(now, self._clock.wall_s(), random.random())
        if event.final:
            self._figures.file_refused(event.id)
        elif not event.barred:
            self._figures.file_failed(event.id, event.reason, now)
        self._delivery.upload_failed(
            event.id,
            event.reason,
            now,
            random.random(),
            final=event.final,
            retry_after_s=event.retry_after_s,
        )

    def _is_ours(self, destination: str) -> bool:
        return self._credentials is not None and self._credentials.destination == destination

    def _inquire(self) -> None:
        if self._credentials is not None:
            self._probes += 1
            self._inquiry.start(self._credentials, f"probe:{self._clock.boot_id()}:{self._probes}")

    def _on_inquiry_result(self, now: float) -> None:
        """Take in the hub's HTTPS answer about taking messages; its own clock says when the day is over."""
        result = self._inquiry.result()
        if result is None:
            return
        if result.quota:
            logger.bind(event=LogEvent.QUOTA_USED_UP).warning(
                "the hub's daily quota is used up: waiting until 00:00 UTC"
            )
            self._link.record_quota_used_up(now, result.server_s or self._clock.wall_s(), random.random())
        elif result.accepted:
            self._meter.inquired()
            self._link.record_quota_renewed()

    def _carry_out(self, action: Action) -> None:
        credentials = self._credentials
        match action:
            case Open(segment_bytes, stretch) if credentials is not None:
                if self._source.set_destination(credentials.destination):
                    self._control = None  # a message sent to one hub or device must not be sent to another
                number = self._hub.open(credentials, segment_bytes, stretch)
                logger.debug("client {} connects to {}", number, credentials.hub_host)
            case Discard(reason):
                logger.info("client discarded: {}", reason)  # the log line for any loss, also our watchdog's
                self._hub.discard()
            case Send((id, piece) as tag) if credentials is not None:
                telemetry = self._probe() if id == PROBE else self._source.piece(id, piece)
                self._meter.sent(action, telemetry, credentials.device_id)
                self._hub.send(tag, telemetry)
            case StartUpload(id):
                self._upload(id)
            case ReportSasRefused():
                self._hints.publish(SAS_REFUSED)
            case InquireQuota():
                self._inquire()
            case _:
                raise AssertionError(action)

    def _upload(self, id: int) -> None:
        now, draw = self._clock.boot_s(), random.random()
        try:
            parcel = self._source.file(id)
        except (Retryable, StoreDamaged) as exc:
            self._delivery.upload_failed(id, str(exc), now, draw, final=False)
            return
        if parcel is None:
            self._delivery.upload_failed(id, "the store has dropped it", now, draw, final=True)
        elif self._credentials is None:
            self._delivery.upload_failed(id, "no credentials", now, draw, final=False)
        else:
            urgent = self._link.is_urgent(self._delivery.queue.messages[id].candidate.priority)
            self._files.begin(id, parcel, self._credentials, urgent=urgent)

    def _probe(self) -> Telemetry:
        """A control: the message delivered last, once more, else a message without content."""
        self._probes += 1
        return self._control or probe(f"{self._clock.boot_id()}:{self._probes}")

    def _settle(self, settled: Settled) -> None:
        """Report to ingest; the messages that it removes are no longer needed here."""
        for id, reason in settled.quarantined:
            logger.bind(event=LogEvent.MESSAGE_SET_ASIDE).warning(
                "message {} goes to quarantine: {}", id, reason
            )
        if settled.delivered:
            self._control = self._source.as_control(settled.delivered[-1]) or self._control
        for id in settled.ids():
            if self._source.forget(id):
                self._files.forget(id, self._credentials)
        now = self._clock.boot_s()
        self._times.settled(settled, now)
        self._figures.settled(settled, now)
        self._reporter.report(settled, self._source.store)

    def _record(self) -> dict[str, object]:
        """The figures of the status file."""
        return {
            "device": self._credentials.device_id if self._credentials else None,
            "tuned": self._hub.tuned(),
            **({"alarm": self._unknown} if self._unknown else {}),
            **self._figures.record(self._clock.boot_s(), self._source.store),
            **self._times.record(),
            **self._meter.record(),
            "over_budget": self._budget.over,
            **self._management.record(self._clock.boot_s()),
        }


def _identity(config: Config) -> IdentityReader:
    return IdentityReader(config.layout, wiring.vault(config.settings), IDENTITY_BUSY_S)
