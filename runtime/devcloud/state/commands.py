"""Command queue of every device: cloud-to-device messages from their sending to a final state, with feedback.

```
enqueued ──PUBACK──▶ completed          Success
    │──TTL over────▶ expired            Expired
    │──too often───▶ deadLettered       DeliveryCountExceeded (by abandoning; where told so, by ends of locks)
    │──reject──────▶ rejected           Rejected
    └──operator────▶ purged             Purged
```

A command stays `enqueued` while it is locked, that is, sent and not acknowledged (`command_locks.py`). Over
MQTT a PUBACK completes it, and nothing rejects or abandons it; over HTTPS there is a call for each.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from runtime.devcloud.state.database import Database
from runtime.devcloud.state.hub_limits import MOST_TTL_S, HubLimits
from runtime.devcloud.state.problems import Problem, bad_request
from runtime.devcloud.state.values import Command

MOST_BYTES = 64 * 1024
"""Limit of payload and properties together."""
_PROPERTY = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]*")
"""Characters that the hub allows in names and values of properties in this direction."""
_MESSAGE_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{0,128}")


class C2dState(StrEnum):
    """States of a command; all but the first are final."""

    ENQUEUED = "enqueued"
    COMPLETED = "completed"
    EXPIRED = "expired"
    DEAD_LETTERED = "deadLettered"
    REJECTED = "rejected"
    PURGED = "purged"


FEEDBACK = {
    C2dState.COMPLETED: "Success",
    C2dState.EXPIRED: "Expired",
    C2dState.DEAD_LETTERED: "DeliveryCountExceeded",
    C2dState.REJECTED: "Rejected",
    C2dState.PURGED: "Purged",
}
"""Status of the feedback record by final state."""


class FeedbackMode(StrEnum):
    """Feedback that the sender of a command asks for."""

    NONE = "none"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """System properties that the sender of a command sets."""

    message_id: str | None = None
    """None: one is made; empty: the command goes without."""
    correlation_id: str | None = None
    user_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expires_at_s: float | None = None
    """None: the hub's own TTL, of which the device is not told."""
    ack: FeedbackMode | None = None


