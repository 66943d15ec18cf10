"""The paho client below azure-iot-device: private parts of both libraries, used here and nowhere else.

What the wire changes, and why:

1. It lifts paho's ceiling of 20 in flight (the window is ours), switches Nagle's delay off, publishes without
   waiting, and ends a connection below TLS so that no thread of the library is left waiting for it.
2. TCP is made by `dial`, by all addresses of the name and by way of the proxy, and given up with the client.
3. It knows how far the bytes have come (`carried`). While a PUBLISH waits for its PUBACK, paho's keep-alive
   does not end the connection: on a slow line a ping waits behind the messages, and
   `core/delivery/engine.py` judges those. A connection that the keep-alive does end is marked (`silent`).
4. A message that comes down (cloud-to-device, a method, a change of the twin) is acknowledged by
   `acknowledge` alone: by itself paho acknowledges first, and the cloud is told of a success. This is so from
   before CONNECT, because the hub may send right after CONNACK to a session that it kept.
5. PUBLISHes that are handed over together (`gather`, `flush`) are one packet for paho's queue: its thread is
   woken once, and TLS and TCP carry them in one record and one segment, not in one each.
6. Everything is subscribed, unsubscribed and published by the library's transport: `paho.subscribe` and its
   like, called directly, leave a packet id behind, by which a PUBLISH counts as acknowledged 65,535 ids
   later. The library overlooks what a SUBACK says; here it is looked at.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
import socket
import struct
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loguru import logger

from runtime.adapters.net.dial import demote
from runtime.adapters.net.proxies import dial
from runtime.core.delivery.events import Carried
from runtime.core.delivery.in_flight import RECORD_BYTES
from runtime.core.log_events import LogEvent
from runtime.core.proxy_url import Proxy

KEEPALIVE_RAN_OUT = 16
"""paho's MQTT_ERR_KEEPALIVE."""
_INFO_BYTES, _SEGMENT_AT, _ACKED_AT = 256, 16, 120  # struct tcp_info: tcpi_snd_mss, tcpi_bytes_acked
_PUBLISH = 0x30
_REFUSED = 0x80
"""The SUBACK's code for a subscription that was not granted."""


@dataclass(frozen=True)
class Reach:
    """Options for the TCP connection to the hub."""

    timeout_s: float = 20.0
    proxy: Proxy | None = None
    segment_bytes: int | None = None
    """Most bytes of a TCP segment; None: as many as the interface takes."""


