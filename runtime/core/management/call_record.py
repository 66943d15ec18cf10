"""A method call, its answer as it stands on disk, and the events and actions of `calls.py`: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runtime.core.management.command_record import AskerGone, HolderGone
from runtime.core.management.replies import AnswerProgram
from runtime.core.moment import Moment

OPERATOR_CLIENT = 0
"""The `client` of a call by an operator of this machine. Connections to the hub have numbers from 1 on."""


class Caller(NamedTuple):
    """One request of the hub that waits for an answer."""

    client: int
    """The connection that it came by: an answer on another one reaches no caller."""
    rid: str
    since: Moment
    limit_s: float


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer under a call id: it is said again, and the method is not carried out again."""

    method: str
    call_id: str
    status: int
    payload: bytes
    kept: Moment


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that is not answered yet."""

    number: int
    method: str
    payload: bytes
    since: Moment
    callers: tuple[Caller, ...]
    """Several where it was repeated under its call id."""
    call_id: str = ""
    leaf: str = ""
    holder: str | None = None
    """The process that has it; empty for the worker itself; None while it waits for one."""
    poll: str = ""


# --- events ---


@dataclass(frozen=True, slots=True)
class CallReceived:
    """The hub delivered a call."""

    client: int
    rid: str
    method: str
    payload: bytes
    leaf: str = ""
    known: KeptAnswer | None = None
    """The answer on disk under the call id of the payload (`calls.call_id_of`), of this method."""


@dataclass(frozen=True, slots=True)
class ServeAsked:
    """A program offers methods, and waits for a call of one."""

    asker: object
    holder: str
    methods: Sequence[str]
    wait_s: float = 0.0
    poll: str = ""


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """A program, or the worker itself, answers a call."""

    asker: object
    holder: str
    call: int
    status: int = 200
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class CallLinkDown:
    """A connection is gone, and with it the way to its callers."""

    client: int


@dataclass(frozen=True, slots=True)
class CallTick:
    """Time has passed."""


CallEvent = CallReceived | ServeAsked | CallAnswered | HolderGone | AskerGone | CallLinkDown | CallTick


# --- actions ---


@dataclass(frozen=True, slots=True)
class RespondToCall:
    """Publish the answer to a caller."""

    client: int
    rid: str
    status: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class SaveAnswer:
    """Commit the answer. What follows in the list of actions waits for it."""

    answer: KeptAnswer


@dataclass(frozen=True, slots=True)
class RunBuiltIn:
    """Carry out a method of the runtime's own; the answer comes back as CallAnswered."""

    call: int
    method: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueueDurable:
    """Take the call on as a command, and answer 202 with its number when that is on disk."""

    caller: Caller
    method: str
    payload: bytes
    id: str | None
    leaf: str = ""
    reboot: bool = False


CallAction = RespondToCall | SaveAnswer | RunBuiltIn | QueueDurable | AnswerProgram
"""QueueDurable: the shell hands CommandReceived to the command queue, with the caller as what is owed."""
