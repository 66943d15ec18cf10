"""The conversation of an admitted device with the hub: telemetry, twin, commands, methods."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.codec import Malformed
from runtime.devcloud.mqtt.command_channel import CommandChannel
from runtime.devcloud.mqtt.packets import (
    FAILURE,
    Ack,
    Bare,
    Packet,
    PacketType,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
)
from runtime.devcloud.mqtt.sessions import HubSession
from runtime.devcloud.mqtt.topics import (
    BadTopic,
    Channel,
    MethodAnswer,
    ReportedPatch,
    TelemetryTopic,
    TwinGet,
)
from runtime.devcloud.mqtt.twin_channel import TwinChannel
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.hub_limits import Tier
from runtime.devcloud.state.values import CommandsWaiting, DesiredChange, Event, MethodCall, Received


class Conversation:
    """The conversation with one admitted device.

    `send` takes packets for it, `arrived` its messages with their packet ids, `drop` the reason for which the
    connection ends abruptly.
    """

    def __init__(
        self,
        cloud: Cloud,
        device_id: str,
        session: HubSession,
        connection: int,
        send: Callable[[Packet], None],
        arrived: Callable[[int, Received | None], None],
        drop: Callable[[str], None],
    ) -> None:
        self._cloud = cloud
        self._device_id = device_id
        self._session = session
        self._connection = connection
        self._send = send
        self._arrived = arrived
        self._commands = CommandChannel(cloud, device_id, session, send)
        self._twin = TwinChannel(cloud, device_id, self._publish, drop)

    # -- from the device ---------------------------------------------------------------------------------

    def on_packet(self, packet: Packet) -> None:
        """Answer a packet. Raises Malformed or BadTopic where the hub drops the connection."""
        match packet:
            case Publish():
                self._published(packet)
            case Ack(PacketType.PUBACK, packet_id):
                self._commands.acknowledged(packet_id, time.time())
            case Bare(PacketType.PINGREQ):
                self._send(Bare(PacketType.PINGRESP))
            case Subscribe():
                self._subscribed(packet)
            case Unsubscribe():
                self._unsubscribed(packet)
            case _:
                raise Malformed(f"a device does not send {packet} here")

    def _published(self, packet: Publish) -> None:
        meaning = topics.meaning(self._device_id, packet)
        if isinstance(meaning, TelemetryTopic):
            self._arrived(packet.packet_id, self._received(packet, meaning))
            return
        self._require_management()
        match meaning:
            case TwinGet(request_id):
                self._twin.get(request_id, time.time())
            case ReportedPatch(request_id):
                self._twin.patch_reported(request_id, packet.payload, time.time())
            case MethodAnswer(status, request_id):
                self._cloud.methods.answered(self._device_id, request_id, status, packet.payload)
        self._arrived(packet.packet_id, None)

    def _require_management(self) -> None:
        """Raise BadTopic on a tier that has telemetry only."""
        if self._is_basic:
            raise BadTopic("the basic tier has no twins, no methods and no cloud-to-device messages")

    @property
    def _is_basic(self) -> bool:
        return self._cloud.limits.tier is Tier.BASIC

    def _received(self, packet: Publish, telemetry: TelemetryTopic) -> Received:
        return Received(
            device_id=self._device_id,
            payload=packet.payload,
            received_at_s=time.time(),
            qos=packet.qos,
            dup=packet.dup,
            message_id=telemetry.system.get("$.mid"),
            properties=telemetry.properties,
            system=telemetry.system,
            connection=self._connection,
        )

    def _subscribed(self, packet: Subscribe) -> None:
        requested = {topics.channel(self._device_id, name): min(qos, 1) for name, qos in packet.filters}
        self._require_management()
        if self._cloud.faults.refuse_subscribe:
            self._send(Suback(packet.packet_id, (FAILURE,) * len(packet.filters)))
            return
        self._session.subscribe(requested)
        self._send(Suback(packet.packet_id, tuple(min(qos, 1) for _, qos in packet.filters)))
        self.resume()

    def _unsubscribed(self, packet: Unsubscribe) -> None:
        for name in packet.filters:
            channel = topics.channel(self._device_id, name)
            self._require_management()
            self._session.unsubscribe(channel)
        self._send(Ack(PacketType.UNSUBACK, packet.packet_id))

    def last_will(self, will: Publish) -> None:
        """Publish the will that the device left, after it went without DISCONNECT."""
        meaning = topics.meaning(self._device_id, will)
        assert isinstance(meaning, TelemetryTopic)
        marked = TelemetryTopic({**meaning.properties, "iothub-MessageType": "Will"}, meaning.system)
        self._arrived(0, self._received(will, marked))

    # -- to the device -----------------------------------------------------------------------------------

    def resume(self) -> None:
        """Send what waits for the channels that the device is subscribed to."""
        if self._is_basic:
            return
        self._commands.send_waiting(time.time())
        if Channel.METHODS in self._session.channels:
            self._cloud.methods.listening(self._device_id)

    def on_event(self, event: Event) -> bool:
        """Pass on an event that is meant for the device; true if it is subscribed to it."""
        match event:
            case CommandsWaiting():
                return not self._is_basic and self._commands.send_waiting(time.time())
            case DesiredChange():
                return self._twin.desired_changed(event)
            case MethodCall(request_id, name, payload):
                return self._publish(Channel.METHODS, topics.method_topic(name, request_id), payload)

    def _publish(self, channel: Channel, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0, as the hub does for all but commands; true if the device is subscribed."""
        if self._is_basic or channel not in self._session.channels:
            return False
        self._send(Publish(topic, payload))
        return True

    def close(self) -> None:
        """The connection has ended."""
        self._commands.close()

    def tick(self, now_s: float) -> None:
        """Called ten times a second: locks of commands end."""
        self._commands.tick(now_s)
