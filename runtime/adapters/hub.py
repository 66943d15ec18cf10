"""The line to the hub, by azure-iot-device: the only importer of azure. Its exceptions leave as our events.

Invariants:

1. A client lives until its first error. An exception, a cancelled send, a disconnect, a thread that died: one
   `Lost`, and from then on the client is only discarded. The library acknowledges falsely after errors.
2. An `Acked` carries the number of its client, and what a client says after `discard()` is dropped here.
3. Nothing blocks the caller: connecting and discarding run in threads, results come by `take()`.
4. Discarding has a deadline. The library's threads may hang for good, and the next client would share them:
   then the process leaves by `os._exit` and supervisord starts it afresh.

How many are kept in flight, in order: the caller's one thread calls `send`, which hands the PUBLISH to the
library's MQTT transport; the PUBACK comes back on the network thread into a queue, and `fileno()` wakes the
caller. Considered and left: the public `send_message` waits for its PUBACK, so one thread has one in flight,
and a pool of threads reorders; the aio client reorders now and then; the pipeline's own `send_message` with a
callback keeps the order but hops over three threads, half a millisecond a message. `_Wire` is the one place
that knows the library's inside. Where a new version hides it, `send` falls back to the public call in one
thread: correct, in order, slow, and said so in the log.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import queue
import re
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from azure.iot.device import X509, IoTHubDeviceClient, Message, ProxyOptions
from azure.iot.device import exceptions as azure_errors
from loguru import logger

from runtime.adapters.certificate_pair import check_pair
from runtime.adapters.proxies import ProxyTrouble, as_azure_wants_it, causes, in_words, trouble_beneath
from runtime.adapters.tidings import Tidings
from runtime.core.credentials import HubCredentials
from runtime.core.envelope import Telemetry
from runtime.core.line import Acked, Cause, Closed, Connected, LineEvent, Lost
from runtime.core.proxy import Proxy
from runtime.errors import ConfigError

EXIT_HUNG = 70
"""Exit status of a process whose client could not be discarded."""
DISCARD_DEADLINE_S = 10.0
NOTICE_S = 2.0
"""For so long the library may take to see that its connection is gone; usually milliseconds."""
_FAR_FUTURE_S = 4_102_444_800  # 2100-01-01: an expiry that no local clock reaches

_Message: Any = Message  # the library's types cover it in part
_X509: Any = X509
_ProxyOptions: Any = ProxyOptions

for _name in ("azure", "paho"):  # they log every drop with a stack; what matters comes out as an event
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class HubOptions:
    """How to reach the hub."""

    ca_file: Path | None = None
    keepalive_s: int = 25
    websockets: bool = False
    proxy: Proxy | None = None


class Hub(Tidings[LineEvent]):
    """The line: at most one client at a time."""

    def __init__(self, options: HubOptions) -> None:
        super().__init__()
        self._options = options
        self._number = 0
        self._client: _Client | None = None
        self._elders: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._hook_before = threading.excepthook
        threading.excepthook = self._thread_died

    def open(self, credentials: HubCredentials) -> int:
        """Begin to connect a new client and return its number. The one before must be `Closed`."""
        self._number += 1
        self._elders = weakref.WeakSet(threading.enumerate())
        self._client = _Client(self._number, credentials, self._options, self._tell)
        return self._number

    def send(self, tag: Hashable, telemetry: Telemetry) -> None:
        """Send on the client that is open. The calls' order is the order on the wire."""
        if self._client is not None:
            self._client.send(tag, telemetry)

    def discard(self) -> None:
        """Let go of the client, whatever state it is in; `Closed` follows."""
        if self._client is not None:
            self._client.discard()

    def tuned(self) -> bool:
        """Whether the client in use has the fast way to send."""
        return self._client is not None and self._client.wire is not None

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        """The library's network thread dies of an abrupt disconnect, and tells nobody (ssl.SSLEOFError).

        There is one such hook in a process: what dies of other threads is passed on to whoever had it before.
        A thread that ran before this client was opened belongs to an earlier one: nobody is to blame.
        """
        if not _is_the_librarys(args.exc_traceback):
            self._hook_before(args)
            return
        reason = f"a thread died: {args.exc_type.__name__}: {args.exc_value}"
        if self._client is None or args.thread in self._elders:
            logger.debug("of a client discarded before: {}", reason)
        else:
            self._client.lost(Cause.DROPPED, reason)


