"""upload: from the store to the hub. `core.delivery` decides, `adapters.hub` holds the line, ingest deletes.

    read what is stored -> seal -> offer -> steps -> the line -> events -> settled -> report to ingest

A row leaves the store only by its own PUBACK, and it is ingest who removes it. What the loop knows besides
can be lost at any instant: it begins again with what the store still has.
"""

from __future__ import annotations

import faulthandler
import random

from loguru import logger

from runtime.adapters.bus import IDENTITY_CHANGED, SAS_REFUSED, DeliveryReporter, Hints
from runtime.adapters.clock import SystemClock
from runtime.adapters.hub import Hub, HubOptions
from runtime.adapters.identity import IdentityReader
from runtime.adapters.process import Stop
from runtime.adapters.status import StatusFile
from runtime.adapters.store_errors import StoreDamaged
from runtime.adapters.store_reader import StoreReader
from runtime.config import Config
from runtime.core.credentials import HubCredentials
from runtime.core.delivery import Delivery, Limits
from runtime.core.envelope import FileParcel, Packing, Parcel, Telemetry, Unsendable, probe, seal
from runtime.core.line import Lost
from runtime.core.message import CorruptRow, StoredMessage
from runtime.core.pacing import Pace, Window
from runtime.core.steps import PROBE, Discard, Offer, Open, Send, Step, TellRefused
from runtime.errors import NeedsHuman, Retryable

LOOK_EVERY_S = 5.0
"""Hints may be lost: then the disk is asked so often."""
TURN_S = 1.0
"""The loop comes round at least so often, to say that it lives."""
HUNG_S = 60.0
"""A turn that lasts longer ends the process, with the stacks of its threads in the log."""
LOOKAHEAD = 1_000
"""Most messages in hand."""
LOOKAHEAD_BYTES = 2_097_152
MOST_UNCONFIRMED = 50_000
"""More than so many deliveries that ingest has not confirmed: wait for ingest, else memory grows."""


def run(config: Config, stop: Stop) -> None:
    """Until asked to stop."""
    upload = Uploader(config, stop)
    upload.look()
    while not stop.requested():
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        upload.turn()


