"""The stand-in's listening addresses: an address of its own, and the same one again at its next start."""

from __future__ import annotations

import errno
import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path

from runtime.devcloud.files import write_whole
from runtime.errors import UsageError

HUB_PORT = 8883
"""The port that azure-iot-device has built in: two hubs on one machine differ in their address."""
HTTPS_PORT = 443
"""The port that azure-iot-device has built in for MQTT over WebSockets."""
_TRIES = 200


@dataclass(frozen=True)
class ListenAddresses:
    """The addresses and ports on which the stand-in listens."""

    address: str
    https: socket.socket
    """The bound socket."""
    dps_address: str
    """The address of DPS, which has the hub's port built in too, and is another host."""


def bind_addresses(folder: Path, address: str, https_port: int) -> ListenAddresses:
    """Bind the addresses; `auto` and port 0 mean those of last time, else free ones."""
    memory = folder / "place.json"
    last = json.loads(memory.read_text()) if memory.exists() else {}
    if address == "auto":
        address = last.get("address") or _free_address()
    port = https_port or last.get("https_port", 0)
    try:
        listener = _bound(address, port)
    except OSError as exc:
        raise UsageError(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
    dps_address = last.get("dps_address") or _free_address()
    known = {"address": address, "https_port": listener.getsockname()[1], "dps_address": dps_address}
    write_whole(memory, json.dumps(known))
    return ListenAddresses(address, listener, dps_address)


def standard_port(address: str, https_port: int) -> list[socket.socket]:
    """A bound socket for port 443 beside ours, as the real hub has it; none where this user may not bind
    it.
    """
    try:
        return [] if https_port == HTTPS_PORT else [_bound(address, HTTPS_PORT)]
    except OSError:
        return []


def _free_address() -> str:
    for _ in range(_TRIES):
        candidate = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(2, 254)}"
        try:
            _bound(candidate, HUB_PORT).close()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise UsageError(f"cannot listen on {candidate}: {exc.strerror}") from exc
        else:
            return candidate
    raise UsageError(f"no address in 127.0.0.0/8 has port {HUB_PORT} free; who listens on all addresses?")


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
