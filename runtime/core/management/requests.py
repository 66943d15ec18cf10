"""The requests that a program can send to the management worker: plain values; `protocol.py` decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_rules import Path


class TwinPart(StrEnum):
    """The documents that a program can read."""

    DESIRED = "desired"
    REPORTED = "reported"
    """As the hub has it."""
    WANTED = "wanted"
    """As the programs want it reported."""


@dataclass(frozen=True, slots=True)
class PingRequest:
    """The question whether the worker answers."""


@dataclass(frozen=True, slots=True)
class WhoAmIRequest:
    """The question who the program is to the worker, and what it may do."""


@dataclass(frozen=True, slots=True)
class TwinRequest:
    """Read a part of the twin."""

    half: TwinPart = TwinPart.DESIRED
    path: Path = ()


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """Change what is reported."""

    mode: ReportMode = ReportMode.SET
    path: Path = ()
    if_change: int | None = None
    wait_s: float = 0.0
    """The reply waits so long for the hub's confirmation."""
    value: Any = None
    """Of a removal None."""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Wait for a change of the desired properties after the change number `after`."""

    path: Path = ()
    after: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AppliedRequest:
    """A desired change was applied, or could not be."""

    change: int
    path: Path = ()
    status: int = 200
    message: str = ""


@dataclass(frozen=True, slots=True)
class ReceiveRequest:
    """Wait for a command."""

    names: tuple[str, ...] = ("*",)
    leaf: str = "*"
    lease_s: float = 60.0
    wait_s: float = 0.0
    poll: str = ""
    """Chosen by the program for each request, and the same in its repeats, which get the same answer."""


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """The program is still at a command."""

    command: int
    token: int
    lease_s: float = 60.0
    percent: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class CompleteRequest:
    """The program has carried a command out."""

    command: int
    token: int
    status: int = 200
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class FailRequest:
    """The program could not carry a command out."""

    command: int
    token: int
    status: int = 500
    reason: str = ""
    retry_after_s: float | None = None
    """It did nothing, and is to be asked again after so long."""
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """Wait for a call of one of these methods."""

    methods: tuple[str, ...]
    wait_s: float = 0.0
    poll: str = ""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """The answer to a call."""

    call: int
    status: int = 200
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class LeavesRequest:
    """The question which leaves are known."""


@dataclass(frozen=True, slots=True)
class RequeueRequest:
    """An operator wants a dead or uncertain command carried out again, as a new one."""

    command: int


@dataclass(frozen=True, slots=True)
class DropRequest:
    """An operator is done with a dead or uncertain command: it may be forgotten like others that ended."""

    command: int


@dataclass(frozen=True, slots=True)
class CallRequest:
    """An operator calls a method as the cloud would; for tests of a program that serves it."""

    method: str
    wait_s: float = 25.0
    payload: bytes = b""


ManagementRequest = (
    PingRequest
    | WhoAmIRequest
    | TwinRequest
    | ReportRequest
    | WatchRequest
    | AppliedRequest
    | ReceiveRequest
    | ExtendRequest
    | CompleteRequest
    | FailRequest
    | ServeRequest
    | AnswerRequest
    | LeavesRequest
    | RequeueRequest
    | DropRequest
    | CallRequest
)
OPERATOR_REQUESTS = (RequeueRequest, DropRequest, CallRequest)
"""Only root and the runtime's own user may send these, on the unix socket: `grants.check_operator`."""
