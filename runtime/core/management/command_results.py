"""Ended commands: the message that says so to the cloud, and how long they are remembered."""

from __future__ import annotations

from typing import Any

from runtime.core.management.command_queue import DEDUP_S
from runtime.core.management.command_record import CommandRow, CommandState, Instant
from runtime.core.management.strict_json import decode_json, encode_json

REMEMBERED = 10_000
"""Ended commands that are remembered beyond the time in which the hub may repeat one."""
MOST_REMEMBERED = 100_000
"""Beyond so many the oldest is forgotten, though the hub may repeat it."""
REMEMBERED_S = 30 * 86_400.0
WAIT_FOR_A_PERSON = (CommandState.DEAD, CommandState.UNCERTAIN)


def result_message(command: CommandRow) -> bytes:
    """The message about the end of a command. Its property `correlation-id` is the command's id."""
    assert command.state.final and command.ended is not None
    message: dict[str, Any] = {
        "command": command.seq,
        "id": command.id,
        "name": command.name,
        "state": str(command.state),
        "status": command.status,
        "attempts": command.attempts,
        "age_s": command.ended.since(command.received),
    }
    if command.leaf:
        message["leaf"] = command.leaf
    if command.reason:
        message["reason"] = command.reason
    if command.result:
        message |= _result(command.result)
    return encode_json(message)


def _result(result: bytes) -> dict[str, Any]:
    """JSON as it is, other text as text, and anything else in hexadecimal."""
    try:
        return {"result": decode_json(result)}
    except ValueError:
        pass
    try:
        return {"result": result.decode()}
    except UnicodeDecodeError:
        return {"result_hex": result.hex()}


def forgettable(command: CommandRow, newer: int, now: Instant) -> bool:
    """True if an ended command may be forgotten; `newer` is the number of commands that ended after it.

    What is dead or uncertain is kept until an operator drops it, and what the cloud does not know of yet is
    kept until it does.
    """
    if not command.state.final or not command.result_stored or command.ended is None:
        return False
    if command.state in WAIT_FOR_A_PERSON and not command.dropped:
        return False
    age_s = now.since(command.ended)
    repeats = age_s is not None and age_s <= DEDUP_S
    old = age_s is not None and age_s > REMEMBERED_S
    return newer >= MOST_REMEMBERED or (not repeats and (old or newer >= REMEMBERED))
