"""MQTT connection to the hub by azure-iot-device: the only importer of azure. Its exceptions become events.

Invariants:

1. A client lives until its first error. An exception, a cancelled send, a disconnect, a thread that died: one
   `Lost`, and from then on the client is only discarded. The library acknowledges falsely after errors.
2. An `Acked` carries the number of its client, and an event of a client after `discard()` is dropped here.
3. Nothing blocks the caller: connecting and discarding run in threads, results come by `drain()`.
4. Discarding has a deadline. The library's threads may hang for ever, and the next client would share them:
   then the process leaves by `os._exit` and supervisord restarts it.

How many messages are kept in flight, in order: the caller's one thread calls `send`, which hands the PUBLISH
to the library's MQTT transport; the PUBACK comes back on the network thread into a queue, and `fileno()`
wakes the caller. Considered and left: the public `send_message` waits for its PUBACK, so one thread has one
in flight, and a pool of threads reorders; the aio client reorders now and then; the pipeline's own
`send_message` with a callback keeps the order but hops over three threads, half a millisecond a message.
`PahoWire` is the one place that knows the library's inside. Where a new version hides it, `send` falls back
to the public call in one thread: correct, in order, slow, and reported in the log.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from azure.iot.device import X509, IoTHubDeviceClient, Message, ProxyOptions
from azure.iot.device import exceptions as azure_errors
from loguru import logger

from runtime.adapters.hub.discard_deadline import ExitDeadline
from runtime.adapters.hub.event_queue import EventQueue
from runtime.adapters.hub.inbound import InboundQueue
from runtime.adapters.hub.paho_wire import PahoWire, Reach
from runtime.adapters.hub.thread_death import is_the_librarys, why_it_died
from runtime.adapters.net.certificate_pair import check_pair
from runtime.adapters.net.proxies import ProxyTrouble, as_azure_wants_it, causes, in_words, trouble_beneath
from runtime.adapters.net.reasons import reason_at
from runtime.adapters.net.tls_options import UnusableFile, authorities
from runtime.adapters.process.threads import start, start_thread
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.events import (
    Acked,
    Carried,
    Cause,
    Closed,
    Connected,
    ConnectionEvent,
    Inbound,
    Lost,
    Subscribed,
)
from runtime.core.identity.credentials import HubCredentials
from runtime.core.log_events import LogEvent
from runtime.core.management.hub_channels import ALLOWED_TOPICS
from runtime.core.proxy_url import Proxy

LOOK_EVERY_S = 0.1
"""Asking the kernel how far the bytes have come costs as much as a tenth of a message."""
LONGEST_KEEPALIVE_S = 1740
"""The hub waits 1.5 times the keep-alive, and 1,767 s at most; our ping has to come before."""
DISCARD_DEADLINE_S = 10.0
MQTT_PORT, WEBSOCKETS_PORT = 8883, 443
"""Both are built into the library."""
NOTICE_S = 2.0
"""Time that the library may take to see that its connection is gone; usually milliseconds."""
_FAR_FUTURE_S = 4_102_444_800  # 2100-01-01: an expiry that no local clock reaches

_Message: Any = Message  # the library's types cover it in part
_X509: Any = X509
_ProxyOptions: Any = ProxyOptions

for _name in ("azure", "paho"):  # they log every drop with a stack; relevant errors leave as events
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class HubOptions:
    """Options for reaching the hub."""

    ca_file: Path | None = None
    keepalive_s: int = 25
    websockets: bool = False
    proxy: Proxy | None = None
    connect_s: float = 20.0
    """Most time for the name, TCP and the proxy."""


class HubConnection(EventQueue[ConnectionEvent]):
    """The connection to the hub: at most one client at a time."""

    def __init__(self, options: HubOptions) -> None:
        super().__init__()
        self._options = options
        self._number = 0
        self._client: _Client | None = None
        self._carried_at_s = 0.0
        self.inbound = InboundQueue(self._publish)
        self._elders: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._hook_before = threading.excepthook
        threading.excepthook = self._thread_died

    def open(self, credentials: HubCredentials, segment_bytes: int | None = None, stretch: int = 1) -> int:
        """Begin to connect a new client and return its number. The one before must be `Closed`."""
        self._number += 1
        self._elders = weakref.WeakSet(threading.enumerate())
        reach = Reach(self._options.connect_s, self._options.proxy, segment_bytes)
        keepalive_s = min(self._options.keepalive_s * stretch, LONGEST_KEEPALIVE_S)
        options = replace(self._options, keepalive_s=keepalive_s)
        self._client = _Client(self._number, credentials, options, reach, self._publish, self.inbound)
        return self._number

    def send(self, tag: Hashable, telemetry: Telemetry) -> None:
        """Send on the client that is open. The calls' order is the order on the wire."""
        if self._client is not None:
            self._client.send(tag, telemetry)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is sent in this block goes to the line at its end, in as few writes as possible."""
        client = self._client
        if client is not None:
            client.gather()
        yield
        if client is not None:
            client.flush()

    def drain(self) -> list[ConnectionEvent]:
        """Events since the last call, oldest first."""
        events = super().drain()
        for event in events:
            if isinstance(event, Inbound):
                self.inbound.read(event)
        return events

    def publish(self, tag: Hashable, topic: str, payload: bytes) -> None:
        """Publish a twin request or the answer to a call; `Acked` follows. Raises ValueError for all else."""
        if not topic.startswith(ALLOWED_TOPICS):
            raise ValueError(f"{topic} is no topic of twin or methods")
        if self._client is not None:
            self._client.publish(tag, topic, payload)

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe to a channel; `Subscribed` follows, and must before the next call."""
        if self._client is not None:
            self._client.subscribe(topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe from a channel."""
        if self._client is not None:
            self._client.unsubscribe(topic_filter)

    def acknowledge(self, packet_id: int) -> None:
        """Tell the hub that the open client's message with this packet id is taken over."""
        if self._client is not None:
            self._client.acknowledge(packet_id)

    def discard(self) -> None:
        """Discard the client, whatever state it is in; `Closed` follows."""
        if self._client is not None:
            self._client.discard()

    def carried(self) -> Carried | None:
        """How far the bytes of the client have come; None where it is unknown, or was asked just now."""
        now = time.monotonic()
        if self._client is None or now < self._carried_at_s + LOOK_EVERY_S:
            return None
        self._carried_at_s = now
        return self._client.carried()

    def tuned(self) -> bool:
        """True if the client in use has the fast way to send."""
        return self._client is not None and self._client.wire is not None

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        """The library's network thread dies of an abrupt disconnect without an event (ssl.SSLEOFError).

        There is one such hook in a process: other threads' exceptions are passed on to the hook that was set
        before. A thread that ran before this client was opened belongs to an earlier one: no open client is
        to blame.
        """
        if not is_the_librarys(args.exc_traceback):
            self._hook_before(args)
            return
        if self._client is None or args.thread in self._elders:
            logger.debug("a thread of a client discarded before died: {}", args.exc_value)
        else:
            self._client.lost(*why_it_died(args.exc_value, self._client.where))


class _Client:
    """One client from connecting to discarding."""

    def __init__(
        self,
        number: int,
        credentials: HubCredentials,
        options: HubOptions,
        reach: Reach,
        publish: Callable[[ConnectionEvent], None],
        inbound: InboundQueue,
    ) -> None:
        self._number = number
        self._credentials = credentials
        self._options = options
        self._reach = reach
        self._publish = publish
        self._azure: Any = None
        self._connected = False
        port = WEBSOCKETS_PORT if options.websockets else MQTT_PORT
        self.where = f"{credentials.hub_host}:{port}"
        self._over = threading.Event()  # no more events once it is set
        self._stock: queue.SimpleQueue[tuple[Hashable, Telemetry] | None] = queue.SimpleQueue()
        self.wire: PahoWire | None = None
        self._received = inbound.receiver(number, lambda: self.wire)
        self.worker = threading.Thread(target=self._connect, name=f"connect-{number}", daemon=True)
        try:
            start(self.worker)
        except BlockingIOError as exc:
            self.lost(Cause.UNREACHABLE, str(exc.strerror))

    def lost(self, cause: Cause, reason: str) -> None:
        """Report the loss once; only the first reason is the true one."""
        if not self._over.is_set():
            self._over.set()
            if self.wire is not None and not self._connected and cause is Cause.UNREACHABLE:
                self.wire.blame_address()
            self._publish(Lost(self._number, cause, reason, self.carried()))

    def carried(self) -> Carried | None:
        return self.wire.carried(self._number) if self.wire is not None and self._connected else None

    def _dropped(self, reason: str) -> None:
        """The connection ended, and not by us, unless it was the keep-alive."""
        if self.wire is not None and self.wire.silent:
            self.lost(Cause.OVERDUE, f"our keep-alive had no answer for {self._options.keepalive_s} s")
        else:
            self.lost(Cause.DROPPED, reason)

    def send(self, tag: Hashable, telemetry: Telemetry) -> None:
        if self.wire is None:
            self._stock.put((tag, telemetry))
        else:
            self.publish(tag, telemetry.topic(self._credentials.device_id), telemetry.payload)

    def publish(self, tag: Hashable, topic: str, payload: bytes) -> None:
        def done(cancelled: bool = False) -> None:
            if cancelled:
                self._dropped("the connection ended with this message in flight")
            elif not self._over.is_set():
                self._publish(Acked(self._number, tag))

        self._on_wire(lambda wire: wire.publish(topic, payload, done))

    def gather(self) -> None:
        self._on_wire(PahoWire.gather)

    def flush(self) -> None:
        self._on_wire(PahoWire.flush)

    def subscribe(self, topic_filter: str) -> None:
        def answered(granted: bool) -> None:
            if not self._over.is_set():
                self._publish(Subscribed(self._number, topic_filter, granted))

        self._on_wire(lambda wire: wire.subscribe(topic_filter, answered))

    def unsubscribe(self, topic_filter: str) -> None:
        self._on_wire(lambda wire: wire.unsubscribe(topic_filter))

    def acknowledge(self, packet_id: int) -> None:
        self._on_wire(lambda wire: wire.acknowledge(packet_id))

    def _on_wire(self, action: Callable[[PahoWire], None]) -> None:
        """Do this on the wire. Where it fails the library's state is unknown: the client is lost."""
        if self.wire is None or self._over.is_set():
            return
        try:
            action(self.wire)
        except Exception as exc:
            self.lost(Cause.DROPPED, reason_at(exc, self.where))

    def discard(self) -> None:
        if self.wire is not None and not self._connected and not self._over.is_set():
            self.wire.blame_address()  # it did not connect within the deadline
        self._over.set()
        self._stock.put(None)
        try:
            start_thread(self._discard, f"discard-{self._number}")
        except BlockingIOError:
            if self._azure is not None or self.worker.is_alive():
                raise  # nothing can end it in order: supervisord restarts the process
            self._publish(Closed(self._number))

    def _connect(self) -> None:
        try:
            self._azure = _build(self._credentials, self._options)
            self.wire = PahoWire.find(self._azure, self._reach, self._received)
            if self.wire is None:
                threading.Thread(target=self._send_stock, name="send", daemon=True).start()
            self._azure.on_connection_state_change = self._state_changed
            self._azure.connect()
        except Exception as exc:  # any at all, out of the library
            self.lost(*_why_not_connected(exc, self.where))
        else:
            if not self._over.is_set():
                self._connected = True
                self._publish(Connected(self._number))
                self._state_changed()  # the connection may have ended already

    def _state_changed(self) -> None:
        """A handler of the library: an exception here would end its runner silently.

        While it connects, only connect() knows why it failed: a refusal ends the connection, too.
        """
        with contextlib.suppress(Exception):
            if self._connected and not self._azure.connected:
                self._dropped("the hub ended the connection")

    def _send_stock(self) -> None:
        """The public way to send, where `PahoWire` finds nothing: one message at a time, in order."""
        while (item := self._stock.get()) is not None:
            tag, telemetry = item
            message: Any = _Message(telemetry.payload, telemetry.mid, content_type=telemetry.content_type)
            message.custom_properties = telemetry.properties_from(self._credentials.device_id)
            try:
                self._azure.send_message(message)
            except Exception as exc:  # as in send()
                self.lost(Cause.DROPPED, reason_at(exc, self.where))
                return
            if not self._over.is_set():
                self._publish(Acked(self._number, tag))

    def _discard(self) -> None:
        # without the wire a connect that still runs may wait for the handshake as long as a keep-alive
        patience_s = 0.0 if self.wire else float(self._options.keepalive_s)
        deadline = ExitDeadline(DISCARD_DEADLINE_S + patience_s, self._number)
        try:
            if self.wire:
                self.wire.cut()
            self.worker.join()
            if self._azure is not None:
                self._wait_until_noticed()
                self._azure.shutdown()
        except Exception as exc:  # the client is gone anyway; the deadline covers hangs
            logger.debug("discarding client {}: {}", self._number, reason_at(exc, self.where))
        deadline.cancel()
        self._azure = None
        if self.wire:
            self.wire.close()
        self._publish(Closed(self._number))

    def _wait_until_noticed(self) -> None:
        """Wait until the library knows that its connection was cut.

        A shutdown that comes first waits for ever for an answer of a network thread that has ended, or died
        of the cut: in 14 of 54 rounds with 20 in flight on busy cores, none since.
        """
        until_s = time.monotonic() + NOTICE_S
        while self._azure.connected and time.monotonic() < until_s:
            if self.wire:
                self.wire.read_the_end()
            time.sleep(0.01)


def _build(credentials: HubCredentials, options: HubOptions) -> Any:
    """A client that neither connects nor reconnects by itself. Raises ValueError for unusable credentials."""
    common: dict[str, Any] = {
        "keep_alive": options.keepalive_s,
        "websockets": options.websockets,
        "auto_connect": False,
        "connection_retry": False,
        "ensure_desired_properties": False,
    }
    if options.ca_file is not None:
        common["server_verification_cert"] = authorities(options.ca_file)
    if options.proxy is not None:
        common["proxy_options"] = _ProxyOptions(*as_azure_wants_it(options.proxy))
    if credentials.sas is None:
        assert credentials.certificate is not None and credentials.key is not None
        try:
            check_pair(credentials.certificate, credentials.key)
        except (ValueError, OSError) as exc:
            raise UnusableFile(f"{exc}") from exc
        certificate = _X509(str(credentials.certificate), str(credentials.key))
        return IoTHubDeviceClient.create_from_x509_certificate(
            certificate, credentials.hub_host, credentials.device_id, **common
        )
    return _build_with_sas(credentials.sas.reveal(), common)


def _build_with_sas(sas: str, common: dict[str, Any]) -> Any:
    """A client for this SAS, whatever the local clock says: the hub decides if a SAS has expired.

    The library compares the expiry with the wall clock and raises ValueError. So it is given a far expiry
    first and the true SAS afterwards; where that attribute has moved, the library's own check stands.
    """
    client = IoTHubDeviceClient.create_from_sastoken(
        re.sub(r"\bse=\d+", f"se={_FAR_FUTURE_S}", sas), **common
    )
    try:
        configuration = client._mqtt_pipeline.pipeline_configuration
        configuration.sastoken = type(configuration.sastoken)(sas)
        return client
    except AttributeError:
        logger.bind(event=LogEvent.LIBRARY_CHANGED).warning(
            "azure-iot-device has changed inside: it judges the SAS by the local clock"
        )
        return IoTHubDeviceClient.create_from_sastoken(sas, **common)


def _why_not_connected(exc: Exception, where: str) -> tuple[Cause, str]:
    """Cause by the exception beneath: the library mistakes a proxy that refuses us for a hub that does."""
    if (beneath := trouble_beneath(exc)) is not None:
        return Cause.PROXY if isinstance(beneath, ProxyTrouble) else Cause.UNTRUSTED, in_words(beneath)
    if isinstance(exc, UnusableFile):
        return Cause.LOCAL, str(exc)
    if isinstance(exc, azure_errors.CredentialError):
        return Cause.REFUSED, reason_at(exc, where)
    if isinstance(exc, ValueError):
        return Cause.REFUSED, f"the credentials are unusable: {exc}"
    busy = any("broker unavailable" in str(cause) for cause in causes(exc))  # CONNACK 3
    return Cause.BUSY if busy else Cause.UNREACHABLE, reason_at(exc, where)
