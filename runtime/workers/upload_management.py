"""The part of `upload` that serves `management`: messages of the hub go to it, and its requests to the hub.

    hub -> Inbound -> owed -> hub line -> management stores -> PUBACK
    management -> hub line -> publish -> PUBACK -> outcome

It owns nothing and never waits: what it holds is lost with the process, and comes again. `core.management`
decides; whatever happens here, telemetry goes on.
"""

from __future__ import annotations

import math
from collections.abc import Container, Hashable
from typing import Any

from loguru import logger

from runtime.adapters.bus.hub_line import LineToManagement
from runtime.adapters.hub.mqtt_client import HubConnection
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import Acked, Cause, Connected, ConnectionEvent, Inbound, Lost, Subscribed
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.log_events import LogEvent
from runtime.core.management.hub_channels import (
    HubChannel,
    channel_of,
    filter_of,
    is_billed,
    is_method_response,
    method_of,
    method_response_topic,
    twin_response_of,
)
from runtime.core.management.hub_line import (
    HubDown,
    HubMessage,
    HubUp,
    ListenTo,
    MessageStored,
    PublishAtHub,
)
from runtime.core.management.hub_line_ends import CALL_WAITS_S, first_number_of
from runtime.core.management.listening import Listening, ListeningState, SubscribeChannel
from runtime.core.management.owed import OwedMessages
from runtime.layout import Layout
from runtime.workers.upload_meter import UnitMeter

MANAGEMENT = "management"
"""First part of the tags of what management publishes, which no message of the store has."""
IMPOSSIBLE = "not possible: azure-iot-device has changed inside"
AWAY_STATUS, AWAY_BODY = 503, b'{"reason":"device management does not run"}'
"""Answer to a call that management does not take."""


