"""The conversation of an admitted device with the hub: telemetry, twin, commands, methods."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.codec import Malformed
from runtime.devcloud.mqtt.packets import (
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
from runtime.devcloud.mqtt.topics import Channel, MethodAnswer, ReportedPatch, TelemetryTopic, TwinGet
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.values import (
    CommandsWaiting,
    ConnectionRefused,
    DesiredChange,
    Event,
    MethodCall,
    Received,
)


class Conversation:
    """The conversation with one admitted device. `send` takes packets for it, `arrived` its messages, with
    the packet id.
    """

    def __init__(
        self,
        cloud: Cloud,
        device_id: str,
        session: HubSession,
        connection: int,
        send: Callable[[Packet], None],
        arrived: Callable[[int, Received | None], None],
    ) -> None:
        self._cloud = cloud
        self._device_id = device_id
        self._session = session
        self._connection = connection
        self._send = send
        self._arrived = arrived
        self._in_flight: dict[int, int] = {}
        """Commands by packet id."""
        self._last_packet_id = 0

    # -- from the device ---------------------------------------------------------------------------------

    def on_packet(self, packet: Packet) -> None:
        """Answer a packet. Raises Malformed or BadTopic where the hub drops the connection."""
        match packet:
            case Publish():
                self._published(packet)
            case Ack(PacketType.PUBACK, packet_id):
                self._acknowledged(packet_id)
            case Bare(PacketType.PINGREQ):
                self._send(Bare(PacketType.PINGRESP))
            case Subscribe():
                self._subscribed(packet)
            case Unsubscribe(packet_id, filters):
                for name in filters:
                    self._session.ignore(topics.channel(self._device_id, name))
                self._send(Ack(PacketType.UNSUBACK, packet_id))
            case _:
                raise Malformed(f"a device does not send {packet} here")

    def _published(self, packet: Publish) -> None:
        meaning = topics.meaning(self._device_id, packet)
        if isinstance(meaning, TelemetryTopic):
            self._arrived(packet.packet_id, self._received(packet, meaning))
            return
        match meaning:
            case TwinGet(request_id):
                body = json.dumps(self._cloud.twin_get(self._device_id)).encode()
                self._tell(Channel.TWIN_RESULTS, topics.twin_result_topic(200, request_id), body)
            case ReportedPatch(request_id):
                self._reported(request_id, packet.payload)
            case MethodAnswer(status, request_id):
                self._cloud.method_answered(request_id, status, packet.payload)
        self._arrived(packet.packet_id, None)

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

    def _reported(self, request_id: str, payload: bytes) -> None:
        try:
            answer = self._cloud.twin_patch_reported(self._device_id, json.loads(payload.decode()))
        except (ValueError, RecursionError):
            answer = ConnectionRefused(400, "the patch is not JSON")
        if isinstance(answer, ConnectionRefused):
            topic = topics.twin_result_topic(answer.code, request_id)
            self._tell(Channel.TWIN_RESULTS, topic, json.dumps({"message": answer.reason}).encode())
        else:
            self._tell(Channel.TWIN_RESULTS, topics.twin_result_topic(204, request_id, answer), b"")

    def _subscribed(self, packet: Subscribe) -> None:
        self._session.listen(
            {topics.channel(self._device_id, name): min(qos, 1) for name, qos in packet.filters}
        )
        self._send(Suback(packet.packet_id, tuple(min(qos, 1) for _, qos in packet.filters)))
        self.send_commands()

    def _acknowledged(self, packet_id: int) -> None:
        command = self._in_flight.pop(packet_id, None)
        if command is not None:
            self._session.command_acknowledged(command)
            self._cloud.command_delivered(command, time.time())

    def last_will(self, will: Publish) -> None:
        """Publish the will that the device left, after it went without DISCONNECT."""
        meaning = topics.meaning(self._device_id, will)
        assert isinstance(meaning, TelemetryTopic)
        marked = TelemetryTopic({**meaning.properties, "iothub-MessageType": "Will"}, meaning.system)
        self._arrived(0, self._received(will, marked))

    # -- to the device -----------------------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        """Pass on an event that is meant for the device, if it subscribed to it."""
        match event:
            case CommandsWaiting():
                self.send_commands()
            case DesiredChange(patch, version):
                body = json.dumps({**patch, "$version": version}).encode()
                self._tell(Channel.DESIRED_CHANGES, topics.desired_topic(version), body)
            case MethodCall(request_id, name, payload):
                self._tell(Channel.METHODS, topics.method_topic(name, request_id), payload)

    def _tell(self, channel: Channel, topic: str, payload: bytes) -> None:
        """Publish at QoS 0, as the hub does for all but commands."""
        if channel in self._session.channels:
            self._send(Publish(topic, payload))

    def send_commands(self) -> None:
        """Send the commands that wait and are not in flight; a command leaves the queue by its PUBACK."""
        qos = self._session.channels.get(Channel.COMMANDS)
        if qos is None:
            return
        on_the_way = set(self._in_flight.values())
        for command in self._cloud.commands_for(self._device_id):
            if command.seq in on_the_way:
                continue
            topic = topics.command_topic(self._device_id, command.message_id, command.properties)
            if qos == 0:
                self._send(Publish(topic, command.payload))
                self._cloud.command_delivered(command.seq, time.time())
                continue
            packet_id = self._free_packet_id()
            again = command.seq in self._session.sent
            self._in_flight[packet_id] = command.seq
            self._session.command_sent(command.seq)
            self._send(Publish(topic, command.payload, 1, packet_id, dup=again))

    def _free_packet_id(self) -> int:
        while True:
            self._last_packet_id = self._last_packet_id % 65_535 + 1
            if self._last_packet_id not in self._in_flight:
                return self._last_packet_id
