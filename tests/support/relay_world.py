"""Upload's connection with telemetry, its relay for management, and management's end of their line.

One thread takes their turns in the order of the worker's loop; the hub is the stand-in, reached by the real
azure-iot-device.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from runtime.adapters.bus.hub_line import LineToUpload
from runtime.adapters.hub.mqtt_client import HubConnection, HubOptions
from runtime.adapters.process.clock import SystemClock
from runtime.core.delivery.actions import PROBE, Candidate, Discard, Open, Send
from runtime.core.delivery.connection import ConnectionState, DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry, probe
from runtime.core.delivery.events import ConnectionEvent, Lost
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.window import CongestionWindow
from runtime.core.identity.credentials import HubCredentials
from runtime.core.management.hub_channels import HubChannel
from runtime.core.management.hub_line import FromUpload, HubMessage, HubUp, PublishOutcome
from runtime.core.secret import Secret
from runtime.workers.upload_management import ManagementRelay
from runtime.workers.upload_meter import UnitMeter
from tests.support.harness import Home, eventually
from tests.support.hub_in_thread import DEVICE, HubInThread

LIMITS = DeliveryLimits(connect_s=10, ack_s=10, retry_max_s=0.05, prompt_s=10)


class Seconds:
    """The machine's time, which a test may put forward."""

    def __init__(self) -> None:
        self.more_s = 0.0

    def __call__(self) -> float:
        return SystemClock().boot_s() + self.more_s


class RelayWorld:
    """Begins with a process of upload and one of management that wants all channels."""

    def __init__(self, hub: HubInThread, home: Home, *, management: bool = True, on: bool = True) -> None:
        self.hub, self.home = hub, home
        self.now = Seconds()
        self.messages: list[HubMessage] = []
        self.outcomes: list[PublishOutcome] = []
        self.news: list[FromUpload] = []
        self.losses: list[Lost] = []
        self.stores = True
        """False: management receives and commits nothing."""
        self.telemetry = 0
        self.on = on
        self.management: LineToUpload | None = None
        self.start_upload()
        if management:
            self.start_management()

    # -- processes -----------------------------------------------------------------------------------

    def start_upload(self) -> None:
        self.connection = HubConnection(HubOptions(ca_file=self.hub.ca_file))
        self.link = LinkBudget()
        self.delivery = Delivery(CongestionWindow(64), self.link, LIMITS)
        self.delivery.set_credentials(1, self.now())
        self.relay = ManagementRelay(
            self.home.layout,
            self.connection,
            self.delivery,
            self.link,
            UnitMeter(self.link, self.delivery),
            self.now(),
        )
        self.alive = True
        self.relay.switch(DEVICE, self.now(), on=self.on)

    def kill_upload(self) -> None:
        """Its end as the hub sees it: the connection breaks, and nothing is said any more."""
        self.alive = False
        self.connection.discard()
        eventually(lambda: any(type(e).__name__ == "Closed" for e in self.connection.drain()))
        for source in self.relay.sources:
            source.close(0)  # type: ignore[attr-defined]  # a socket of zmq

    def start_management(self, channels: frozenset[HubChannel] = frozenset(HubChannel)) -> None:
        self.management = LineToUpload(self.home.layout)
        self.management.end.listen(channels)

    def kill_management(self) -> None:
        assert self.management is not None
        self.management.close()
        self.management = None

    def close(self) -> None:
        if self.management is not None:
            self.kill_management()
        if self.alive:
            self.kill_upload()

    # -- turns ---------------------------------------------------------------------------------------

    def turn(self) -> None:
        now = self.now()
        for event in self.connection.drain():
            self._on_event(event, now)
        for action in self.delivery.actions(now, random.random()):
            match action:
                case Open():
                    credentials = HubCredentials(
                        self.hub.address, DEVICE, generation=1, sas=Secret(self.hub.sas())
                    )
                    self.connection.open(credentials)
                case Discard():
                    self.connection.discard()
                case Send((id, _) as tag):
                    telemetry = probe("p") if id == PROBE else Telemetry(f"m-{id}", b"%d" % id)
                    self.connection.send(tag, telemetry)
        self.relay.turn(now, random.random(), self.relay.sources)
        self.delivery.confirmed(self.delivery.drain_settled().ids())
        self._management_turn(now)

    def _on_event(self, event: ConnectionEvent, now: float) -> None:
        excused = self.relay.excuses(event)
        if isinstance(event, Lost):
            self.losses.append(event)
        if not self.relay.is_for_management(event):
            self.delivery.on_event(event, now, 0.5, excused=excused)
        self.relay.on_event(event, DEVICE, now)

    def _management_turn(self, now: float) -> None:
        if self.management is None:
            return
        for said in self.management.receive(now):
            self.news.append(said)
            if isinstance(said, HubMessage):
                self.messages.append(said)
                if self.stores:
                    self.management.end.stored(said.number)
            elif isinstance(said, PublishOutcome):
                self.outcomes.append(said)
        self.management.send(now)

    def until(self, fact: Callable[[], Any], what: str = "", timeout_s: float = 20.0) -> Any:
        def met() -> Any:
            self.turn()
            return fact()

        return eventually(met, timeout_s, what)

    # -- what a test does and sees -------------------------------------------------------------------

    def send(self, count: int) -> None:
        """So many messages of telemetry, in the store's order."""
        for _ in range(count):
            self.telemetry += 1
            assert self.delivery.offer(Candidate(self.telemetry, "s", wire_bytes=100), self.now())

    def delivered(self) -> bool:
        """True if all telemetry has its PUBACK."""
        return not self.delivery.queue.messages

    @property
    def is_up(self) -> bool:
        return self.delivery.connection.state is ConnectionState.UP

    @property
    def channels(self) -> frozenset[HubChannel]:
        """Those that management knows as granted."""
        assert self.management is not None
        state = self.management.end.state
        return state.channels if isinstance(state, HubUp) else frozenset()

    def listening(self) -> bool:
        return self.channels == frozenset(HubChannel)

    def listen(self) -> None:
        """Have telemetry acknowledged, which the subscriptions wait for, and all channels granted."""
        self.send(1)
        self.until(self.listening)

    def publish(self, topic: str, payload: bytes = b"") -> int:
        assert self.management is not None
        number = self.management.end.publish(topic, payload)
        assert number is not None
        return number