class CommandQueue:
    """The commands of all devices."""

    def __init__(
        self, database: Database, limits: Callable[[], HubLimits], generation: Callable[[str], str]
    ) -> None:
        """`generation` names the life of a device: another one after it was deleted and made again."""
        self._database = database
        self._limits = limits
        self._generation = generation

    def enqueue(
        self,
        device_id: str,
        payload: bytes,
        properties: Mapping[str, str | None],
        options: CommandOptions,
        at_s: float,
    ) -> Command:
        """Enqueue a command. Raises Problem where the hub refuses it."""
        message_id = secrets.token_hex(8) if options.message_id is None else options.message_id
        system = _system(options, message_id)
        _check(payload, properties, options, message_id, at_s)
        self.expire(at_s)
        most = self._limits().commands_pending
        if self.depth(device_id) >= most:
            raise Problem(
                403,
                "hub/deviceMaximumQueueDepthExceeded",
                "The queue of this device is full",
                f"{most} commands wait for {device_id}; one must complete or expire first",
            )
        expires_at_s = options.expires_at_s or at_s + self._limits().command_ttl_s
        seq = self._database.execute(
            "INSERT INTO commands (device_id, message_id, payload, properties, system, ack, queued_at,"
            " expires_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(device_id, message_id, payload, json.dumps(dict(properties)), json.dumps(system)),
            *(options.ack, at_s, expires_at_s, C2dState.ENQUEUED),
        )
        return Command(seq, message_id, payload, dict(properties), system)

    def pending(self, device_id: str) -> list[Command]:
        """Commands in no final state, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM commands WHERE device_id = ? AND state = 'enqueued' ORDER BY seq", device_id
        )
        return [_command(row) for row in rows]

    def depth(self, device_id: str) -> int:
        """The number of commands in no final state."""
        row = self._database.row(
            "SELECT count(*) AS n FROM commands WHERE device_id = ? AND state = 'enqueued'", device_id
        )
        return row["n"] if row else 0

    def delivered(self, seq: int) -> int:
        """Count a delivery: the command was sent. Returns how often it was by now."""
        self._database.execute("UPDATE commands SET deliveries = deliveries + 1 WHERE seq = ?", seq)
        row = self._database.row("SELECT deliveries FROM commands WHERE seq = ?", seq)
        return row["deliveries"] if row else 0

    def complete(self, seq: int, at_s: float) -> bool:
        """Complete a command by the device's PUBACK; False where it was in a final state before."""
        return self._settle(C2dState.COMPLETED, at_s, "seq = ?", seq) > 0

    def lock_ended(self, seq: int, at_s: float) -> None:
        """A lock ended without PUBACK: the command is free again, or was delivered too often."""
        if self._limits().lock_end_counts:
            self.abandon(seq, at_s)

    def abandon(self, seq: int, at_s: float) -> None:
        """The device gave a command back: it is free again, or was delivered too often."""
        condition, most = "seq = ? AND deliveries >= ?", self._limits().command_deliveries
        self._settle(C2dState.DEAD_LETTERED, at_s, condition, seq, most)

    def reject(self, seq: int, at_s: float) -> bool:
        """The device refused a command for ever; False where it was in a final state before."""
        return self._settle(C2dState.REJECTED, at_s, "seq = ?", seq) > 0

    def expire(self, now_s: float) -> int:
        """Expire the commands whose time is over. Returns how many."""
        return self._settle(C2dState.EXPIRED, now_s, "expires_at <= ?", now_s)

    def purge(self, device_id: str, at_s: float) -> int:
        """Empty the queue of a device. Returns how many commands it held."""
        return self._settle(C2dState.PURGED, at_s, "device_id = ?", device_id)

    def forget(self, device_id: str) -> None:
        """Delete the commands of a deleted device, and their feedback with them, as the hub does."""
        for table in ("commands", "feedback"):
            self._database.execute(f"DELETE FROM {table} WHERE device_id = ?", device_id)  # noqa: S608 (names are ours)

    def records(self, device_id: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Commands after number `after` in any state, oldest first."""
        return self._database.rows(
            "SELECT * FROM commands WHERE seq > ?1 AND (?3 IS NULL OR device_id = ?3) ORDER BY seq LIMIT ?2",
            *(after, limit, device_id),
        )

    def newest(self, device_id: str, limit: int) -> list[dict[str, Any]]:
        """The newest commands of a device in any state, newest first."""
        return self._database.rows(
            "SELECT * FROM commands WHERE device_id = ? ORDER BY seq DESC LIMIT ?", device_id, limit
        )

    def feedback(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Feedback records after number `after`, oldest first."""
        return self._database.rows("SELECT * FROM feedback WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)

    def _settle(self, state: C2dState, at_s: float, condition: str, *values: Any) -> int:
        """Move the matching commands to a final state, and write the feedback that was asked for."""
        chosen = self._database.rows(
            f"SELECT seq, device_id, message_id, ack FROM commands WHERE state = 'enqueued' AND {condition}",  # noqa: S608 (ours)
            *values,
        )
        for row in chosen:
            self._database.execute(
                "UPDATE commands SET state = ?, settled_at = ? WHERE seq = ?", state, at_s, row["seq"]
            )
            wanted = FeedbackMode.POSITIVE if state is C2dState.COMPLETED else FeedbackMode.NEGATIVE
            if row["ack"] in (FeedbackMode.FULL, wanted):
                self._database.execute(
                    "INSERT INTO feedback (device_id, generation, message_id, status, at)"
                    " VALUES (?, ?, ?, ?, ?)",
                    *(row["device_id"], self._generation(row["device_id"])),
                    *(row["message_id"], FEEDBACK[state], at_s),
                )
        return len(chosen)


def _command(row: Mapping[str, Any]) -> Command:
    return Command(
        row["seq"],
        row["message_id"],
        row["payload"],
        json.loads(row["properties"]),
        json.loads(row["system"]),
    )


def _system(options: CommandOptions, message_id: str) -> dict[str, str]:
    """System properties by their names in a topic, in the order in which the hub writes them."""
    expires_at_s = options.expires_at_s
    named = {
        "$.exp": None if expires_at_s is None else topic_time(expires_at_s),
        "$.cid": options.correlation_id,
        "$.uid": options.user_id,
        "$.mid": message_id or None,
        "$.ct": options.content_type,
        "$.ce": options.content_encoding,
        "iothub-ack": options.ack,
    }
    return {name: value for name, value in named.items() if value is not None}


def topic_time(moment_s: float) -> str:
    """A time as the hub writes it in a topic: `2020-07-25T14:14:25.1720000Z`, in steps of 100 ns."""
    moment = datetime.fromtimestamp(moment_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}0Z"


def _check(
    payload: bytes,
    properties: Mapping[str, str | None],
    options: CommandOptions,
    message_id: str,
    at_s: float,
) -> None:
    """Raise Problem for what the hub does not take from the sender of a command."""
    for name, value in properties.items():
        if not (name and _PROPERTY.fullmatch(name) and _PROPERTY.fullmatch(value or "")):
            raise bad_request(
                f"the property {name[:80]!r} holds more than A-Z a-z 0-9 and !#$%&'*+-.^_`|~ in name or value"
            )
    if not _MESSAGE_ID.fullmatch(message_id):
        raise bad_request("the message id is not up to 128 of A-Z a-z 0-9 and -:.+%_#*?!(),=@;$'")
    described = sum(len(name) + len(value or "") for name, value in properties.items())
    if len(payload) + described > MOST_BYTES:
        raise Problem(413, "common/tooLarge", f"The command exceeds {MOST_BYTES} bytes")
    if options.expires_at_s is not None and not at_s < options.expires_at_s <= at_s + MOST_TTL_S:
        raise bad_request("the expiry is not within the next two days")