class _Client:
    """One client from connecting to discarding."""

    def __init__(
        self,
        number: int,
        credentials: HubCredentials,
        options: HubOptions,
        tell: Callable[[LineEvent], None],
    ) -> None:
        self._number = number
        self._credentials = credentials
        self._options = options
        self._tell = tell
        self._azure: Any = None
        self._connected = False
        self._over = threading.Event()  # nothing more is told once it is set
        self._stock: queue.SimpleQueue[tuple[Hashable, Telemetry] | None] = queue.SimpleQueue()
        self.wire: _Wire | None = None
        self.worker = threading.Thread(target=self._connect, name=f"connect-{number}", daemon=True)
        self.worker.start()

    def lost(self, cause: Cause, reason: str) -> None:
        """Tell it once; only the first reason is the true one."""
        if not self._over.is_set():
            self._over.set()
            self._tell(Lost(self._number, cause, reason))

    def send(self, tag: Hashable, telemetry: Telemetry) -> None:
        if self.wire is None:
            self._stock.put((tag, telemetry))
            return

        def done(cancelled: bool = False) -> None:
            if cancelled:
                self.lost(Cause.DROPPED, "the connection ended with this message in flight")
            elif not self._over.is_set():
                self._tell(Acked(self._number, tag))

        try:
            self.wire.publish(telemetry.topic(self._credentials.device_id), telemetry.payload, done)
        except Exception as exc:  # any at all: the library's state is unknown now
            self.lost(Cause.DROPPED, _words(exc))

    def discard(self) -> None:
        self._over.set()
        self._stock.put(None)
        threading.Thread(target=self._discard, name=f"discard-{self._number}", daemon=True).start()

    def _connect(self) -> None:
        try:
            self._azure = _build(self._credentials, self._options)
            self.wire = _Wire.find(self._azure)
            if self.wire is None:
                threading.Thread(target=self._send_stock, name="send", daemon=True).start()
            self._azure.on_connection_state_change = self._state_changed
            self._azure.connect()
        except Exception as exc:  # any at all: it is the weather of a library
            self.lost(*_why_not_connected(exc))
        else:
            if not self._over.is_set():
                self._connected = True
                self._tell(Connected(self._number))
                self._state_changed()  # it may have ended already

    def _state_changed(self) -> None:
        """A handler of the library: an exception here would end its runner in silence.

        While it connects, only connect() knows why it failed: a refusal ends the connection, too.
        """
        with contextlib.suppress(Exception):
            if self._connected and not self._azure.connected:
                self.lost(Cause.DROPPED, "the hub ended the connection")

    def _send_stock(self) -> None:
        """The public way, where `_Wire` finds nothing: one at a time, in order."""
        while (item := self._stock.get()) is not None:
            tag, telemetry = item
            message: Any = _Message(telemetry.payload, telemetry.mid, content_type=telemetry.content_type)
            message.custom_properties = dict(telemetry.properties)
            try:
                self._azure.send_message(message)
            except Exception as exc:  # as in send()
                self.lost(Cause.DROPPED, _words(exc))
                return
            if not self._over.is_set():
                self._tell(Acked(self._number, tag))

    def _discard(self) -> None:
        # without its socket a connect that still runs may wait for the handshake as long as a keep-alive
        patience_s = 0.0 if self.wire and self.wire.socket else float(self._options.keepalive_s)
        deadline = threading.Timer(DISCARD_DEADLINE_S + patience_s, _give_up, [self._number])
        deadline.daemon = True
        deadline.start()
        try:
            if self.wire:
                self.wire.cut()
            self.worker.join()
            if self._azure is not None:
                self._let_it_notice()
                self._azure.shutdown()
        except Exception as exc:  # it is gone anyway; what still hangs is the deadline's
            logger.debug("discarding client {}: {}", self._number, _words(exc))
        deadline.cancel()
        self._azure = None
        self._tell(Closed(self._number))

    def _let_it_notice(self) -> None:
        """Wait until the library knows that its connection was cut.

        A shutdown that comes first waits for good for the word of a network thread that has ended, or died
        of the cut: in 14 of 54 rounds with 20 in flight on busy cores, none since.
        """
        until_s = time.monotonic() + NOTICE_S
        while self._azure.connected and time.monotonic() < until_s:
            if self.wire:
                self.wire.read_the_end()
            time.sleep(0.01)