class Uploader:
    """One turn after another."""

    def __init__(self, config: Config, stop: Stop) -> None:
        self._stop = stop
        layout, settings = config.layout, config.settings.upload
        self._config = config
        self._clock = SystemClock()
        self._hints = Hints(layout, "upload", ("ingest", "provisioning", "refresh"))
        self._status = StatusFile(layout.status_file("upload"), "upload")
        self._store = StoreReader(layout.messages_db)
        self._identity = IdentityReader(layout)
        self._reporter = DeliveryReporter(layout)
        self._hub = Hub(HubOptions(ca_file=settings.ca_file or config.settings.platform.ca_file))
        limits = Limits(settings.connect_timeout_s, settings.ack_timeout_s, settings.retry_max_s)
        self._delivery = Delivery(Pace(Window(settings.window)), limits)
        self._credentials: HubCredentials | None = None
        self._parcels: dict[int, Parcel] = {}
        self._witness: Telemetry | None = None
        self._probes = 0
        self._read_up_to = 0
        self._look_at_s = 0.0
        self._counts = {"delivered": 0, "quarantined": 0, "dropped": 0}

    def turn(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        now = self._clock.boot_s()
        wait_s = min(TURN_S, self._delivery.wait_s(now), max(0.0, self._look_at_s - now))
        heard = self._hints.wait(wait_s, also=[self._stop, self._hub, self._reporter.socket])
        now = self._clock.boot_s()
        if IDENTITY_CHANGED in heard or now >= self._look_at_s:
            self.look()
        for event in self._hub.take():
            if isinstance(event, Lost):
                logger.info("client {} lost, {}: {}", event.client, event.cause.value, event.reason)
            self._delivery.report(event, now, random.random())
        self._delivery.confirmed(self._reporter.confirmed())
        self._read()
        for step in self._delivery.steps(self._clock.boot_s(), random.random()):
            self._do(step)
        self._settle()
        self._status.progress(self._figures())

    def look(self) -> None:
        """Read what others may have written without our hearing of it."""
        now = self._clock.boot_s()
        self._look_at_s = now + LOOK_EVERY_S
        try:
            self._credentials = self._identity.hub_credentials()
        except (Retryable, NeedsHuman) as exc:
            logger.warning("identity: {}", exc)
        self._delivery.credentials(self._credentials.generation if self._credentials else None, now)

    def _read(self) -> None:
        """Take on what is stored, in its order, as far as there is room in hand."""
        room = LOOKAHEAD - len(self._delivery.hand.messages)
        room_bytes = LOOKAHEAD_BYTES - self._delivery.hand.bytes
        if room < LOOKAHEAD // 4 or room_bytes <= 0 or self._delivery.unconfirmed > MOST_UNCONFIRMED:
            return
        try:
            found = self._store.after(self._read_up_to, room, room_bytes)
        except StoreDamaged as exc:
            logger.error("the store is damaged, ingest has to salvage it: {}", exc)
            self._reporter.report_damage(str(exc))
            self._store.close()
            self._stop.wait(TURN_S)
            return
        except Retryable as exc:
            logger.debug("store: {}", exc)
            return
        for message in found:
            self._read_up_to = message.id
            self._take_on(message)

    def _take_on(self, message: StoredMessage | CorruptRow) -> None:
        if isinstance(message, CorruptRow):
            self._delivery.refuse(message.id, message.reason)
            return
        sealed = seal(message, Packing())
        match sealed:
            case Parcel():
                self._parcels[message.id] = sealed
                offer = Offer(message.id, message.name, sealed.pieces, sealed.wire_bytes, message.priority)
                self._delivery.offer(offer)
            case FileParcel():
                self._delivery.refuse(message.id, "it is larger than the hub allows")
            case Unsendable(reason):
                self._delivery.refuse(message.id, reason)

    def _do(self, step: Step) -> None:
        match step:
            case Open() if self._credentials is not None:
                number = self._hub.open(self._credentials)
                logger.debug("client {} connects to {}", number, self._credentials.hub_host)
            case Discard(reason):
                logger.debug("client discarded: {}", reason)
                self._hub.discard()
            case Send((id, piece) as tag):
                self._hub.send(tag, self._probe() if id == PROBE else self._parcels[id].open(piece))
            case TellRefused():
                self._hints.tell(SAS_REFUSED)
            case _:
                raise AssertionError(step)

    def _probe(self) -> Telemetry:
        """A control: what was delivered last, once more, else a message that says nothing."""
        self._probes += 1
        return self._witness or probe(f"{self._clock.boot_id()}:{self._probes}")

    def _settle(self) -> None:
        settled = self._delivery.take_settled()
        if not settled:
            return
        for id, reason in settled.quarantined:
            logger.warning("message {} goes to quarantine: {}", id, reason)
        if settled.delivered and (last := self._parcels.get(settled.delivered[-1])) and last.pieces == 1:
            self._witness = last.open(0)
        for id in settled.ids():
            self._parcels.pop(id, None)
        for name in self._counts:
            self._counts[name] += len(getattr(settled, name))
        self._reporter.report(settled)

    def _figures(self) -> dict[str, object]:
        delivery = self._delivery
        return {
            "state": delivery.phase.value,
            "device": self._credentials.device_id if self._credentials else None,
            "in_flight": delivery.in_flight,
            "window": delivery.window,
            "in_hand": len(delivery.hand.messages),
            "unconfirmed": delivery.unconfirmed,
            "suspects": len(delivery.suspects),
            "losses": delivery.losses,
            "last_loss": delivery.last_loss,
            **self._counts,
        }
