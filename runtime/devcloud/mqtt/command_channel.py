"""Commands on one connection: what was sent and not acknowledged, until its PUBACK or the end of its lock.

The hub's semantics over MQTT: PUBACK completes a command; nothing rejects or abandons one. PUBACKs must come
in the order of the PUBLISHes, as MQTT demands and the hub's gateway checks. Where none comes, the lock ends
and the command is sent again on the same connection, with a new packet id; a late PUBACK for the old one is
ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.codec import Malformed
from runtime.devcloud.mqtt.packets import Packet, Publish
from runtime.devcloud.mqtt.sessions import HubSession
from runtime.devcloud.mqtt.topics import Channel
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.command_locks import CommandLock
from runtime.devcloud.state.values import Command


@dataclass(slots=True)
class _Locked:
    """A command that was sent and waits for its PUBACK."""

    lock: CommandLock
    puback_lost: bool = False
    """A PUBACK came, and a fault had the hub overlook it."""


class CommandChannel:
    """The commands of one device on one of its connections. `send` takes packets for the device."""

    def __init__(
        self, cloud: Cloud, device_id: str, session: HubSession, send: Callable[[Packet], None]
    ) -> None:
        self._cloud = cloud
        self._device_id = device_id
        self._session = session
        self._send = send
        self._locked: dict[int, _Locked] = {}
        """By packet id, in the order of sending."""
        self._last_packet_id = 0

    def send_waiting(self, now_s: float) -> bool:
        """Send the commands that wait and are not locked; true if the device is subscribed to them."""
        qos = self._session.channels.get(Channel.COMMANDS)
        if qos is None:
            return False
        self._cloud.commands.expire(now_s)
        for command in self._cloud.commands_for(self._device_id):
            if self._cloud.locks.is_locked(command.seq, now_s):
                continue
            self._cloud.commands.delivered(command.seq)
            if qos:
                self._send_locked(command, now_s)
            else:  # at most once: sent is completed
                self._send(Publish(self._topic(command), command.payload))
                self._cloud.commands.complete(command.seq, now_s)
        return True

    def _send_locked(self, command: Command, now_s: float) -> None:
        packet_id = self._free_packet_id()
        again = command.seq in self._session.sent and not self._cloud.faults.dup_omitted
        lock = self._cloud.locks.lock(command.seq, now_s + self._cloud.limits.command_lock_s)
        self._locked[packet_id] = _Locked(lock)
        self._session.command_sent(command.seq)
        self._send(Publish(self._topic(command), command.payload, 1, packet_id, dup=again))

    def _topic(self, command: Command) -> str:
        return topics.command_topic(self._device_id, command.system, command.properties)

    def acknowledged(self, packet_id: int, now_s: float) -> None:
        """Complete a command by its PUBACK. Raises Malformed for one out of order."""
        sent = self._locked.get(packet_id)
        if sent is None:
            return
        oldest = next((known for known, other in self._locked.items() if not other.puback_lost), packet_id)
        if packet_id != oldest:
            raise Malformed(f"PUBACK {packet_id} came before that of {oldest}, which was sent before it")
        if self._cloud.faults.puback_lost:
            sent.puback_lost = True
            return
        del self._locked[packet_id]
        self._cloud.locks.release(sent.lock)
        self._session.command_acknowledged(sent.lock.seq)
        self._cloud.commands.complete(sent.lock.seq, now_s)

    def tick(self, now_s: float) -> None:
        """End the locks whose time is over, and send their commands again."""
        ended = [packet_id for packet_id, sent in self._locked.items() if sent.lock.until_s <= now_s]
        for packet_id in ended:
            self._cloud.commands.lock_ended(self._locked.pop(packet_id).lock.seq, now_s)
        if ended:
            self.send_waiting(now_s)

    def close(self) -> None:
        """Free what was sent and not acknowledged: the connection has ended."""
        for sent in self._locked.values():
            self._cloud.locks.release(sent.lock)
        self._locked.clear()

    def _free_packet_id(self) -> int:
        while True:
            self._last_packet_id = self._last_packet_id % 65_535 + 1
            if self._last_packet_id not in self._locked:
                return self._last_packet_id
