"""What is kept of a device's session with clean session 0, in devcloud.db."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from runtime.devcloud.state.database import Database


@dataclass
class KeptSession:
    """Channels by their names with the QoS of each, and the commands that were sent and not acknowledged."""

    channels: dict[str, int] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)


def load_session(database: Database, device_id: str) -> KeptSession | None:
    """The session of a device, or None if there is none."""
    kept = json.loads(database.recall(_name(device_id)) or "null")
    return None if kept is None else KeptSession(**kept)


def keep_session(database: Database, device_id: str, session: KeptSession) -> None:
    """Write the session of a device."""
    database.remember(_name(device_id), json.dumps(asdict(session)))


def forget_session(database: Database, device_id: str) -> None:
    """Delete the session of a device."""
    database.remember(_name(device_id), "null")


def _name(device_id: str) -> str:
    return f"session of {device_id}"
