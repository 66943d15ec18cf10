"""One TLS connection of the hub, from CONNECT to its end by either side; faults take effect here."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.codec import Malformed, PacketDecoder, encode, puback
from runtime.devcloud.mqtt.conversation import Conversation
from runtime.devcloud.mqtt.packets import Ack, Bare, Connack, Connect, Packet, PacketType, Publish, Subscribe
from runtime.devcloud.mqtt.puback_queue import PATIENCE_S, PubackQueue
from runtime.devcloud.mqtt.topics import BadTopic
from runtime.devcloud.state.certificates import shown_by
from runtime.devcloud.state.faults import DropAt
from runtime.devcloud.state.values import Admitted, ConnectionRefused, Received

if TYPE_CHECKING:
    from runtime.devcloud.mqtt.broker import Broker

CONNECT_WITHIN_S = 30.0
LONGEST_IDLE_S = 1767.0
"""The hub's own limit, independent of the keep-alive that was asked for."""
MOST_PACKET_BYTES = topics.MOST_MESSAGE_BYTES + 1024
"""A little more than the largest message, so that a refusal can say what it was."""
_USERNAME = re.compile(r"[^/]+/[^/]+/\?(?:.*&)?api-version=\d{4}-\d\d-\d\d.*")


class Connection(asyncio.Protocol):
    """Reads bytes, writes bytes. Input that MQTT or the contract forbids ends it."""

    device_id: str | None = None
    """The device's id, from the accepted CONNECT on."""
    number: int | None = None
    """The number of this connection in the cloud's message log, from CONNECT on."""

    def __init__(self, hub: Broker) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._decoder = PacketDecoder(MOST_PACKET_BYTES)
        self._conversation: Conversation | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._will: Publish | None = None
        self._last_input_at_s = self._loop.time()
        self._idle_limit_s = CONNECT_WITHIN_S
        self._expires_at_s: float | None = None
        self._acks = PubackQueue()
        self._acks_follow = hub.faults
        self._ack_timer: asyncio.TimerHandle | None = None
        self._messages = 0
        self._input_kept_back = b""  # bytes that came in during a silence
        self._output_kept_back = b""  # bytes that would have gone out during a silence
        self._ended = False

    # -- called by the transport -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._hub.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._last_input_at_s = self._loop.time()
        if self._hub.faults.silent or self._input_kept_back:
            self._input_kept_back += data
            self._transport.pause_reading()
        else:
            self._process(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._hub.commit()
            self._conclude(f"connection lost: {exc}" if exc else "closed without DISCONNECT")

    def pause_writing(self) -> None:
        self._transport.pause_reading()  # a client that does not read is not read from

    def resume_writing(self) -> None:
        if not self._input_kept_back:
            self._transport.resume_reading()

    # -- the end -----------------------------------------------------------------------------------------

    def end(self, reason: str, *, abrupt: bool = False) -> None:
        """End it: politely by close_notify and FIN, abruptly by RST. What arrived before counts."""
        if self._ended:
            return
        self._hub.commit()
        self._conclude(reason)
        if not abrupt:
            self._transport.close()
            return
        raw = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the other side was faster
            if raw is not None:  # so much faster that TLS has let go of it; connection_lost follows
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _conclude(self, reason: str) -> None:
        self._ended = True
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        self._unsubscribe()
        if self._conversation is not None:
            self._conversation.close()
        if self._will is not None and self._conversation is not None:
            self._conversation.last_will(self._will)
        self._hub.forget(self, reason)

    def tick(self, now_s: float) -> None:
        """Called ten times a second with the wall clock: expiry, keep-alive, the end of a silence."""
        loop_now_s = self._loop.time()
        if self._hub.faults.silent:
            self._last_input_at_s = loop_now_s
        elif self._expires_at_s is not None and now_s >= self._expires_at_s:
            self.end("the SAS has expired")
        elif loop_now_s - self._last_input_at_s > self._idle_limit_s:
            self.end(
                "nothing received for 1.5 times the keep-alive" if self._conversation else "no CONNECT came"
            )
        else:
            self._end_silence()
            self._follow_faults()
            self._pump()
            if self._conversation is not None and not self._ended:
                self._conversation.tick(now_s)

    # -- input -------------------------------------------------------------------------------------------

    def _process(self, data: bytes) -> None:
        try:
            for packet in self._decoder.feed(data):
                self._handle(packet)
                if self._ended:
                    return
        except (Malformed, BadTopic) as exc:
            self.end(str(exc))

    def _handle(self, packet: Packet) -> None:
        if self._conversation is None:
            if not isinstance(packet, Connect):
                raise Malformed("the first packet is not CONNECT")
            self._connect(packet)
        elif packet == Bare(PacketType.DISCONNECT):
            self._will = None
            self.end("disconnected by the device")
        elif isinstance(packet, Publish) and self._is_poison(packet.payload):
            self.end("poison arrived", abrupt=True)
        elif self._hub.faults.drop_at is not None and kind(packet) is self._hub.faults.drop_at:
            self.end(f"dropped at {kind(packet)}, on request", abrupt=True)
        else:
            self._conversation.on_packet(packet)

    def _connect(self, packet: Connect) -> None:
        now_s = time.time()
        answer = self._answer(packet, now_s)
        self.number = self._hub.cloud.opened(packet.client_id, answer, now_s)
        if isinstance(answer, ConnectionRefused):
            self._send(Connack(answer.code))
            self.end(f"refused: {answer.reason}")
            return
        self.device_id, self._expires_at_s = answer.device_id, answer.expires_at_s
        self._idle_limit_s = min(packet.keep_alive_s * 1.5 or LONGEST_IDLE_S, LONGEST_IDLE_S)
        if packet.will is not None:
            self._will = topics.last_will(self.device_id, packet.will)
        session = self._hub.admit(self, self.device_id, packet.clean_session)
        self._conversation = Conversation(
            self._hub.cloud,
            self.device_id,
            session,
            self.number,
            self._send,
            self._arrived,
            lambda reason: self.end(reason, abrupt=True),
        )
        self._unsubscribe = self._hub.cloud.subscribe(self.device_id, self._conversation.on_event)
        self._send(Connack(0, session.present))
        self._conversation.resume()

    def _answer(self, packet: Connect, now_s: float) -> Admitted | ConnectionRefused:
        if self._hub.faults.refuse_connect_code is not None:
            return ConnectionRefused(self._hub.faults.refuse_connect_code, "refused on request")
        if packet.level != 4:
            return ConnectionRefused(1, f"protocol level {packet.level}, only 4 (MQTT 3.1.1) is spoken")
        if not packet.client_id:
            return ConnectionRefused(2, "no client id")
        if not _USERNAME.fullmatch(packet.username or ""):
            return ConnectionRefused(4, "user name is not HUB/WORKSPACE:DEVICE/?api-version=...")
        try:
            password = None if packet.password is None else packet.password.decode()
        except UnicodeDecodeError:
            return ConnectionRefused(4, "password is not text")
        return self._hub.cloud.authenticate(
            packet.client_id, packet.username, password, now_s, shown_by(self._transport)
        )

    def _is_poison(self, payload: bytes) -> bool:
        poison = self._hub.faults.poison
        return poison is not None and poison.encode() in payload

    def _arrived(self, packet_id: int, received: Received | None) -> None:
        if received is not None and not self._ended and not self._hub.cloud.spend_quota():
            self.end("the daily quota is used up")
            return
        self._messages += received is not None
        if self._messages == self._hub.faults.drop_after_messages and not self._ended:
            self._hub.arrived(self, 0, received)
            self.end(f"dropped after {self._messages} messages, on request", abrupt=True)
        else:
            self._hub.arrived(self, packet_id, received)

    # -- output -----------------------------------------------------------------------------------------

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge messages that are recorded: send their PUBACKs, when and if the faults allow."""
        if self._ended:
            return
        self._follow_faults()
        faults, now_s = self._hub.faults, self._loop.time()
        self._acks.add(packet_ids, now_s, faults.ack_delay_ms / 1000, faults.throttle_per_s)
        if faults.throttle_per_s and self._acks.lag_s(now_s) > PATIENCE_S:
            self.end("throttled, and too many messages in flight")
        else:
            self._pump()

    def _follow_faults(self) -> None:
        """Apply faults that may have changed: a PUBACK that is owed does not wait for a delay that is
        over.
        """
        faults = self._hub.faults
        if faults is self._acks_follow:
            return
        self._acks_follow = faults
        self._acks.reschedule(self._loop.time(), faults.ack_delay_ms / 1000, faults.throttle_per_s)
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    def _pump(self) -> None:
        """Send every PUBACK whose time has come, and wake up for the next."""
        if self._ended or self._hub.faults.silent or not self._acks:
            return
        now_s = self._loop.time()
        ready = self._acks.due(now_s, self._hub.acks_allowed())
        if ready:
            self._hub.acks_sent(len(ready))
            self._write(b"".join(map(puback, ready)))
        next_s = self._acks.next_due_s()
        if self._ack_timer is None and next_s is not None and next_s > now_s:  # else: kept back
            self._ack_timer = self._loop.call_at(next_s, self._pump_on_time)

    def _pump_on_time(self) -> None:
        self._ack_timer = None
        self._pump()

    def _send(self, packet: Packet) -> None:
        self._write(encode(packet))

    def _write(self, data: bytes) -> None:
        if self._hub.faults.silent or self._output_kept_back:
            self._output_kept_back += data
        elif not self._ended:
            self._transport.write(data)

    def _end_silence(self) -> None:
        """Resume after a silence that may have ended: send what was not sent, read what was not read."""
        if self._output_kept_back:
            self._transport.write(self._output_kept_back)
            self._output_kept_back = b""
        if self._input_kept_back:
            data, self._input_kept_back = self._input_kept_back, b""
            self._transport.resume_reading()
            self._process(data)


def kind(packet: Packet) -> DropAt | None:
    """The kind of a device's packet, where the hub may be told to drop the connection at it."""
    match packet:
        case Subscribe():
            return DropAt.SUBSCRIBE
        case Ack(PacketType.PUBACK):
            return DropAt.PUBACK
        case Publish(topic=topic):
            return next((kind for prefix, kind in _KINDS.items() if topic.startswith(prefix)), None)
    return None


_KINDS = {
    topics.TWIN_GET: DropAt.TWIN_GET,
    topics.REPORTED: DropAt.TWIN_PATCH,
    topics.METHOD_ANSWER: DropAt.METHOD_ANSWER,
}
