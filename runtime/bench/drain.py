"""A fleet that drains into one throttling hub: N of our own delivery machines, nothing else is ours.

All devices come back at once after an outage, each with a backlog. The hub serves so many sends a second,
one after the other in the order of their arrival, and answers none of them sooner. A send that a client gave
up and sends again is metered twice where the hub *keeps* what it has taken in; where it *loses* that with the
connection, only the time is lost. Documentation says neither; both are measured. Time is simulated.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from runtime.bench import FigureRow
from runtime.core.delivery.actions import Action, Candidate, Discard, Open, Send, Tag
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.events import Acked, Carried, Closed, Connected
from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy
from runtime.core.delivery.packing import PackFormat, PackPart, PackRule
from runtime.core.delivery.window import CongestionWindow

LINE_S = 0.05
"""Round trip of the line alone."""
MESSAGE_BYTES = 200
MOST_PAID, MOST_LATE = 1.15, 1.3
"""The targets, for messages that go alone."""
MOST_PACKED, MOST_PACKED_LATE = 0.1, 0.1
"""The targets in packs: 18 messages of 200 B fill a unit, and a device's last one need not be full."""
FAIR_SHARE = 0.95
MOST_TIMES_IDEAL = 4.0
"""A fleet that needs longer is not watched to its end."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """A fleet, and the hub that it drains into."""

    devices: int
    sends_per_s: float
    messages: int
    """The backlog of each device."""
    keeps: bool
    """True where the hub serves what it has taken in though the connection is gone."""
    share: float = 0.0
    """`link.sends_per_s` of all devices together, as a part of what the hub serves; 0: not set."""
    window: int = 0
    """`upload.window` of each device; 0 adapts by itself."""
    pack: PackRule | None = None
    """The rule by which each device packs its messages; None: each goes alone."""

    @property
    def ideal_s(self) -> float:
        """Time that the hub needs for each message once."""
        return self.total / self.sends_per_s

    @property
    def total(self) -> int:
        """Messages of all devices."""
        return self.devices * self.messages


@dataclass(slots=True)
class Drained:
    """The outcome."""

    level_s: float
    """Time until the last message was acknowledged, or until the end of what is simulated."""
    served: int
    """Sends that the hub served."""
    units: int
    """What it bills for them."""
    losses: int
    """Connections that were given up."""
    left: int
    """Messages that were not acknowledged."""


@dataclass(frozen=True, slots=True)
class _QueuedSend:
    """A send that the hub has taken in."""

    device: _Device
    client: int
    tag: Tag
    units: int

    def is_wanted(self) -> bool:
        """True if the connection that it came on still stands."""
        return self.device.has(self.client)

    def acknowledge(self) -> None:
        """Its PUBACK arrives."""
        self.device.acked(self.client, self.tag)


class _Device:
    """One device: its delivery machine and its connection."""

    def __init__(self, fleet: _Fleet, throttle: Throttle) -> None:
        self._fleet = fleet
        self._client = 0
        self._up = False
        self._due_s = float("inf")
        policy = LinkPolicy(sends_per_s=throttle.share * throttle.sends_per_s / throttle.devices)
        self.delivery = Delivery(CongestionWindow(throttle.window), LinkBudget(policy), DeliveryLimits())
        self.delivery.set_credentials(1, 0.0)
        for id in range(1, throttle.messages + 1):
            message = self.delivery.offer(Candidate(id, "s", wire_bytes=MESSAGE_BYTES), 0.0)
            if throttle.pack is not None and message is not None:
                message.part = PackPart(throttle.pack, Telemetry(f"p:b:{id}", b"x" * MESSAGE_BYTES, ()))
                message.stored_s = 0.0

    @property
    def left(self) -> int:
        return len(self.delivery.queue.messages)

    def turn(self) -> None:
        """Carry out what is due, and come again when something may be."""
        now, draw = self._fleet.now, self._fleet.dice.random
        if self._up:  # the hub's TCP takes at once all that is sent
            self.delivery.carried(Carried(self._client, int(now * 1e6), 0, 1448), now)
        for action in self.delivery.actions(now, draw()):
            self._carry_out(action)
        settled = self.delivery.drain_settled()
        if settled:
            self.delivery.confirmed(settled.ids())
            self._fleet.level_s = now
        if self.left:
            self._come_at(now + max(0.001, self.delivery.wait_s(now)))

    def acked(self, client: int, tag: Tag) -> None:
        """The hub's answer has arrived."""
        if client == self._client and self._up:
            self.delivery.on_event(Acked(client, tag), self._fleet.now, 0.5)
            self.turn()

    def has(self, client: int) -> bool:
        """True if this connection still stands."""
        return client == self._client and self._up

    def _come_at(self, at_s: float) -> None:
        if at_s < self._due_s or self._due_s <= self._fleet.now:
            self._due_s = at_s
            self._fleet.later(at_s, self._come)

    def _come(self) -> None:
        if self._due_s <= self._fleet.now:
            self._due_s = float("inf")
            self.turn()

    def _carry_out(self, action: Action) -> None:
        fleet, client = self._fleet, self._client
        match action:
            case Open():
                self._client += 1
                fleet.later(fleet.now + LINE_S, self._connected)
            case Discard():
                self._up = False
                fleet.later(fleet.now + 0.01, lambda: self._event(Closed(client)))
            case Send(tag):
                record = self.delivery.record(tag[0])
                units = record.pack.units if record is not None and record.pack is not None else 1
                fleet.sent(_QueuedSend(self, client, tag, units))

    def _connected(self) -> None:
        self._up = True
        self._event(Connected(self._client))

    def _event(self, event: Connected | Closed) -> None:
        self.delivery.on_event(event, self._fleet.now, 0.5)
        self.turn()


