"""upload: from the store to the hub. `core.delivery` decides, `adapters.hub` holds the line, ingest deletes.

    read what is stored -> seal -> offer -> steps -> the line -> events -> settled -> report to ingest

A row leaves the store only by its own PUBACK, and it is ingest who removes it. What the loop knows besides
can be lost at any instant: it begins again with what the store still has.
"""

from __future__ import annotations

import faulthandler
import random
from dataclasses import replace

from loguru import logger

from runtime.adapters.bus import IDENTITY_CHANGED, SAS_REFUSED, STORED, DeliveryReporter, Hints
from runtime.adapters.clock import SystemClock
from runtime.adapters.files import BlockSent, FileOptions, Files, Uploaded, UploadFailed
from runtime.adapters.hub import Hub, HubOptions, proxy_options
from runtime.adapters.identity import IdentityReader
from runtime.adapters.link_usage import LinkUsage
from runtime.adapters.process import Stop
from runtime.adapters.status import StatusFile
from runtime.adapters.store_errors import StoreDamaged
from runtime.adapters.store_lanes import LaneReader
from runtime.config import Config
from runtime.core.credentials import HubCredentials
from runtime.core.delivery import Delivery, Limits
from runtime.core.envelope import (
    Compression,
    FileParcel,
    Packing,
    Parcel,
    Telemetry,
    Unsendable,
    has_brotli,
    probe,
    seal,
)
from runtime.core.expiry import expires_s
from runtime.core.line import Lost
from runtime.core.link import Link, Terms, parse_hours
from runtime.core.message import CorruptRow, StoredMessage, StreamName
from runtime.core.moment import Moment
from runtime.core.pacing import Pace, Window
from runtime.core.reading import Lane, Level, Query, Reading
from runtime.core.settlement import Settled
from runtime.core.steps import PROBE, Discard, Offer, Open, Send, Step, TellRefused, Upload
from runtime.errors import NeedsHuman, Retryable
from runtime.settings import Settings

LOOK_EVERY_S = 2.0
"""Hints may be lost: then the disk is asked so often."""
TURN_S = 1.0
"""The loop comes round at least so often, to say that it lives."""
HUNG_S = 60.0
"""A turn that lasts longer ends the process, with the stacks of its threads in the log."""
IN_HAND = 4_000
IN_HAND_BYTES = 4_194_304
"""Most messages in hand, and their bytes: a single larger one aside."""
PAGE_BYTES = 1_048_576
MOST_UNCONFIRMED = 20_000
"""More deliveries that ingest has not confirmed than this: wait for ingest, else memory grows."""
WITNESS_BYTES = 16_384
"""A delivered message up to this size is kept, to be sent once more as a control."""


def run(config: Config, stop: Stop) -> None:
    """Until asked to stop."""
    uploader = Uploader(config, stop)
    uploader.look()
    while not stop.requested():
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        uploader.turn()
    faulthandler.cancel_dump_traceback_later()


