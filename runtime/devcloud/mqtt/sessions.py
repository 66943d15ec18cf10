"""Sessions, which outlive a connection with clean session 0, and the hub's process
too: they are in devcloud.db.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from runtime.devcloud.mqtt.topics import Channel
from runtime.devcloud.state.database import Database


class HubSession:
    """A device's subscriptions, and the commands that it may have received."""

    def __init__(self, database: Database, name: str | None) -> None:
        self._database = database
        self._name = name
        kept = json.loads((name and database.recall(name)) or "null")
        self.present = kept is not None
        """True if the session existed before."""
        self.channels = {Channel[channel]: qos for channel, qos in (kept or {}).get("channels", {}).items()}
        """The subscribed channels, with the QoS of each."""
        self.sent: set[int] = set((kept or {}).get("sent", ()))
        """Commands that were sent and not acknowledged: they are sent again with DUP."""
        self._keep()

    def subscribe(self, channels: Mapping[Channel, int]) -> None:
        """Add channels, or change their QoS."""
        self.channels.update(channels)
        self._keep()

    def unsubscribe(self, channel: Channel) -> None:
        """Remove the subscription of a channel."""
        self.channels.pop(channel, None)
        self._keep()

    def command_sent(self, seq: int) -> None:
        self.sent.add(seq)
        self._keep()

    def command_acknowledged(self, seq: int) -> None:
        self.sent.discard(seq)
        self._keep()

    def _keep(self) -> None:
        if self._name is not None:
            channels = {channel.name: qos for channel, qos in self.channels.items()}
            self._database.remember(self._name, json.dumps({"channels": channels, "sent": [*self.sent]}))


def open_session(database: Database, device_id: str, *, clean: bool) -> HubSession:
    """Open a device's session; a clean one forgets the session before, and is forgotten with its
    connection.
    """
    if clean:
        forget_session(database, device_id)
    return HubSession(database, None if clean else _name(device_id))


def forget_session(database: Database, device_id: str) -> None:
    """Delete a device's session."""
    database.remember(_name(device_id), "null")


def _name(device_id: str) -> str:
    return f"session of {device_id}"
