"""Delivery: after any weather, however it ended, all that the line can carry is carried again soon."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from runtime.core.delivery.actions import Action, Candidate, Discard, Open, Send
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import Acked, Cause, Closed, Connected, Lost
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.window import CongestionWindow
from tests.support.depth import deep

PER_S = 60.0
WEATHER_S, SOON_S, WELL_S = 90.0, 45.0, 40.0


class Line:
    """A hub behind a line of some delay and capacity, and more to send than it carries. Time is its own."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.delivery = Delivery(CongestionWindow(), LinkBudget(), DeliveryLimits(connect_s=5, ack_s=4))
        self.delivery.set_credentials(1, 0.0)
        self.now = 0.0
        self.delivered_s: list[float] = []
        self.quarantined: list[tuple[int, str]] = []
        self.well()
        self._delay_s = self.chance.choice([0.002, 0.05, 0.4])
        self._free_s = 0.0
        self._client = self._newest = 0
        self._up = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def well(self) -> None:
        """The weather is over."""
        self.mute = False
        self.deaf: Cause | None = None
        self.per_s = PER_S
        self.lost_acks = 0

    def drop(self) -> None:
        self._lose(self._client, Cause.DROPPED)

    def run(self, for_s: float) -> None:
        until_s = self.now + for_s
        while self.now < until_s:
            while len(self.delivery.queue.messages) < 300:
                self._newest += 1
                self.delivery.offer(Candidate(self._newest, self._newest % 3, wire_bytes=200), self.now)
            for step in self.delivery.actions(self.now, self.chance.random()):
                self._do(step)
            settled = self.delivery.drain_settled()
            self.delivered_s += [self.now] * len(settled.delivered)
            self.quarantined += settled.quarantined
            self.delivery.confirmed(settled.ids())
            next_s = self.now + max(0.001, self.delivery.wait_s(self.now))
            self.now = min(until_s, next_s, *[at_s for at_s, _, _ in self._events[:1]])
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def rate(self, from_s: float) -> float:
        """Messages a second that were delivered since then."""
        return sum(at_s >= from_s for at_s in self.delivered_s) / (self.now - from_s)

    def _later(self, after_s: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + after_s, self._count, event))

    def _lose(self, client: int, cause: Cause) -> None:
        if client == self._client:
            self._up = False
            self.delivery.on_event(Lost(client, cause, "weather"), self.now, self.chance.random())

    def _do(self, step: Action) -> None:
        client = self._client
        match step:
            case Open():
                self._client += 1
                self._later(0.05, self._connect)
            case Discard():
                self._up = False
                self._later(0.02, lambda: self.delivery.on_event(Closed(client), self.now, 0.5))
            case Send(tag):
                self._free_s = max(self._free_s, self.now) + 1 / self.per_s
                self._later(self._free_s - self.now + self._delay_s, lambda: self._acknowledge(client, tag))

    def _connect(self) -> None:
        self._free_s = self.now
        if self.deaf is not None:
            self._lose(self._client, self.deaf)
        elif not self.mute:
            self._up = True
            self.delivery.on_event(Connected(self._client), self.now, 0.5)

    def _acknowledge(self, client: int, tag: tuple[int, int]) -> None:
        if self.lost_acks and client == self._client:
            self.lost_acks -= 1
        elif self._up and not self.mute and client == self._client:
            self.delivery.on_event(Acked(client, tag), self.now, 0.5)


@pytest.mark.parametrize("seed", range(deep(8)))
def test_after_any_weather_a_healthy_hub_gets_all_that_the_line_carries(seed: int) -> None:
    line = Line(seed)
    line.run(5)
    while line.now < WEATHER_S:
        match line.chance.choice(["drops", "mute", "slow", "refused", "busy", "away", "an ack", "first ack"]):
            case "drops":
                for _ in range(line.chance.randrange(1, 12)):
                    line.drop()
                    line.run(line.chance.uniform(0.01, 0.4))
            case "mute":
                line.mute = True
            case "slow":
                line.per_s = 5.0
            case "an ack":
                line.lost_acks = 1
            case "first ack":
                line.drop()
                line.lost_acks = 1
            case cause:
                line.deaf = {"refused": Cause.REFUSED, "busy": Cause.BUSY}.get(cause, Cause.UNREACHABLE)
                line.drop()
        line.run(line.chance.uniform(0.5, 9))
        line.well()
        line.run(line.chance.uniform(0.1, 8))
    line.run(SOON_S)
    well_s = line.now
    line.run(WELL_S)
    assert line.rate(well_s) >= 0.9 * PER_S
    assert line.quarantined == []


def test_an_attempt_that_was_refused_is_no_connection_that_was_lost() -> None:
    line = Line(1)
    line.deaf = Cause.REFUSED
    line.run(20)
    assert line.delivery.connection.losses == 0 and line.delivery.connection.failed_attempts > 0
    line.well()
    line.run(60)
    attempts = line.delivery.connection.failed_attempts
    line.drop()
    line.run(1)
    assert (line.delivery.connection.losses, line.delivery.connection.failed_attempts) == (1, attempts)