class Uploader:
    """One turn after another."""

    def __init__(self, config: Config, stop: Stop) -> None:
        layout, settings = config.layout, config.settings.upload
        self._stop = stop
        self._clock = SystemClock()
        self._hints = Hints(layout, "upload", ("ingest", "provisioning", "refresh"))
        self._status = StatusFile(layout.status_file("upload"), "upload")
        self._identity = IdentityReader(layout)
        self._reporter = DeliveryReporter(layout)
        ca_file = settings.ca_file or config.settings.platform.ca_file
        proxy = settings.proxy.reveal() if settings.proxy else None
        self._hub = Hub(HubOptions(ca_file, settings.keepalive_s, settings.websockets, proxy_options(proxy)))
        self._files = Files(
            FileOptions(
                journal=layout.state / "uploads",
                spool=layout.spool,
                ca_file=ca_file,
                https_port=settings.https_port,
                block_bytes=settings.block_bytes,
                bytes_per_s=config.settings.link.bytes_per_s,
                proxy=proxy,
            )
        )
        self._usage = LinkUsage(layout)
        self._link = Link(_terms(config.settings), self._usage.load())
        limits = Limits(
            settings.connect_timeout_s, settings.ack_timeout_s, settings.retry_max_s, settings.files
        )
        self._delivery = Delivery(Pace(Window(settings.window), self._link), limits)
        self._intake = Intake(config, self._delivery, self._clock)
        self._credentials: HubCredentials | None = None
        self._witness: Telemetry | None = None
        self._probes = 0
        self._look_at_s = 0.0
        self._counts = {"delivered": 0, "quarantined": 0, "dropped": 0}

    def turn(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        self._wait()
        now = self._clock.boot_s()
        for event in self._hub.take():
            if isinstance(event, Lost):
                logger.info("client {} lost, {}: {}", event.client, event.cause.value, event.reason)
            self._delivery.report(event, now, random.random())
        self._hear_files(now)
        self._delivery.confirmed(self._reporter.confirmed())
        if self._delivery.unconfirmed < MOST_UNCONFIRMED:
            self._read()
        for step in self._delivery.steps(self._clock.boot_s(), random.random()):
            self._do(step)
        settled = self._delivery.take_settled()
        if settled:
            self._settle(settled)
        self._status.progress(self._figures())

    def look(self) -> None:
        """Read what others may have written without our hearing of it."""
        now = self._clock.boot_s()
        self._look_at_s = now + LOOK_EVERY_S
        self._intake.hungry = True
        self._link.tell_time(self._clock.wall_s())
        self._link.off = self._usage.switched_off()
        self._usage.save(self._link.usage)
        self._files.hold(self._link.shut(now) is not None or self._link.barred() is not None)
        try:
            self._credentials = self._identity.hub_credentials()
        except (Retryable, NeedsHuman) as exc:
            logger.warning("identity: {}", exc)
        self._delivery.credentials(self._credentials.generation if self._credentials else None, now)

    def _wait(self) -> None:
        now = self._clock.boot_s()
        wait_s = min(TURN_S, self._delivery.wait_s(now), max(0.0, self._look_at_s - now))
        heard = self._hints.wait(wait_s, also=[self._stop, self._hub, self._files, self._reporter.socket])
        if STORED in heard:
            self._intake.hungry = True
        if IDENTITY_CHANGED in heard or self._clock.boot_s() >= self._look_at_s:
            self.look()

    def _read(self) -> None:
        try:
            self._intake.read()
        except StoreDamaged as exc:
            logger.error("the store is damaged, ingest has to salvage it: {}", exc)
            self._reporter.report_damage(str(exc))
            self._stop.wait(TURN_S)
        except Retryable as exc:
            logger.debug("store: {}", exc)

    def _hear_files(self, now: float) -> None:
        for event in self._files.take():
            match event:
                case Uploaded(id, blob_name):
                    self._intake.link(id, blob_name)
                    self._delivery.uploaded(id)
                case BlockSent(_, size_bytes):
                    self._link.uploaded(size_bytes)
                case UploadFailed(id, reason, for_good, quota, retry_after_s):
                    logger.warning("file upload of message {}: {}", id, reason)
                    if quota:
                        self._link.park(now, self._clock.wall_s())
                    self._delivery.upload_failed(
                        id, reason, now, random.random(), for_good=for_good, retry_after_s=retry_after_s
                    )

    def _do(self, step: Step) -> None:
        credentials = self._credentials
        match step:
            case Open() if credentials is not None:
                number = self._hub.open(credentials)
                logger.debug("client {} connects to {}", number, credentials.hub_host)
            case Discard(reason):
                logger.debug("client discarded: {}", reason)
                self._hub.discard()
            case Send((id, piece) as tag):
                self._hub.send(tag, self._probe() if id == PROBE else self._intake.piece(id, piece))
            case Upload(id):
                self._upload(id)
            case TellRefused():
                self._hints.tell(SAS_REFUSED)
            case _:
                raise AssertionError(step)

    def _upload(self, id: int) -> None:
        now, draw = self._clock.boot_s(), random.random()
        try:
            parcel = self._intake.file(id)
        except (Retryable, StoreDamaged) as exc:
            self._delivery.upload_failed(id, str(exc), now, draw, for_good=False)
            return
        if parcel is None:
            self._delivery.upload_failed(id, "the store has dropped it", now, draw, for_good=True)
        elif self._credentials is None:
            self._delivery.upload_failed(id, "no credentials", now, draw, for_good=False)
        else:
            self._files.begin(id, parcel, self._credentials)

    def _probe(self) -> Telemetry:
        """A control: what was delivered last, once more, else a message that says nothing."""
        self._probes += 1
        return self._witness or probe(f"{self._clock.boot_id()}:{self._probes}")

    def _settle(self, settled: Settled) -> None:
        """Tell ingest; what it removes is not needed here any more."""
        for id, reason in settled.quarantined:
            logger.warning("message {} goes to quarantine: {}", id, reason)
        if settled.delivered:
            self._witness = self._intake.witness(settled.delivered[-1]) or self._witness
        for id in settled.ids():
            if self._intake.forget(id):
                self._files.forget(id)
        for name in self._counts:
            self._counts[name] += len(getattr(settled, name))
        self._reporter.report(settled)

    def _figures(self) -> dict[str, object]:
        delivery, now = self._delivery, self._clock.boot_s()
        return {
            "state": delivery.phase.value,
            "barred": self._link.shut(now) or self._link.barred(),
            "device": self._credentials.device_id if self._credentials else None,
            "in_flight": delivery.in_flight,
            "window": delivery.window,
            "in_hand": len(delivery.hand.messages),
            "uploading": delivery.uploading,
            "unconfirmed": delivery.unconfirmed,
            "suspects": len(delivery.suspects),
            "losses": delivery.losses,
            "last_loss": delivery.last_loss,
            "sent_today": self._link.usage.day_messages,
            "bytes_today": self._link.usage.day_bytes,
            **self._counts,
        }


class Intake:
    """From rows to offers: reads what `Reading` asks for, seals it, and keeps that until it is settled."""

    def __init__(self, config: Config, delivery: Delivery, clock: SystemClock) -> None:
        self.hungry = True
        self._settings = config.settings
        self._delivery = delivery
        self._clock = clock
        self._store = LaneReader(config.layout.messages_db)
        self._sealed: dict[int, Parcel | FileParcel] = {}
        self._packings: dict[StreamName, Packing] = {}
        self._reading = Reading(self._fresh_first, config.settings.upload.backlog_per_s)
        if not has_brotli() and any(s.compression != "none" for s in config.settings.stream.values()):
            logger.warning("a stream asks for compression, but the extra [compress] is not installed")

    def read(self) -> None:
        """Take on messages as far as there is room in hand."""
        hand, now = self._delivery.hand, self._clock.boot_s()
        if len(hand.messages) >= IN_HAND or hand.bytes >= IN_HAND_BYTES:
            return
        if query := self._reading.resume(self._level, now):
            self._answer(query)
        if self.hungry:
            newest = self._store.newest()
            stored = self._store.stored() if newest > self._reading.front else set()
            query = self._reading.advance(newest, stored)
            if query:
                self._answer(query)
            self.hungry = query is not None

    def piece(self, id: int, number: int) -> Telemetry:
        """A piece of a message in hand."""
        sealed = self._sealed[id]
        assert isinstance(sealed, Parcel), "its file is not uploaded yet"
        return sealed.open(number)

    def file(self, id: int) -> FileParcel | None:
        """A message in hand whose payload goes as a file, read anew: only now is it in memory.

        None where the store has dropped it meanwhile.
        """
        found, _ = self._store.find(id - 1, id, 1, PAGE_BYTES)
        message = found[0] if found else None
        sealed = seal(message, self._packing(message.name)) if isinstance(message, StoredMessage) else None
        return sealed if isinstance(sealed, FileParcel) else None

    def link(self, id: int, blob_name: str) -> None:
        """Its file is uploaded: from now on it is the telemetry that says so."""
        sealed = self._sealed.get(id)
        if isinstance(sealed, FileParcel):
            link = sealed.link(blob_name)
            self._sealed[id] = Parcel(1, link.wire_bytes, lambda _: link, by_file=True)

    def witness(self, id: int) -> Telemetry | None:
        """A message that can be sent once more to see whether the hub takes any."""
        sealed = self._sealed.get(id)
        small = isinstance(sealed, Parcel) and sealed.pieces == 1 and sealed.wire_bytes <= WITNESS_BYTES
        return sealed.open(0) if isinstance(sealed, Parcel) and small else None

    def forget(self, id: int) -> bool:
        """It is settled. Whether a file upload belonged to it."""
        sealed = self._sealed.pop(id, None)
        return isinstance(sealed, FileParcel) or (sealed is not None and sealed.by_file)

    def _answer(self, query: Query) -> None:
        found, complete = self._store.find(
            query.after, query.up_to, query.limit, PAGE_BYTES, query.only, query.without
        )
        now = Moment.by(self._clock)
        for message in found:
            if isinstance(message, CorruptRow):
                self._delivery.refuse(message.id, message.reason)
                continue
            lane = self._reading.lane(query, message.name)
            batch = message.batch_id is not None
            if self._reading.take(query, message.id, message.name, batch, self._level(lane)):
                self._take_on(message, lane, now)
        self._reading.done(query, found[-1].id if found else None, complete)

    def _take_on(self, message: StoredMessage, lane: Lane, now: Moment) -> None:
        if message.id in self._sealed:
            return
        sealed = seal(message, self._packing(message.name))
        if isinstance(sealed, Unsendable):
            self._delivery.refuse(message.id, sealed.reason)
            return
        file = isinstance(sealed, FileParcel)
        if isinstance(sealed, FileParcel):
            sealed = replace(sealed, payload=b"")  # many may wait: they must not fill the memory
        offer = Offer(
            message.id,
            lane,
            sealed.pieces,
            sealed.wire_bytes,
            message.priority,
            expires_s(message, now),
            file,
        )
        if self._delivery.offer(offer):
            self._sealed[message.id] = sealed

    def _level(self, lane: Lane) -> Level:
        stream = self._delivery.hand.stream(lane)
        return Level(len(stream.waiting), stream.bytes)

    def _packing(self, name: StreamName) -> Packing:
        if name not in self._packings:
            wanted = self._settings.of_stream(name.group, name.stream)
            upload = self._settings.upload
            self._packings[name] = Packing(
                Compression[wanted.compression.upper()],
                wanted.chunk_bytes,
                upload.file_from_units,
                upload.site_id,
            )
        return self._packings[name]

    def _fresh_first(self, name: StreamName) -> bool:
        return self._settings.of_stream(name.group, name.stream).drain == "fresh-first"


def _terms(settings: Settings) -> Terms:
    link = settings.link
    return Terms(
        link.messages_per_s,
        link.bytes_per_s,
        link.messages_per_day,
        link.bytes_per_day,
        link.messages_per_month,
        link.bytes_per_month,
        parse_hours(link.hours),
        link.urgent_priority,
    )
