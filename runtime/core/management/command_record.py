"""A command as it stands on disk, and the events and actions of `command_queue.py`: plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from runtime.core.management.replies import AnswerProgram
from runtime.core.moment import Moment


class CommandState(StrEnum):
    """The state of a command. Operators and the cloud see these words."""

    QUEUED = "queued"
    LEASED = "leased"
    REBOOTING = "rebooting"
    """The machine itself carries it out; the next boot shows that it did."""
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    DEAD = "dead"
    """Too many attempts were interrupted, or failed for now."""
    UNCERTAIN = "uncertain"
    """It was begun and must not be begun twice, and how it ended is not known."""

    @property
    def final(self) -> bool:
        return not COMMAND_TRANSITIONS[self]


_S = CommandState
COMMAND_TRANSITIONS: Mapping[CommandState, frozenset[CommandState]] = {
    _S.QUEUED: frozenset((_S.LEASED, _S.REBOOTING, _S.EXPIRED, _S.UNCERTAIN)),
    _S.LEASED: frozenset((_S.LEASED, _S.QUEUED, _S.DONE, _S.FAILED, _S.DEAD, _S.UNCERTAIN)),
    _S.REBOOTING: frozenset((_S.DONE, _S.FAILED, _S.UNCERTAIN)),
    **{state: frozenset[CommandState]() for state in (_S.DONE, _S.FAILED, _S.EXPIRED, _S.DEAD, _S.UNCERTAIN)},
}


class Instant(NamedTuple):
    """The present, and whether the wall clock is believed: it was confirmed from outside in this boot."""

    moment: Moment
    wall_believed: bool

    def since(self, then: Moment) -> float | None:
        """Seconds since `then`, or None where no clock can tell."""
        if then.boot_id != self.moment.boot_id and not self.wall_believed:
            return None
        return self.moment.since(then)


class Lease(NamedTuple):
    """The right of one program to carry a command out, for a time."""

    holder: str
    """The shell's name for the process that has it."""
    poll: str
    """The program's name for the request that was answered with it; empty for none."""
    since: Moment
    lease_s: float

    def left_s(self, now: Instant) -> float:
        """Seconds until it is over. A lease of another boot is over: no process outlives that."""
        passed_s = self.since_s(now)
        return 0.0 if passed_s is None else max(0.0, self.lease_s - passed_s)

    def since_s(self, now: Instant) -> float | None:
        return now.moment.since(self.since) if self.since.boot_id == now.moment.boot_id else None


class Retry(NamedTuple):
    """A program failed for now; the command waits before its next attempt."""

    token: int
    since: Moment
    after_s: float

    def left_s(self, now: Instant) -> float:
        passed_s = now.moment.since(self.since) if self.since.boot_id == now.moment.boot_id else None
        return 0.0 if passed_s is None else max(0.0, self.after_s - passed_s)


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command. Everything in it is on disk."""

    seq: int
    id: str
    """The hub's message id; without one the digest, and a number where the same came before."""
    name: str
    payload: bytes
    received: Moment
    leaf: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    """Of a command without an id: what a repeat of it is known by."""
    life_s: float | None = None
    """It expires so long after `received`; None: never, or not known."""
    once: bool = False
    reboot: bool = False
    state: CommandState = CommandState.QUEUED
    attempts: int = 0
    """Number of times it was handed over; the number of the last time is the token of that lease."""
    lease: Lease | None = None
    retry: Retry | None = None
    status: int | None = None
    reason: str = ""
    result: bytes = b""
    ended_token: int | None = None
    """The token by which a program ended it; None where something else did."""
    ended: Moment | None = None
    result_stored: bool = False
    """`ingest` has acknowledged the message that carries the result, or will never take it."""
    dropped: bool = False
    """An operator is done with it. A dead or uncertain command is forgotten only then, never by its age."""


def digest_of(topic: str, payload: bytes) -> str:
    """The name of a command without an id."""
    digest = hashlib.sha256(topic.encode(errors="surrogatepass") + b"\0" + payload)
    return f"sha256:{digest.hexdigest()}"