class ManagementRelay:
    """Between the connection and management. Times are seconds on CLOCK_BOOTTIME."""

    def __init__(
        self,
        layout: Layout,
        hub: HubConnection,
        delivery: Delivery,
        link: LinkBudget,
        meter: UnitMeter,
        now: float,
    ) -> None:
        self._layout = layout
        self._hub = hub
        self._delivery = delivery
        self._link = link
        self._meter = meter
        self._patience = delivery.sender.patience  # of one hub, for telemetry and management alike
        self._line: LineToManagement | None = None
        self._listening = Listening()
        self._owed = OwedMessages(first_number_of(now))
        self._calls: dict[int, tuple[str, float]] = {}
        """Calls that management has not taken: topic and time by number."""
        self._told = False
        """True once management has said which channels it wants."""
        self._left: set[str] = set()
        """Filters that the open client has unsubscribed because management does not want them."""
        self._client: int | None = None
        """The client that is up."""
        self._current: int | None = None
        """The same, or one that still connects: the hub sends what it kept right after its CONNACK."""
        self._device_id = ""
        self._answers = 0
        self._muted = False
        self._quota_doubted = False
        self._due_s = -math.inf
        """The time of the next turn with anything to do, if nothing comes."""

    @property
    def on(self) -> bool:
        return self._line is not None

    def switch(self, device_id: str, now: float, *, on: bool) -> None:
        """Serve management from now on, or no more."""
        self._hub.inbound.on = on
        if on and self._line is None:
            self._line = LineToManagement(self._layout)
            if self._delivery.connection.state is ConnectionState.UP:
                self._begin(self._delivery.connection.client, device_id, now)
        elif not on and self._line is not None:
            self._listening.want(frozenset())
            self._carry_out(now)  # unsubscribes
            self._end(now, by_hub=False)
            self._line.close()
            self._line, self._told = None, False

    def _begin(self, client: int, device_id: str, now: float) -> None:
        if self._current not in (None, client):
            self._end(now, by_hub=False)  # it was given up, and not lost
        self._client = self._current = client
        self._device_id, self._due_s = device_id, now
        self._listening.connected(now)

    @property
    def sources(self) -> list[object]:
        """What wakes the loop."""
        return [self._line.socket] if self._line is not None else []

    # -- events --------------------------------------------------------------------------------------

    def excuses(self, event: ConnectionEvent) -> bool:
        """True for a loss that management may be the reason of."""
        if not (self.on and isinstance(event, Lost) and event.client == self._client):
            return False
        return self._listening.may_be_the_reason()

    def drain_quota_doubt(self) -> bool:
        """True once after the hub refused a twin request with 403: its daily quota may be used up."""
        doubted, self._quota_doubted = self._quota_doubted, False
        return doubted

    @staticmethod
    def is_for_management(event: ConnectionEvent) -> bool:
        """True for an event that is none of telemetry's business."""
        match event:
            case Acked(tag=(str(), _)) | Inbound() | Subscribed():
                return True
        return False

    def on_event(self, event: ConnectionEvent, device_id: str, now: float) -> None:
        """Take in an event of the connection, after the engine has."""
        match event:
            case Acked(tag=(str(), _)):
                self._due_s = now
                self._acked(event.tag)
            case Acked():
                if self._listening.telemetry_acked():
                    self._due_s = now
            case Inbound() | Subscribed():
                if self.on and event.client == self._delivery.connection.client and self._stands():
                    self._current, self._due_s = event.client, now
                    self._received(event, now)
            case Connected(client) if self.on and client == self._delivery.connection.client:
                self._begin(client, device_id, now)
            case Lost(client, cause) if client == self._current:
                self._end(now, by_hub=cause is Cause.DROPPED)

    def _acked(self, tag: Hashable) -> None:
        if self._listening.acked(tag):
            self._tell(tag, acked=True)

    def _tell(self, tag: Hashable, *, acked: bool) -> None:
        """Tell management the outcome, where the publish was its own."""
        if self._line is not None and isinstance(tag, tuple) and tag[0] == MANAGEMENT:
            self._line.end.published(tag[1], acked=acked)

    def _received(self, event: Inbound | Subscribed, now: float) -> None:
        if isinstance(event, Inbound):
            self._inbound(event, now)
            return
        channel = channel_of(event.topic_filter)
        if channel is not None:
            self._listening.answered(channel, granted=event.granted)
            if not event.granted:
                logger.bind(event=LogEvent.SUBSCRIPTION_REFUSED).warning(
                    "the hub refuses the subscription to {}", channel
                )

    def _inbound(self, event: Inbound, now: float) -> None:
        channel, topic_filter = channel_of(event.topic), filter_of(event.topic)
        self._charge(event.topic, event.payload)
        if channel is None or topic_filter is None or event.too_many:
            self._owed.refuse(event.packet_id, now)
            return
        if self._is_unwanted(channel):
            self._owed.refuse(event.packet_id, now)
            if topic_filter not in self._left and not self._listening.is_muted(now):
                self._left.add(topic_filter)
                self._hub.unsubscribe(topic_filter)
            return
        number = self._owed.add(event.packet_id, len(event.payload), now)
        if number is None or self._line is None:
            return
        if channel is HubChannel.METHODS:
            self._calls[number] = event.topic, now
        elif channel is HubChannel.TWIN_RESPONSES:
            response = twin_response_of(event.topic)
            self._quota_doubted |= response is not None and response.status == 403
        message = HubMessage(event.client, number, channel, event.topic, event.payload, event.dup, now)
        self._line.end.add(message)

    def _is_unwanted(self, channel: HubChannel) -> bool:
        """True where management has said what it wants, and this is not part of it."""
        return self._told and channel not in self._listening.wanted

    def _end(self, now: float, *, by_hub: bool) -> None:
        """The client is gone, and with it all that is owed and in flight."""
        tags = self._listening.lost(now, by_hub=by_hub)
        numbers = self._owed.clear()
        self._client = self._current = None
        self._due_s = now
        self._left.clear()
        self._calls.clear()
        if self._line is not None:
            for number in numbers:
                self._line.end.withdraw(number)
        for tag in tags:
            self._tell(tag, acked=False)

    # -- turns ---------------------------------------------------------------------------------------

    def turn(self, now: float, draw: float, woken_by: Container[object]) -> None:
        """Pass on what management says, and do what is due: most turns have nothing to do here."""
        if self._line is None or (now < self._due_s and self._line.socket not in woken_by):
            return
        if self._current is not None and not self._stands():
            self._end(now, by_hub=False)
        for said in self._line.receive(now):
            match said:
                case ListenTo(channels):
                    self._told = True
                    self._listening.want(channels)
                case MessageStored(number):
                    self._calls.pop(number, None)
                    self._acknowledge(self._owed.stored(number), now)
                case PublishAtHub():
                    self._publish(said, now)
        self._answer_calls(now)
        self._drop_overdue(now)
        self._carry_out(now)
        if self._listening.overdue(now, self._patience.current_s):
            self._patience.overdue()
            self._end(now, by_hub=True)
            self._delivery.give_up("the hub does not acknowledge what management sent", now, draw)
        self._line.end.set_state(self._state(now))
        self._line.send(now)
        self._due_s = self._next_s(now)

    def _stands(self) -> bool:
        state = self._delivery.connection.state
        return state in (ConnectionState.CONNECTING, ConnectionState.UP, ConnectionState.DRAINING)

    def _publish(self, asked: PublishAtHub, now: float) -> None:
        answer = is_method_response(asked.topic)
        held = self._link.shut(now) or (not answer and self._link.barred())
        if asked.client != self._client or held or not self._listening.may_publish(now):
            assert self._line is not None
            self._line.end.published(asked.number, acked=False)
            return
        self._send((MANAGEMENT, asked.number), asked.topic, asked.payload, now)

    def _send(self, tag: tuple[str, int], topic: str, payload: bytes, now: float) -> None:
        self._listening.published(tag, now)
        self._charge(topic, payload)
        self._hub.publish(tag, topic, payload)

    def _charge(self, topic: str, payload: bytes) -> None:
        self._link.managed(len(topic) + len(payload))
        if is_billed(topic):
            self._meter.managed(len(payload))

    def _answer_calls(self, now: float) -> None:
        """Calls that management has not taken are answered: their callers wait."""
        over = [number for number, (_, came_s) in self._calls.items() if now - came_s > CALL_WAITS_S]
        for number in over:
            method = method_of(self._calls.pop(number)[0])
            self._acknowledge(self._owed.withdraw(number), now)
            assert self._line is not None
            self._line.end.withdraw(number)
            if method is not None and self._listening.may_publish(now):
                self._answers += 1
                topic = method_response_topic(AWAY_STATUS, method.rid)
                self._send(("call", self._answers), topic, AWAY_BODY, now)

    def _drop_overdue(self, now: float) -> None:
        numbers, packet_ids = self._owed.overdue(now)
        for number in numbers:
            assert self._line is not None
            self._line.end.withdraw(number)
        self._acknowledge(packet_ids, now)

    def _acknowledge(self, packet_ids: list[int], now: float) -> None:
        """Tell the hub; not while mute, because that may be what the hub drops us for: it will send again."""
        if self._current is None or self._listening.is_muted(now):
            return
        for packet_id in packet_ids:
            self._hub.acknowledge(packet_id)
            self._listening.acknowledged(now)

    def _carry_out(self, now: float) -> None:
        barred = self._link.shut(now) is not None or self._link.barred() is not None
        hold = barred or not self._hub.tuned() or self._delivery.sender.trial is not None
        in_flight = bool(self._delivery.in_flight)
        for action in self._listening.actions(now, telemetry_in_flight=in_flight, hold=hold):
            topic_filter = action.channel.topic_filter(self._device_id)
            if isinstance(action, SubscribeChannel):
                self._left.discard(topic_filter)
                self._hub.subscribe(topic_filter)
            else:
                self._hub.unsubscribe(topic_filter)

    def _state(self, now: float) -> HubUp | HubDown:
        muted = self._listening.is_muted(now)
        if muted and not self._muted:
            minutes = self._listening.muted_s(now) / 60
            logger.bind(event=LogEvent.MANAGEMENT_MUTED).warning(
                "the hub drops the connection over device management: mute for {:.0f} min", minutes
            )
        self._muted = muted
        if muted:
            return HubDown("muted: the hub drops the connection")
        if self._client is None:
            return HubDown(self._link.shut(now) or "not connected")
        if not self._hub.tuned():
            return HubDown(IMPOSSIBLE)
        held = self._link.shut(now) or self._link.barred() or ""
        return HubUp(self._client, self._device_id, frozenset(self._listening.granted), held)

    def wait_s(self, now: float) -> float:
        """Seconds until something may be due, if no event comes."""
        return math.inf if self._line is None else max(0.0, self._due_s - now)

    def _next_s(self, now: float) -> float:
        assert self._line is not None
        calls_s = min((came_s + CALL_WAITS_S for _, came_s in self._calls.values()), default=math.inf)
        owed_s = self._owed.next_s()
        return min(
            self._line.end.next_s(now),
            self._listening.next_s(now, self._patience.current_s),
            calls_s,
            math.inf if owed_s is None else owed_s,
        )

    def record(self, now: float) -> dict[str, Any]:
        """The figures of the status file; empty where management is off."""
        if self._line is None:
            return {}
        state = self._listening.state(now)
        if not self._hub.tuned() and self._client is not None:
            words = IMPOSSIBLE
        elif state is ListeningState.MUTED:
            words = (
                f"muted: the hub drops the connection; tried again in {self._listening.muted_s(now):.0f} s"
            )
        elif self._line.end.is_away(now):
            words = "away: the worker management does not answer"
        else:
            words = state.value
        return {
            "management": words,
            "management_channels": sorted(self._listening.granted),
            "management_refused": sorted(self._listening.refused),
            "management_owed": len(self._owed),
            "management_not_taken": self._owed.not_taken,
            "management_in_flight": self._listening.in_flight,
        }
