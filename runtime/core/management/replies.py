"""The replies that a program can get from the management worker: plain values; `protocol.py` encodes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.core.management.codes import RequestRefused


@dataclass(frozen=True, slots=True)
class Alive:
    """The worker answers."""

    version: int


@dataclass(frozen=True, slots=True)
class Identified:
    """Who the program is to the worker, and what it may do."""

    program: str
    """The name of its `[management.program.NAME]`; empty where no table names programs."""
    uid: int | None
    """The user that the kernel vouches for; None where a CURVE key does."""
    grants: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TwinValue:
    """A part of one half of the twin."""

    value: Any
    version: int | None
    """The hub's `$version` of that half; None where the twin was never read."""
    change: int
    age_s: float | None
    """Seconds since the hub last said it; None where no clock can tell."""
    state: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The reply to a request whose content is on disk."""

    change: int | None = None
    confirmed: bool | None = None
    """Of a report that waited: True if the hub has it by now."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A part of the desired properties after a change, or the word that it did not change."""

    change: int
    value: Any = None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class CommandHandedOver:
    """A command, leased to the program until it says how it ended."""

    command: int
    token: int
    id: str
    name: str
    attempt: int
    age_s: float | None
    """Seconds since the hub delivered it; None where no clock can tell."""
    payload: bytes
    leaf: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NoCommand:
    """No command came within the time that the program waits."""


@dataclass(frozen=True, slots=True)
class CallHandedOver:
    """A method call that waits for the program's answer."""

    call: int
    method: str
    left_s: float
    """Seconds until the caller is told that nothing answered."""
    payload: bytes
    leaf: str = ""


@dataclass(frozen=True, slots=True)
class NoCall:
    """No call came within the time that the program waits."""


@dataclass(frozen=True, slots=True)
class AnswerTaken:
    """The answer to a call was taken; `delivered` is False where the caller had given up."""

    delivered: bool


@dataclass(frozen=True, slots=True)
class LeafList:
    """The known leaves, and the seconds since each was last active."""

    leaves: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class OperatorAnswer:
    """The answer to an operator's call, as the cloud would get it."""

    status: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ManagementRefusal:
    """The refusal of a request: nothing of it took effect."""

    code: str
    """One of ManagementCode; at a client that is older than the worker, any text."""
    message: str
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, refused: RequestRefused) -> ManagementRefusal:
        return cls(str(refused.code), str(refused))


ManagementReply = (
    Alive
    | Identified
    | TwinValue
    | Kept
    | Watched
    | CommandHandedOver
    | NoCommand
    | CallHandedOver
    | NoCall
    | AnswerTaken
    | LeafList
    | OperatorAnswer
    | ManagementRefusal
)


@dataclass(frozen=True, slots=True)
class AnswerProgram:
    """Action: send this reply to the program that asked."""

    asker: object
    """The shell's name for the request, handed back as it came."""
    reply: ManagementReply
