"""Messages from the hub, on their way from paho's thread to the loop that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loguru import logger

from runtime.adapters.hub.paho_wire import PahoWire
from runtime.core.delivery.events import Inbound
from runtime.core.log_events import LogEvent
from runtime.core.management.hub_channels import HubChannel, channel_of, filter_of
from runtime.core.management.owed import MOST_OWED, MOST_OWED_BYTES


class InboundQueue:
    """Bounds what waits to be read: each counter is written by one thread.

    Where management is off, nothing is passed on. The message stays unacknowledged at the hub, and each
    client unsubscribes its channel once.
    """

    def __init__(self, publish: Callable[[Inbound], None]) -> None:
        self.on = False
        """True if management is switched on."""
        self._publish = publish
        self._came = self._came_bytes = self._read = self._read_bytes = 0

    def receiver(self, client: int, wire: Callable[[], PahoWire | None]) -> Callable[[Any], None]:
        """What a client's wire calls, in paho's thread, for each message."""
        left: set[str] = set()

        def came(message: Any) -> None:
            if self.on:
                self._pass_on(client, message)
            elif (topic_filter := filter_of(message.topic)) is not None and topic_filter not in left:
                left.add(topic_filter)
                if (own := wire()) is not None:
                    own.unsubscribe(topic_filter)
                    _warn_once(message.topic)

        return came

    def _pass_on(self, client: int, message: Any) -> None:
        size_bytes = len(message.payload)
        packet_id = message.mid if message.qos else None
        waiting, waiting_bytes = self._came - self._read, self._came_bytes - self._read_bytes
        if waiting >= MOST_OWED or waiting_bytes + size_bytes > MOST_OWED_BYTES:
            if packet_id is not None:  # a later one must not be acknowledged before it
                self._publish(Inbound(client, message.topic, b"", packet_id, too_many=True))
            return
        self._came += 1
        self._came_bytes += size_bytes
        self._publish(Inbound(client, message.topic, message.payload, packet_id, bool(message.dup)))

    def read(self, message: Inbound) -> None:
        """The loop has read this message."""
        if not message.too_many:
            self._read += 1
            self._read_bytes += len(message.payload)


logged_channels: set[HubChannel] = set()


def _warn_once(topic: str) -> None:
    """A message came down that nothing here handles: logged once for each channel."""
    channel = channel_of(topic)
    if channel is not None and channel not in logged_channels:
        logged_channels.add(channel)
        logger.bind(event=LogEvent.COMMAND_NOT_HANDLED).warning(
            "{} not acknowledged: this device handles none, so its channel is unsubscribed", _KINDS[channel]
        )


_KINDS = {
    HubChannel.COMMANDS: "cloud-to-device message",
    HubChannel.METHODS: "method call",
    HubChannel.TWIN_RESPONSES: "twin response",
    HubChannel.DESIRED: "change of the twin",
}
