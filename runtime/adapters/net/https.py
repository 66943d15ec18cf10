"""One HTTPS request to the platform, or to a server whose time is wanted, within one deadline for all of it.

Redirects are not followed: a token is for the host it was meant for. Nothing is kept between calls, so
renewed certificates count at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from runtime.adapters.net.cuttable import Cutter, cuttable
from runtime.adapters.net.exchange import BoundedExchanges, NoResult
from runtime.adapters.net.proxies import ProxyTrouble
from runtime.adapters.net.reasons import all_causes, reason_at
from runtime.adapters.net.tls_options import TrustedAuthorities, UnusableFile, Waiting, wrong_time
from runtime.core.identity import lifetime
from runtime.core.identity.platform_answer import Outcome
from runtime.core.secret import Secret

MAX_BODY_BYTES = 65_536
"""Limit of an answer's size. No answer of the platform comes near it; a larger one is not kept in memory."""

TIME_DEADLINE_S = 10.0
"""Deadline of a request that only asks for the time."""


@dataclass(frozen=True)
class Reply:
    """The complete answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Failure:
    """Why there is no reply."""

    outcome: Outcome
    reason: str


class _DeviceToken(AuthBase):
    """The token's header, set by us, so that a ~/.netrc never sets it."""

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"DeviceToken {self._token.reveal()}"
        return request


class HttpsSession(requests.Session):
    """A session that sees no redirect in any answer: to prepare for one it would read the
    whole body, however long.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class HttpsConnection(HTTPAdapter):
    """A pool of few connections, which its `cutter` can end."""

    def __init__(self) -> None:
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)
        self.cutter = Cutter()
        self.exchanges = BoundedExchanges(self.cutter)
        self.authorities: str | None = None
        """Authorities in PEM that alone are trusted, in place of the file that `verify` names."""

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # in types-requests
        if self.authorities is not None and url.lower().startswith("https:"):
            conn.ca_certs = conn.ca_cert_dir = None
            conn.conn_kw["ca_cert_data"] = self.authorities

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = cuttable(pool.ConnectionCls)
        pool.conn_kw["cutter"] = self.cutter
        return pool


def request(
    method: str,
    url: str,
    body: bytes,
    token: Secret | None,
    trust: TrustedAuthorities,
    timeout_s: float,
    waiting: Waiting = lambda: False,
) -> Reply | Failure:
    """Send one request and return the whole reply within `timeout_s`, or the failure."""
    connection = HttpsConnection()
    try:
        return connection.exchanges.run(
            timeout_s, lambda: _exchange(connection, method, url, body, token, trust, timeout_s), waiting
        )
    except NoResult as exc:
        return Failure(exc.outcome, str(exc))


def server_time_s(
    host: str, port: int, trust: TrustedAuthorities, waiting: Waiting = lambda: False
) -> float | None:
    """Unix seconds by a server's clock, from the `Date` of its HTTPS side: to sign under a clock that is
    wrong. An answer with any status will do; None where it cannot be asked.
    """
    reply = request("GET", f"https://{host}:{port}/", b"", None, trust, TIME_DEADLINE_S, waiting)
    date = None if isinstance(reply, Failure) else reply.headers.get("Date")
    try:
        return lifetime.http_date_s(date) if date else None
    except ValueError:
        return None


def _exchange(
    connection: HttpsConnection,
    method: str,
    url: str,
    body: bytes,
    token: Secret | None,
    trust: TrustedAuthorities,
    timeout_s: float,
) -> Reply | Failure:
    try:
        with HttpsSession() as session:
            trust.check()
            connection.authorities = trust.authorities()
            session.mount("https://", connection)
            session.mount("http://", connection)  # a collector's: it has to be cut in time, too
            pair = (str(trust.certificate), str(trust.key)) if trust.certificate and trust.key else None
            with session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                auth=_DeviceToken(token),
                verify=trust.verify(),
                cert=pair,
                proxies={"https": trust.proxy.url()} if trust.proxy else None,
                timeout=timeout_s,
                stream=True,
                allow_redirects=False,
            ) as response:
                return _read(response)
    except (OSError, urllib3.exceptions.HTTPError, ValueError) as exc:
        return _failure(exc, urlsplit(url).netloc)


def _read(response: requests.Response) -> Reply | Failure:
    body = b""
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return Failure(Outcome.GARBLED, f"the answer is longer than {MAX_BODY_BYTES} bytes")
    return Reply(response.status_code, response.headers, body)


def _failure(exc: Exception, where: str) -> Failure:
    """Name what `requests` raised, by the first cause we know."""
    causes, reason = all_causes(exc), reason_at(exc, where)
    if any(wrong_time(cause) for cause in causes):
        return Failure(Outcome.WRONG_TIME, reason)
    for kinds, outcome in _NAMES:
        if any(isinstance(cause, kinds) for cause in causes):
            return Failure(outcome, reason)
    return Failure(Outcome.UNREACHABLE, reason)


_NAMES: tuple[tuple[tuple[type[BaseException], ...], Outcome], ...] = (
    ((UnusableFile, FileNotFoundError, PermissionError, IsADirectoryError), Outcome.NO_CERTIFICATE),
    ((urllib3.exceptions.NameResolutionError,), Outcome.NAME_UNKNOWN),
    ((requests.exceptions.ProxyError, ProxyTrouble), Outcome.PROXY),
    ((requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError), Outcome.TIMED_OUT),
    ((urllib3.exceptions.NewConnectionError,), Outcome.UNREACHABLE),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError), Outcome.CUT),
    ((requests.exceptions.SSLError, ssl.SSLError), Outcome.TLS_FAILED),
    (
        (
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.ProtocolError,
            urllib3.exceptions.IncompleteRead,
        ),
        Outcome.CUT,
    ),
    ((requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError), Outcome.GARBLED),
)