class PahoWire:
    """The wire of one client, from before its CONNECT to after its end."""

    def __init__(self, transport: Any, paho: Any, reach: Reach, on_message: Callable[[Any], None]) -> None:
        self._transport = transport
        self._paho = paho
        self._reach = reach
        self._on_message = on_message
        self._puback = paho._send_puback
        self._granted = False  # by the SUBACK that was read last
        self._over = False
        self.silent = False
        """True if our keep-alive ended the connection."""
        self.socket: socket.socket | None = None
        """A descriptor of the connection beside the library's, which outlives it: TLS takes that one over."""
        self._sent, self._acked = 0, 0  # PUBLISHes; each is counted by one thread
        self._bytes = threading.Lock()
        self._queued_bytes, self._written_bytes = 0, 0
        self._counting = False
        self._gathered: bytearray | None = None
        """PUBLISHes that wait for `flush`; None: each one goes at once."""
        paho.max_inflight_messages_set(0)  # 0: no ceiling
        paho.disable_logger()  # of the lines that it would log, built for each message, we read none
        paho.on_message = self._message
        paho._send_puback = lambda mid: 0
        self._suback_read, paho.on_subscribe = paho.on_subscribe, self._suback
        with contextlib.suppress(AttributeError):
            _ = paho._create_socket_connection
            paho._create_socket_connection = self._connect
        with contextlib.suppress(AttributeError):
            self._misc, paho.loop_misc = paho.loop_misc, self._loop_misc
        with contextlib.suppress(AttributeError):
            self._disconnected, paho._do_on_disconnect = paho._do_on_disconnect, self._ended
        with contextlib.suppress(AttributeError):
            self._queue, self._write = paho._packet_queue, paho._sock_send
            paho._packet_queue, paho._sock_send = self._count_queued, self._count_written
            self._counting = True

    @classmethod
    def find(cls, client: Any, reach: Reach, on_message: Callable[[Any], None]) -> PahoWire | None:
        """The wire of a client that is not connected yet, or None where the library has changed.

        `on_message` is called by paho's thread with each message of paho's that comes.
        """
        try:
            stage = client._mqtt_pipeline._pipeline
            while not hasattr(stage, "transport"):
                stage = stage.next
            transport, paho = stage.transport, stage.transport._mqtt_client
            inspect.signature(transport.publish).bind("topic", b"payload", callback=print)
            inspect.signature(transport.subscribe).bind("topic", qos=1, callback=print)
            inspect.signature(transport.unsubscribe).bind("topic", callback=print)
            for name in ("_send_puback", "on_message", "on_subscribe"):
                if not hasattr(paho, name):
                    raise AttributeError(name)
            return cls(transport, paho, reach, on_message)
        except (AttributeError, TypeError) as exc:
            logger.bind(event=LogEvent.LIBRARY_CHANGED).warning(
                "azure-iot-device has changed inside ({}): sending one at a time", exc
            )
            return None

    # -- the connection ------------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        """Called by paho for a TCP connection, in the place of its own method."""
        reach = self._reach
        sock = dial(
            self._paho._host,
            self._paho._port,
            reach.proxy,
            reach.timeout_s,
            abandoned=lambda: self._over,
            segment_bytes=reach.segment_bytes,
        )
        self.socket = socket.socket(fileno=os.dup(sock.fileno()))
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._over:
            self.cut()
        return sock

    def blame_address(self) -> None:
        """TCP was connected, and nothing came of it: the next connection begins with another address."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                demote(self.socket.getpeername())

    def cut(self) -> None:
        """End the connection below TLS, and make sure that paho notices, even if its thread has died."""
        self._over = True
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        self.read_the_end()

    def read_the_end(self) -> None:
        """Do what paho's own thread would have done about a lost connection, where that thread has died."""
        thread = getattr(self._paho, "_thread", None)
        if thread is not None and not thread.is_alive():
            with contextlib.suppress(Exception):
                self._paho.loop_read()  # reads the end, and frees everything as its thread would have

    def close(self) -> None:
        """Free the resources that would else wait for Python's collector: the library is full of cycles."""
        sock, self.socket = self.socket, None
        if sock is not None:
            sock.close()
        with contextlib.suppress(Exception):
            self._paho._reset_sockets()
        self._paho.on_message = self._paho.on_subscribe = None
        for name in ("_send_puback", "_create_socket_connection", "loop_misc"):
            self._paho.__dict__.pop(name, None)
        for name in ("_do_on_disconnect", "_packet_queue", "_sock_send"):
            self._paho.__dict__.pop(name, None)

    # -- up ------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, done: Callable[..., None]) -> None:
        """Hand over a PUBLISH; `done` is called by its PUBACK, or with `cancelled=True`."""

        def answered(cancelled: bool = False) -> None:
            self._acked += 1
            done(cancelled=cancelled)

        self._sent += 1
        self._transport.publish(topic, payload, callback=answered)

    def gather(self) -> None:
        """Hold PUBLISHes back until `flush`, by the thread that calls `publish`."""
        if self._counting:
            self._gathered = bytearray()

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, None
        if gathered:
            self._write_together(gathered)

    def _write_together(self, packets: bytearray) -> None:
        """Queue packets as one. paho looks at the number and the QoS of a PUBLISH of QoS 0 alone."""
        self._queue(_PUBLISH, packets, 0, 1, None)

    def carried(self, client: int) -> Carried | None:
        """How far the bytes have come; None where that cannot be determined."""
        sock = self.socket
        if sock is None or not self._counting:
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            in_kernel = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
            segment_bytes = struct.unpack_from("I", info, _SEGMENT_AT)[0]
            acked_bytes = struct.unpack_from("Q", info, _ACKED_AT)[0]
        except (OSError, ValueError, struct.error):  # it is closed; an older kernel
            return None
        with self._bytes:
            unwritten = self._queued_bytes - self._written_bytes
        return Carried(client, acked_bytes, in_kernel + unwritten, segment_bytes)

    def _count_queued(self, command: int, packet: bytes, *rest: Any, **more: Any) -> Any:
        with self._bytes:
            self._queued_bytes += len(packet)
        if command != _PUBLISH or self._gathered is None:
            return self._queue(command, packet, *rest, **more)
        if self._gathered and len(self._gathered) + len(packet) > RECORD_BYTES:
            full, self._gathered = self._gathered, bytearray()
            self._write_together(full)
        self._gathered += packet
        return 0

    def _count_written(self, data: bytes) -> int:
        written: int = self._write(data)
        with self._bytes:
            self._written_bytes += written
        return written

    def _loop_misc(self) -> Any:
        if self._sent > self._acked:
            self._paho._ping_t = 0  # no ping is waited for
        return self._misc()

    def _ended(self, rc: int, *rest: Any) -> Any:
        self.silent = self.silent or rc == KEEPALIVE_RAN_OUT
        return self._disconnected(rc, *rest)

    # -- down ----------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, answered: Callable[[bool], None]) -> None:
        """Subscribe at QoS 1; `answered` gets the SUBACK's word. Await it before the next one."""

        def read(cancelled: bool = False) -> None:
            if not cancelled:
                answered(self._granted)

        self._transport.subscribe(topic_filter, qos=1, callback=read)

    def unsubscribe(self, topic_filter: str) -> None:
        self._transport.unsubscribe(topic_filter, callback=lambda cancelled=False: None)

    def acknowledge(self, packet_id: int) -> None:
        """Send the PUBACK of a message that came; from any thread."""
        self._puback(packet_id)

    def _message(self, _paho: Any, _data: Any, message: Any) -> None:
        """Called by paho's thread, which an exception would end."""
        with contextlib.suppress(Exception):
            self._on_message(message)

    def _suback(self, paho: Any, data: Any, mid: int, granted_qos: tuple[int, ...]) -> None:
        self._granted = bool(granted_qos) and all(qos < _REFUSED for qos in granted_qos)
        self._suback_read(paho, data, mid, granted_qos)
