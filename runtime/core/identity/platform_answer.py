"""The result of a call to the platform, as plain values: every answer and every failure has one name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from runtime.core.secret import Secret

Value = TypeVar("Value")


class Outcome(Enum):
    """The outcomes that a call can have. The text is what status and logs show."""

    OK = "ok"  # 200
    CREATED = "created"  # 201
    NOT_YET = "not approved yet"  # 202
    BAD_REQUEST = "bad request"  # 400
    UNAUTHORIZED = "refused"  # 401: the token, the certificate, the key
    FORBIDDEN = "forbidden"  # 403
    GONE = "gone"  # 410
    CANCELLED = "cancelled by the operator"  # 410 with the problem type of a cancelled operation
    PRECONDITION = "precondition failed"  # 412
    DISABLED = "workspace disabled"  # 423
    THROTTLED = "throttled"  # 429
    UNAVAILABLE = "platform unavailable"  # 5xx
    UNEXPECTED = "unexpected answer"  # any other status
    GARBLED = "unintelligible answer"  # the status was good, the body was not
    TIMED_OUT = "timed out"
    CUT = "connection cut"
    UNREACHABLE = "unreachable"
    PROXY = "no way through the proxy"
    NAME_UNKNOWN = "host name not found"
    TLS_FAILED = "TLS failed"
    WRONG_TIME = "no certificate counts by our clock"  # not valid yet, or expired: it may be the clock
    NO_CERTIFICATE = "certificate file unusable"
    ABANDONED = "abandoned"  # we were asked to stop while it was under way

    @property
    def good(self) -> bool:
        """True if the platform carried out the request."""
        return self in (Outcome.OK, Outcome.CREATED)

    @property
    def refuses(self) -> bool:
        """True if a server refused the request. Any other outcome that is not good may pass by itself."""
        return self in _REFUSING


_REFUSING = frozenset(
    {
        Outcome.BAD_REQUEST,
        Outcome.UNAUTHORIZED,
        Outcome.FORBIDDEN,
        Outcome.GONE,
        Outcome.CANCELLED,
        Outcome.PRECONDITION,
        Outcome.UNEXPECTED,
    }
)

NAMELESS_TIMES = 10
"""Refusals in a row that count where a single one does not: a gateway's, or of an unknown status."""


@dataclass(frozen=True)
class PlatformAnswer(Generic[Value]):
    """One call's outcome. `value` is set exactly when the outcome is good."""

    outcome: Outcome
    value: Value | None = None
    reason: str = ""
    """The text of the other side, or of the library, without a secret in it."""
    retry_after_s: float | None = None
    server_s: float | None = None
    """Unix time by the server's `Date`, where it sent one."""
    own: bool = True
    """The service itself answered (problem+json): not a gateway, a proxy or a firewall on the way."""


@dataclass(frozen=True)
class ProvisioningOperation:
    """A provisioning operation that waits for the operator."""

    id: str
    verification_code: str


@dataclass(frozen=True)
class PlatformResult:
    """A Registration Token. `lifetime_s` None: it never expires."""

    token: Secret
    lifetime_s: float | None


@dataclass(frozen=True)
class Registration:
    """The credentials for the hub: exactly one of `sas` and `certificate` (paths of it and its key)."""

    hub_host: str
    device_id: str
    lifetime_s: float | None
    sas: Secret | None = None
    certificate: tuple[str, str] | None = None
    token_remaining_s: float | None = field(default=None)
    """Remaining life of the Registration Token, where the platform told it."""
