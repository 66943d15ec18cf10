"""The platform's provisioning and registration services over HTTPS. Every call ends in a named Outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from loguru import logger

from runtime.adapters.net.tls_options import TrustedAuthorities, Waiting
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity import connection_string, lifetime
from runtime.core.identity.platform_answer import (
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
    Registration,
)
from runtime.core.identity.registration_route import CertificateFiles, PlatformRoute
from runtime.core.log_events import LogEvent
from runtime.core.secret import Secret, fits_header

if TYPE_CHECKING:
    from runtime.adapters.net import https

CANCELLED = "/problems/deviceProvisioning/provisioningOperationCancelled"
"""Problem type of an operation that an operator cancelled: the type ends in this, after any host."""

PROBLEM = "application/problem+json"
"""Content type by which the platform itself refuses (RFC 9457); a page of any proxy
on the way has another one.
"""

Value = TypeVar("Value")
Left = Callable[[float], float]
"""Seconds until a unix time, for what was received just now."""
Reader = Callable[[Mapping[str, Any], Left], Value]
"""Makes a value out of a JSON object. Raises KeyError, TypeError or ValueError."""

STATUS_OUTCOMES = {
    200: Outcome.OK,
    201: Outcome.CREATED,
    202: Outcome.NOT_YET,
    400: Outcome.BAD_REQUEST,
    401: Outcome.UNAUTHORIZED,
    403: Outcome.FORBIDDEN,
    410: Outcome.GONE,
    412: Outcome.PRECONDITION,
    423: Outcome.DISABLED,
    429: Outcome.THROTTLED,
}


@dataclass(frozen=True)
class PlatformClient:
    """Client of one platform. Calls block for at most `timeout_s`; `waiting` is called
    meanwhile and may end them.
    """

    instance: str
    trust: TrustedAuthorities
    timeout_s: float = 10.0
    waiting: Waiting = lambda: False
    clock: Clock = field(default_factory=SystemClock)

    def init(
        self, provisioning_token: Secret, device_id: str | None
    ) -> PlatformAnswer[ProvisioningOperation]:
        """Begin a provisioning operation, wishing for `device_id`."""
        body = {"deviceId": device_id} if device_id else {}
        return self._call("POST", "/provisioning-operations/init", provisioning_token, body, _operation)

    def complete(self, provisioning_token: Secret, operation_id: str) -> PlatformAnswer[PlatformResult]:
        """Ask whether the operation was approved. Repeating it is
        harmless: each answer brings a new token.
        """
        body = {"provisioningOperationId": operation_id}
        return self._call("PUT", "/provisioning-operations/complete", provisioning_token, body, _grant)

    def refresh(
        self, provisioning_token: Secret, registration_token: Secret
    ) -> PlatformAnswer[PlatformResult]:
        """Trade a Registration Token (in force, or in its grace period) for a new one."""
        body = {"registrationToken": registration_token.reveal()}
        path = "/devices/registration-tokens/refresh"
        return self._call("PUT", path, provisioning_token, body, _grant)

    def register(self, registration_token: Secret | None) -> PlatformAnswer[Registration]:
        """Register with a Registration Token, or with the client certificate of `trust`."""
        body = {"connectionStringType": "SharedAccessSignature"}
        return self._call("PUT", "/devices/register", registration_token, body, self._registration)

    def _registration(self, body: Mapping[str, Any], left: Left) -> Registration:
        connection = hidden(connection_string.parse(_text(body, "connectionString")))
        certificate = None
        if connection.sas is None and self.trust.certificate and self.trust.key:
            certificate = (str(self.trust.certificate), str(self.trust.key))
        if connection.sas is None and certificate is None:
            raise ValueError("the connection string has no SharedAccessSignature")
        return Registration(
            connection.hub_host,
            connection.device_id,
            _sas_lifetime_s(body, connection.sas, left),
            connection.sas,
            certificate,
            _token_remaining_s(body),
        )

    def _call(
        self, method: str, path: str, token: Secret | None, body: Mapping[str, str], read: Reader[Value]
    ) -> PlatformAnswer[Value]:
        from runtime.adapters.net import https

        reply = https.request(
            method,
            f"https://{self.instance}{path}",
            json.dumps(body).encode(),
            token,
            self.trust,
            self.timeout_s,
            self.waiting,
        )
        if isinstance(reply, https.Failure):
            return PlatformAnswer(reply.outcome, reason=reply.reason)
        server_s = _date(reply.headers.get("Date"))
        outcome = STATUS_OUTCOMES.get(reply.status)
        if outcome is None:
            outcome = Outcome.UNAVAILABLE if reply.status >= 500 else Outcome.UNEXPECTED
        if not outcome.good:
            return self._refusal(outcome, reply, server_s, _secrets(token, body))
        try:
            value = read(_json_object(reply.body), self._left(server_s))
        except (KeyError, TypeError, ValueError) as exc:
            return PlatformAnswer(Outcome.GARBLED, reason=f"{path}: {_garbled(exc)}", server_s=server_s)
        return PlatformAnswer(outcome, value, server_s=server_s)

    def _left(self, server_s: float | None) -> Left:
        wall_s = self.clock.wall_s()
        by_s = wall_s if server_s is None else server_s

        def left_s(ends_s: float) -> float:
            if ends_s - by_s < lifetime.LEAST_LIFE_S:
                logger.bind(event=LogEvent.PLATFORM_DATE_WRONG).warning(
                    "what the platform hands out is over already by its own Date, which is not believed:"
                    " it is {ahead} s ahead of our clock",
                    ahead=round(by_s - wall_s),
                )
            return lifetime.left_s(ends_s, by_s, wall_s)

        return left_s

    def _refusal(
        self, outcome: Outcome, reply: https.Reply, server_s: float | None, secrets: list[str]
    ) -> PlatformAnswer[Any]:
        own = _media_type(reply) == PROBLEM
        try:
            problem = _json_object(reply.body)
        except ValueError:
            problem, own = {}, False
        if outcome is Outcome.GONE and own and str(problem.get("type", "")).endswith(CANCELLED):
            outcome = Outcome.CANCELLED
        told = [str(problem[name]) for name in ("title", "detail") if problem.get(name)]
        reason = ": ".join([f"HTTP {reply.status}", *told])
        if outcome.refuses and not own:
            reason += ", not in the platform's own words: a gateway, a proxy or a firewall may have said so"
        wait_s = lifetime.retry_after_s(reply.headers.get("Retry-After"), server_s)
        return PlatformAnswer(
            outcome, reason=_clean(reason, secrets), retry_after_s=wait_s, server_s=server_s, own=own
        )


def platform_client(
    route: PlatformRoute, waiting: Waiting = lambda: False, clock: Clock | None = None
) -> PlatformClient:
    """The client of the platform that the route leads to; one has to be configured."""
    assert route.instance is not None  # the caller says so first
    files = route.certificate or CertificateFiles()
    trust = TrustedAuthorities(route.ca_file, files.certificate, files.key, proxy=route.proxy)
    return PlatformClient(str(route.instance), trust, route.timeout_s, waiting, clock or SystemClock())


def _media_type(reply: https.Reply) -> str:
    return reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _operation(body: Mapping[str, Any], _left: Left) -> ProvisioningOperation:
    return ProvisioningOperation(_text(body, "provisioningOperationId"), _text(body, "verificationCode"))


def _grant(body: Mapping[str, Any], left: Left) -> PlatformResult:
    token = hidden(Secret(_text(body, "registrationToken")))
    if not fits_header(token):
        raise ValueError("registrationToken is not one word of printable ASCII")
    return PlatformResult(token, _lifetime_s(body.get("expirationTime"), left))


def _lifetime_s(ends: object, left: Left) -> float | None:
    """The token's lifetime. A token that was handed out has replaced the one before it: no bad date is a
    reason to lose it.

    Registering tells how much of its lifetime is left.
    """
    try:
        return None if ends is None else left(lifetime.instant_s(str(ends)))
    except ValueError as exc:
        logger.bind(event=LogEvent.PLATFORM_TIME_UNREADABLE).warning(
            "expirationTime: {reason}; the token is taken without an end", reason=str(exc)
        )
        return None


def _sas_lifetime_s(body: Mapping[str, Any], sas: Secret | None, left: Left) -> float | None:
    """The lifetime of a SAS. Its own text says when it ends, and the hub believes nothing
    else: no date extends it.
    """
    ends = body.get("connectionStringExpiration")
    try:
        ends_s = None if ends is None else lifetime.instant_s(str(ends))
    except ValueError as exc:
        logger.bind(event=LogEvent.PLATFORM_TIME_UNREADABLE).warning(
            "connectionStringExpiration: {reason}; the SAS's own end counts", reason=str(exc)
        )
        ends_s = None
    its_own_s = connection_string.sas_expiry_s(sas.reveal()) if sas else None
    known_s = [end_s for end_s in (ends_s, its_own_s) if end_s is not None]
    return left(min(known_s)) if known_s else None


def _token_remaining_s(body: Mapping[str, Any]) -> float | None:
    """The token's remaining lifetime; None where it is missing or unusable: the token has just served."""
    written = body.get("tokenRemainingLifetime")
    try:
        remaining_s = None if written is None else lifetime.duration_s(str(written))
    except ValueError as exc:
        logger.bind(event=LogEvent.PLATFORM_TIME_UNREADABLE).warning(
            "tokenRemainingLifetime: {reason}; what is known of it counts", reason=str(exc)
        )
        return None
    return None if remaining_s is None or remaining_s <= 0 else remaining_s


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name]
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise TypeError(f"{name} is not a printable text")
    return value


def _json_object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the answer is not a JSON object")
    return body


def _date(text: str | None) -> float | None:
    try:
        return lifetime.http_date_s(text) if text else None
    except ValueError:
        return None


def _garbled(exc: Exception) -> str:
    """Name what is missing without any text that could hold a token: our own messages, or a field's name."""
    return f"{exc.args[0]} is missing" if isinstance(exc, KeyError) else str(exc)


def _secrets(token: Secret | None, body: Mapping[str, str]) -> list[str]:
    held = [token.reveal()] if token else []
    return held + [body[name] for name in ("registrationToken",) if name in body]


def _clean(reason: str, secrets: list[str]) -> str:
    """The other side's words, without our tokens in them, printable, on one line, and cut to a limit."""
    for secret in secrets:
        reason = reason.replace(secret, "***")
    return "".join(c if c.isprintable() else " " for c in reason)[:300]