# --- events ---


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """The hub delivered a command, or the caller of a durable method wants one."""

    owed: object
    """The shell's name for what is owed in return: a PUBACK, or the answer 202."""
    id: str | None
    topic: str
    name: str
    payload: bytes
    leaf: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    expires_wall_s: float | None = None
    """By the hub's clock."""
    ttl_s: float | None = None
    dup: bool = False
    reboot: bool = False
    known: CommandRow | None = None
    """The row with this id on disk; without an id the newest with this digest. It shows the saves of this
    turn, too."""


@dataclass(frozen=True, slots=True)
class ReceiveAsked:
    """A program asks for the next command."""

    asker: object
    holder: str
    names: Sequence[str]
    """Names, or beginnings of names with `*` behind, that it asks for and may have."""
    leaves: Sequence[str] = ("*",)
    lease_s: float = 60.0
    wait_s: float = 0.0
    poll: str = ""
    """The same for a repeat of the request, which then gets the same answer."""


@dataclass(frozen=True, slots=True)
class CommandCompleted:
    """A program has carried a command out."""

    asker: object
    command: int
    token: int
    status: int = 200
    result: bytes = b""
    known: CommandRow | None = None
    """The row on disk, where it is no longer open."""


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """A program could not carry a command out; with `retry_after_s` it shall be tried again."""

    asker: object
    command: int
    token: int
    status: int = 500
    reason: str = ""
    retry_after_s: float | None = None
    result: bytes = b""
    known: CommandRow | None = None


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """A program is still at it."""

    asker: object
    command: int
    token: int
    lease_s: float = 60.0
    percent: float | None = None
    message: str = ""
    known: CommandRow | None = None


@dataclass(frozen=True, slots=True)
class HolderGone:
    """A process ended: the kernel says so."""

    holder: str


@dataclass(frozen=True, slots=True)
class AskerGone:
    """A request that waits will never be read: its socket is closed."""

    asker: object


@dataclass(frozen=True, slots=True)
class ResultStored:
    """`ingest` acknowledged the result of a command, or refused it for ever, with the reason."""

    known: CommandRow
    refused: str = ""


@dataclass(frozen=True, slots=True)
class RequeueAsked:
    """An operator wants a dead or uncertain command carried out again: as a new one."""

    asker: object
    known: CommandRow


@dataclass(frozen=True, slots=True)
class DropAsked:
    """An operator is done with a dead or uncertain command."""

    asker: object
    known: CommandRow


@dataclass(frozen=True, slots=True)
class CommandTick:
    """Time has passed."""


CommandEvent = (
    CommandReceived
    | ReceiveAsked
    | CommandCompleted
    | CommandFailed
    | LeaseExtended
    | HolderGone
    | AskerGone
    | ResultStored
    | RequeueAsked
    | DropAsked
    | CommandTick
)


# --- actions ---


@dataclass(frozen=True, slots=True)
class SaveCommand:
    """Commit the row. What follows in the list of actions waits for it."""

    command: CommandRow


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Give what is owed: the command is on disk as `seq`."""

    owed: object
    seq: int


@dataclass(frozen=True, slots=True)
class LeaveAtHub:
    """No room. The hub keeps the command and sends it again; a caller is answered 429."""

    owed: object


@dataclass(frozen=True, slots=True)
class SendResult:
    """Send the result to `ingest`, keyed by `seq`, again and again until it is acknowledged."""

    command: CommandRow


@dataclass(frozen=True, slots=True)
class CountLostResult:
    """A result will never reach the cloud: count it, and name it with the reason."""

    command: CommandRow
    reason: str


@dataclass(frozen=True, slots=True)
class ShowProgress:
    """Report how far a command is; both None: remove what was reported."""

    id: str
    percent: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class RebootMachine:
    """Reboot, now that it is on disk that this command asked for it."""

    seq: int


CommandAction = (
    SaveCommand
    | Acknowledge
    | LeaveAtHub
    | AnswerProgram
    | SendResult
    | CountLostResult
    | ShowProgress
    | RebootMachine
)