def _is_the_librarys(trace: TracebackType | None) -> bool:
    """Whether the thread that died so had come through azure-iot-device or paho."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(trace))
    return any(name.startswith(("azure.", "paho.")) for name in modules)


def _give_up(number: int) -> None:
    logger.error("client {} cannot be discarded; leaving, to be started afresh", number)
    os._exit(EXIT_HUNG)


class _Wire:
    """The paho client below azure-iot-device: private parts of the library, used here and nowhere else.

    It lifts paho's ceiling of 20 in flight (the window is ours), switches Nagle's delay off, publishes
    without waiting, and pulls the plug on a socket so that no thread of the library is left waiting for it.
    """

    def __init__(self, transport: Any, paho: Any) -> None:
        self._transport = transport
        self._paho = paho
        self.socket: Any = None
        self._below: socket.socket | None = None  # while TLS begins, which may take paho a whole keep-alive
        self._over = False
        paho.max_inflight_messages_set(0)  # 0: no ceiling
        paho.on_socket_open = self._opened
        with contextlib.suppress(AttributeError):
            reach = paho._create_socket_connection
            paho._create_socket_connection = lambda: self._reached(reach())

    @classmethod
    def find(cls, client: Any) -> _Wire | None:
        """The wire of a client that is not connected yet, or None where the library has changed."""
        try:
            stage = client._mqtt_pipeline._pipeline
            while not hasattr(stage, "transport"):
                stage = stage.next
            transport, paho = stage.transport, stage.transport._mqtt_client
            inspect.signature(transport.publish).bind("topic", b"payload", callback=print)
            if not hasattr(paho, "on_socket_open"):
                raise AttributeError("on_socket_open")
            return cls(transport, paho)
        except (AttributeError, TypeError) as exc:
            logger.warning("azure-iot-device has changed inside ({}): sending one at a time", exc)
            return None

    def _reached(self, sock: Any) -> Any:
        """TCP stands. TLS takes the socket over, so a second one for the same connection is kept."""
        self._below = socket.socket(fileno=os.dup(sock.fileno()))
        if self._over:
            self.cut()
        return sock

    def _opened(self, _paho: Any, _data: Any, sock: Any) -> None:
        self.socket = sock
        self._let_go_below()
        with contextlib.suppress(OSError, AttributeError):
            getattr(sock, "_socket", sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def publish(self, topic: str, payload: bytes, done: Callable[..., None]) -> None:
        self._transport.publish(topic, payload, callback=done)

    def cut(self) -> None:
        """End the connection below TLS, and see to it that paho notices, even if its thread has died."""
        self._over = True
        if (below := self._below) is not None:
            with contextlib.suppress(OSError):
                below.shutdown(socket.SHUT_RDWR)
            self._let_go_below()
        with contextlib.suppress(OSError, AttributeError, TypeError):
            # the base class's: SSLSocket's own takes the TLS state away under the reader's feet
            plain = getattr(self.socket, "_socket", self.socket)  # inside paho's WebsocketWrapper
            socket.socket.shutdown(plain, socket.SHUT_RDWR)
        self.read_the_end()

    def _let_go_below(self) -> None:
        below, self._below = self._below, None
        if below is not None:
            below.close()

    def read_the_end(self) -> None:
        """Do what paho's own thread would have done about a lost connection, where that thread has died."""
        thread = getattr(self._paho, "_thread", None)
        if thread is not None and not thread.is_alive():
            with contextlib.suppress(Exception):
                self._paho.loop_read()  # reads the end, and lets go of everything as its thread would have


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
        try:
            common["server_verification_cert"] = options.ca_file.read_text()
        except OSError as exc:
            raise ConfigError(f"upload.ca_file {options.ca_file}: {exc.strerror}") from exc
    if options.proxy is not None:
        common["proxy_options"] = _ProxyOptions(*as_azure_wants_it(options.proxy))
    if credentials.sas is None:
        assert credentials.certificate is not None and credentials.key is not None
        check_pair(credentials.certificate, credentials.key)
        certificate = _X509(str(credentials.certificate), str(credentials.key))
        return IoTHubDeviceClient.create_from_x509_certificate(
            certificate, credentials.hub_host, credentials.device_id, **common
        )
    return _build_with_sas(credentials.sas.reveal(), common)


def _build_with_sas(sas: str, common: dict[str, Any]) -> Any:
    """A client for this SAS, whatever the local clock says: whether a SAS has expired is for the hub to say.

    The library compares the expiry with the wall clock and raises ValueError. So it gets to see a far
    expiry first and the true SAS afterwards; where that place has moved, its own opinion stands.
    """
    client = IoTHubDeviceClient.create_from_sastoken(
        re.sub(r"\bse=\d+", f"se={_FAR_FUTURE_S}", sas), **common
    )
    try:
        configuration = client._mqtt_pipeline.pipeline_configuration
        configuration.sastoken = type(configuration.sastoken)(sas)
        return client
    except AttributeError:
        logger.warning("azure-iot-device has changed inside: it judges the SAS by the local clock")
        return IoTHubDeviceClient.create_from_sastoken(sas, **common)


def _why_not_connected(exc: Exception) -> tuple[Cause, str]:
    """By what lies beneath: the library takes a proxy that refuses us for a hub that does."""
    if (beneath := trouble_beneath(exc)) is not None:
        return Cause.PROXY if isinstance(beneath, ProxyTrouble) else Cause.UNTRUSTED, in_words(beneath)
    if isinstance(exc, azure_errors.CredentialError):
        return Cause.REFUSED, _words(exc)
    if isinstance(exc, ValueError):
        return Cause.REFUSED, f"the credentials are unusable: {exc}"
    busy = "Connection Refused: broker unavailable" in _words(exc)  # CONNACK 3
    return Cause.BUSY if busy else Cause.UNREACHABLE, _words(exc)


def _words(exc: BaseException) -> str:
    """An exception and what caused it, in one line."""
    told = [f"{type(cause).__name__}: {cause}".rstrip(": ") for cause in causes(exc)]
    return " <- ".join(told[:4])
