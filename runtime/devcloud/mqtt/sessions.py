"""Sessions, which outlive a connection with clean session 0, and the hub's process
too: they are in devcloud.db.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.devcloud.mqtt.topics import Channel
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.kept_sessions import KeptSession, forget_session, keep_session, load_session


class HubSession:
    """A device's subscriptions, and the commands that it may have received."""

    def __init__(self, database: Database, device_id: str | None) -> None:
        self._database = database
        self._device_id = device_id
        kept = load_session(database, device_id) if device_id is not None else None
        self.present = kept is not None
        """True if the session existed before."""
        session = kept or KeptSession()
        self.channels = {Channel[channel]: qos for channel, qos in session.channels.items()}
        """The subscribed channels, with the QoS of each."""
        self.sent = set(session.sent)
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
        if self._device_id is not None:
            channels = {channel.name: qos for channel, qos in self.channels.items()}
            keep_session(self._database, self._device_id, KeptSession(channels, [*self.sent]))


def open_session(database: Database, device_id: str, *, clean: bool) -> HubSession:
    """Open a device's session; a clean one forgets the session before, and is forgotten with its
    connection.
    """
    if clean:
        forget_session(database, device_id)
    return HubSession(database, None if clean else device_id)
