"""What outlives a connection with clean session 0, and the hub's process too: it is in devcloud.db."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runtime.devcloud.mqtt.topics import Channel
from runtime.devcloud.state.database import Database


class HubSession:
    """What a device listens to, and the commands that it may have seen."""

    def __init__(self, database: Database, name: str | None) -> None:
        self._database = database
        self._name = name
        kept = json.loads((name and database.recall(name)) or "null")
        self.present = kept is not None
        """Whether it was there before."""
        self.channels = {Channel[channel]: qos for channel, qos in (kept or {}).get("channels", {}).items()}
        """With the QoS of each."""
        self.sent: set[int] = set((kept or {}).get("sent", ()))
        """Commands that were sent and not acknowledged: sent again with DUP."""
        self._keep()

    def listen(self, channels: Mapping[Channel, int]) -> None:
        """Add channels, or change their QoS."""
        self.channels.update(channels)
        self._keep()

    def ignore(self, channel: Channel) -> None:
        """Listen to it no more."""
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
    """A device's session; a clean one forgets what was, and is forgotten with its connection."""
    if clean:
        forget_session(database, device_id)
    return HubSession(database, None if clean else _name(device_id))


def forget_session(database: Database, device_id: str) -> None:
    """The device never listened to anything."""
    database.remember(_name(device_id), "null")


def _name(device_id: str) -> str:
    return f"session of {device_id}"
