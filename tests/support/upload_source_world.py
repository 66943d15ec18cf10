"""The half of upload that faces the store, over a real store: the test is the hub, ingest and the clock."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.delivery.actions import Discard, Open, Send, StartUpload, Tag
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.events import Acked, Closed, Connected
from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy
from runtime.core.delivery.window import CongestionWindow
from runtime.core.ingest.message_fields import PLAIN, describe
from runtime.core.ingest.protocol import Put
from runtime.core.message import Kind, StoredMessage
from runtime.core.settlement import Settled
from runtime.workers.upload_source import UploadSource
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put


class Device:
    """Nothing happens but in `turn`."""

    def __init__(
        self, folder: Path, toml: str = "", *, window: int = 64, terms: LinkPolicy | None = None
    ) -> None:
        self.home = Home(folder, toml)
        self.clock = ObedientClock()
        self.store = MessageStore(self.home.layout.messages_db, self.clock)
        self.link = LinkBudget(terms)
        self.delivery = Delivery(CongestionWindow(window), self.link, DeliveryLimits())
        self.delivery.set_credentials(1, self.clock.boot)
        self.source = UploadSource(self.home.config, self.delivery, self.clock)
        self.client = 0
        self.in_flight: list[Tag] = []
        self.sent: list[int] = []
        self.telemetry: list[Telemetry] = []
        self.uploads: list[int] = []
        self.aside: dict[int, str] = {}
        self.answers = True
        """Whether the hub acknowledges."""

    def put(self, stream: str, *payloads: bytes, **fields: Any) -> None:
        keep(self.store, put(payloads, stream=stream, **fields))

    def complete(self, stream: str, batch: str) -> None:
        description = describe({"stream": stream, "batch_id": batch}, PLAIN)
        keep(self.store, Put(Kind.COMPLETE_BATCH, [description], [b""], None, 0))

    def stored(self, stream: str) -> list[StoredMessage]:
        with contextlib.closing(StoreReader(self.home.layout.messages_db)) as reader:
            found = reader.after(0, 1_000_000, 1 << 40)
        return [m for m in found if isinstance(m, StoredMessage) and m.stream == stream]

    def turn(self, *, sends: bool = True) -> bool:
        """One turn of upload and one of ingest. Whether it wants to look further at once."""
        self.clock.boot += 0.01
        self.source.look_for_new = True
        further = self.source.read()
        actions = self.delivery.actions(self.clock.boot, 0.5) if sends else []
        self.source.remember(self.delivery.drain_reached(), actions)
        for step in actions:
            match step:
                case Open():
                    self.client += 1
                    self.delivery.on_event(Connected(self.client), self.clock.boot, 0.5)
                case Discard():
                    self.in_flight.clear()
                    self.delivery.on_event(Closed(self.client), self.clock.boot, 0.5)
                case Send(tag):
                    self.telemetry.append(self.source.piece(*tag))
                    self.in_flight.append(tag)
                    self.sent.append(tag[0])
                case StartUpload(id):
                    self.uploads.append(id)
        if self.answers:
            for tag in self.in_flight:
                self.delivery.on_event(Acked(self.client, tag), self.clock.boot, 0.5)
            self.in_flight.clear()
        self.settle(self.delivery.drain_settled())
        return further

    def settle(self, settled: Settled) -> None:
        if not settled:
            return
        self.aside |= dict(settled.quarantined)
        self.store.commit(None, settled)
        for id in settled.ids():
            self.source.forget(id)
        self.source.confirmed(self.delivery.confirmed(settled.ids()))

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def backlog(self) -> int:
        return self.store.backlog().messages

    def close(self) -> None:
        self.source._store.close()
        self.store.close()