class _Fleet:
    """The devices, the hub, and the events to come."""

    def __init__(self, throttle: Throttle, seed: int) -> None:
        self.now = 0.0
        self.dice = random.Random(seed)
        self.served = self.units = 0
        self.level_s = 0.0
        self._throttle = throttle
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._queue: deque[_QueuedSend] = deque()
        self._busy = False
        self.devices = [_Device(self, throttle) for _ in range(throttle.devices)]

    def later(self, at_s: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, event))

    def sent(self, sent: _QueuedSend) -> None:
        """The hub takes in a send."""
        self._queue.append(sent)
        if not self._busy:
            self._serve()

    def run(self) -> Drained:
        for device in self.devices:
            device.turn()
        until_s = self._throttle.ideal_s * MOST_TIMES_IDEAL
        while self._events and self.now < until_s:
            self.now, _, event = heapq.heappop(self._events)
            event()
        left = sum(device.left for device in self.devices)
        losses = sum(device.delivery.connection.losses for device in self.devices)
        return Drained(self.now if left else self.level_s, self.served, self.units, losses, left)

    def _serve(self) -> None:
        """Serve the next send; those of a connection that is gone cost nothing where the hub loses them."""
        if not self._throttle.keeps:
            while self._queue and not self._queue[0].is_wanted():
                self._queue.popleft()
        self._busy = bool(self._queue)
        if self._busy:
            sent = self._queue.popleft()
            self.later(self.now + 1 / self._throttle.sends_per_s, lambda: self._done(sent))

    def _done(self, sent: _QueuedSend) -> None:
        self.served += 1
        self.units += sent.units
        self.later(self.now + LINE_S, sent.acknowledge)
        self._serve()


def drain(throttle: Throttle, seed: int = 1) -> Drained:
    """Drain a fleet."""
    return _Fleet(throttle, seed).run()


def measure(quick: bool) -> list[FigureRow]:
    """Sends for each message, and the time until all is level, for either kind of hub."""
    small = 10 if quick else 1
    fleets = [(200 // small, 20.0 / small, 60), (300 // small, 9.0 / small, 30)]
    worlds = [Throttle(*fleet, keeps=keeps) for fleet in fleets for keeps in (True, False)]
    shares = [Throttle(*fleet, keeps=True, share=FAIR_SHARE) for fleet in fleets]
    packed = [replace(throttle, pack=PackRule(PackFormat.LINES)) for throttle in worlds]
    return [row for throttle in worlds + shares + packed for row in _rows(throttle)]


def _rows(throttle: Throttle) -> list[FigureRow]:
    drained, total = drain(throttle), throttle.total
    hub = "keeps" if throttle.keeps else "loses"
    fleet = f"{throttle.devices} devices, {throttle.sends_per_s:g} sends/s, hub {hub} what was given up"
    level = drained.level_s / throttle.ideal_s if not drained.left else MOST_TIMES_IDEAL
    if throttle.pack is not None:
        paid, paid_in, most_paid, most_late = drained.units / total, "units", MOST_PACKED, MOST_PACKED_LATE
        fleet += ", packed"
    else:
        paid, paid_in, most_paid, most_late = drained.served / total, "sends", MOST_PAID, MOST_LATE
        fleet += ", with its share" if throttle.share else ""
    level_name = f"{fleet}: time until level, by the hub's own for the messages"
    return [
        FigureRow(f"{fleet}: {paid_in} for each message", paid, paid_in, reach=f"<= {most_paid}"),
        FigureRow(level_name, drained.level_s, "s", throttle.ideal_s, level, f"<= {most_late}"),
    ]
