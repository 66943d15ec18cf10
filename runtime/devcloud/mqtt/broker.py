"""Broker: an IoT-Hub-like MQTT endpoint over TLS. It keeps to the contract and misbehaves only when told.

Store first, acknowledge second, here too: the messages that arrived from all connections in one turn of the
loop are recorded in one commit, then their PUBACKs leave, per connection in the order of arrival.

`Broker` holds the parts that connections share (listener, group commit, takeover, the look at the clocks); a
`Connection` is one TLS connection, a `Conversation` the exchange with an admitted device on it, a
`PubackQueue` the order and times in which its PUBACKs leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time

from loguru import logger

from runtime.devcloud.mqtt.connection import Connection
from runtime.devcloud.mqtt.sessions import HubSession, open_session
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.faults import Faults
from runtime.devcloud.state.values import Received

SWEEP_S = 0.1
"""Period at which clocks and faults are checked: expired SAS, keep-alive, the end of a silence."""
TLS_TIMEOUT_S = 10.0


class Broker:
    """Listens until `stop`. All its methods are called on the loop that `serve` ran in."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.connections: set[Connection] = set()
        self._faults: Faults | None = None
        self._acks_left: int | None = None
        self._arrived: list[tuple[Connection, int, Received | None]] = []
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, ssl_context: ssl.SSLContext) -> None:
        """Open the listener."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self),
            host,
            port,
            ssl=ssl_context,
            backlog=1024,
            ssl_handshake_timeout=TLS_TIMEOUT_S,
            ssl_shutdown_timeout=2.0,  # a peer that does not answer close_notify
        )
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        """Take the listener away and drop every connection, abruptly."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        self.drop("abrupt")
        self._server = None

    def drop(self, mode: str, device_id: str | None = None) -> int:
        """Drop a device's connection or all: `abrupt` by RST, `polite` by FIN. Returns how many."""
        chosen = [c for c in self.connections if device_id in (None, c.device_id)]
        for connection in chosen:
            connection.end(f"dropped on request ({mode})", abrupt=mode == "abrupt")
        return len(chosen)

    # -- for connections ---------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """The faults in force; counts start over whenever the faults change."""
        if self.cloud.faults is not self._faults:
            self._faults = self.cloud.faults
            self._acks_left = self._faults.ack_limit
        return self._faults

    def admit(self, newcomer: Connection, device_id: str, clean: bool) -> HubSession:
        """Admit a device, one connection each: end any other. Returns the device's session."""
        for other in [c for c in self.connections if c.device_id == device_id and c is not newcomer]:
            other.end("another connection of the same device")
        return open_session(self.cloud.database, device_id, clean=clean)

    def arrived(self, connection: Connection, packet_id: int, received: Received | None) -> None:
        """Record a message with the others of this turn, then acknowledge `packet_id` (0: none)."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self.commit)
        self._arrived.append((connection, packet_id, received))

    def commit(self) -> None:
        """Record the messages that wait, in one commit; only then acknowledge them."""
        arrived, self._arrived = self._arrived, []
        try:
            self.cloud.record([received for _, _, received in arrived if received is not None])
        except Exception:
            for connection, _, _ in arrived:
                connection.end("the hub could not record", abrupt=True)
            raise
        owed: dict[Connection, list[int]] = {}
        for connection, packet_id, _ in arrived:
            if packet_id:
                owed.setdefault(connection, []).append(packet_id)
        for connection, packet_ids in owed.items():
            connection.acknowledge(packet_ids)

    def acks_allowed(self) -> int:
        """The number of PUBACKs that may leave now."""
        if self.faults.withhold_acks:
            return 0
        return sys.maxsize if self._acks_left is None else self._acks_left

    def acks_sent(self, count: int) -> None:
        """Count PUBACKs against the limit."""
        if self._acks_left is not None:
            self._acks_left -= count

    def forget(self, connection: Connection, reason: str) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if connection.number is not None:
            self.cloud.closed(connection.number, reason, time.time())
            logger.debug("hub: connection of {} ended: {}", connection.device_id, reason)

    # -- clocks ------------------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.time()
            self.cloud.commands.expire(now_s)
            for connection in list(self.connections):
                connection.tick(now_s)


async def serve(cloud: Cloud, host: str, port: int, ssl_context: ssl.SSLContext) -> Broker:
    """Run a hub that listens."""
    hub = Broker(cloud)
    await hub.listen(host, port, ssl_context)
    return hub
