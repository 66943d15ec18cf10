"""HTTPS side of the hub: file uploads begin and end here, and only here the hub gives a reason for a refusal.

MQTT 3.1.1 has no code for a used-up daily quota: the hub accepts the connection and ends it at the first
message, as in an outage. Over HTTPS the same message is refused with 403 and the code 403002.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from loguru import logger

from runtime.adapters.net.exchange import NoResult
from runtime.adapters.net.https import MAX_BODY_BYTES, HttpsConnection, HttpsSession, Reply
from runtime.adapters.net.reasons import bounded, reason_at
from runtime.adapters.net.tls_options import TrustedAuthorities, UnusableFile
from runtime.adapters.process.threads import start_thread
from runtime.core.identity import lifetime
from runtime.core.identity.connection_string import sendable
from runtime.core.identity.credentials import HubCredentials
from runtime.core.proxy_url import Proxy

API_VERSION = "2021-04-12"
CONNECT_S = 10.0
ANSWER_S = 60.0
SLOWEST_BYTES_PER_S = 1_000
"""A request has ANSWER_S, and the time that its body takes on a line as slow as this; then it is cut."""
_QUOTA_USED_UP = "403002"


@dataclass(frozen=True)
class HttpsRoute:
    """Route to the HTTPS side."""

    ca_file: Path | None = None
    port: int = 443
    proxy: Proxy | None = None


class HubRefusedCall(Exception):
    """The hub or the storage answered with another status than the expected one."""

    def __init__(self, what: str, answer: Reply, where: str) -> None:
        text = answer.body.decode(errors="replace")[:500]
        super().__init__(bounded(f"{what}: HTTP {answer.status} from {where} {text[:200]}"))
        self.what, self.answer, self.where = what, answer, where
        self.status = answer.status
        self.quota = _QUOTA_USED_UP in text
        """True if the hub's daily quota is used up."""
        self.server_s = _unix_time(answer.headers.get("Date"))
        self.retry_after_s = lifetime.retry_after_s(answer.headers.get("Retry-After"), self.server_s)


class HubUnreachable(OSError):
    """There was no complete answer; the text says where, and why."""

    def __init__(self, reason: str, sent_bytes: int = 0) -> None:
        super().__init__(reason)
        self.sent_bytes = sent_bytes
        """Bytes that went out all the same."""


class SwitchedOff(HubUnreachable):
    """The kill switch ended the request, or prevented it."""

    def __init__(self, sent_bytes: int = 0) -> None:
        super().__init__("the link was switched off", sent_bytes)


def host_of(url: str) -> str:
    """HOST:PORT of an https address, for a person; never the rest of it, which may be a SAS."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 443}"


class HubHttps:
    """Requests in one device's name, and to the storage; each of them ends. For one thread at a time."""

    def __init__(self, route: HttpsRoute, credentials: HubCredentials) -> None:
        self._credentials = credentials
        device = quote(credentials.device_id, safe="")
        self._base = f"https://{credentials.hub_host}:{route.port}/devices/{device}"
        self._stopped = False
        self._connection = HttpsConnection()
        self._session = HttpsSession()
        self._session.mount("https://", self._connection)
        self._session.trust_env = False  # a ~/.netrc must not replace our SAS
        self._trust = TrustedAuthorities(route.ca_file)
        self._session.verify = self._trust.verify()
        if route.proxy:
            self._session.proxies = {"https": route.proxy.url()}
        if credentials.certificate and credentials.key:
            self._session.cert = (str(credentials.certificate), str(credentials.key))

    def __enter__(self) -> HubHttps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def stop(self) -> None:
        """Cut the request under way, and make no further one. Called from any thread."""
        self._stopped = True
        self._connection.cutter.cut()

    def post(self, path: str, what: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
        """Send a request to the hub. Raises HubRefusedCall or HubUnreachable."""
        sas = self._credentials.sas
        if sas and not sendable(sas):  # damaged on disk
            raise HubUnreachable(f"{host_of(self._base)}: the SAS is not printable ASCII, so it is not sent")
        more = {"Content-Type": "application/json"} if body is not None else {}
        answer = self._request(
            "POST",
            f"{self._base}{path}?api-version={API_VERSION}",
            b"" if body is None else json.dumps(body).encode(),
            {**more, **(headers or {}), **({"Authorization": sas.reveal()} if sas else {})},
        )
        if not 200 <= answer.status < 300:
            raise HubRefusedCall(what, answer, host_of(self._base))
        return answer.body

    def put(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request to the storage. Raises HubUnreachable."""
        return self._request("PUT", url, body, headers or {})

    def _request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send within a deadline that grows with the body."""
        cutter, where = self._connection.cutter, host_of(url)
        before_bytes = cutter.sent_bytes()
        most_s = ANSWER_S + len(body) / SLOWEST_BYTES_PER_S
        try:
            reply = self._connection.exchanges.run(
                most_s, lambda: self._exchange(method, url, body, headers, 2 * most_s)
            )
        except NoResult as exc:
            reply = f"{where}: {exc}"
        if isinstance(reply, Reply):
            return reply
        sent_bytes = cutter.sent_bytes() - before_bytes
        raise SwitchedOff(sent_bytes) if self._stopped else HubUnreachable(reply, sent_bytes)

    def _exchange(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], read_timeout_s: float
    ) -> Reply | str:
        """The reply, or the reason why there is none."""
        if self._stopped:  # here, after the cutter was made ready: a stop in between is not lost
            return str(SwitchedOff())
        try:
            if self._connection.authorities is None:
                self._connection.authorities = self._trust.authorities()
            with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=(CONNECT_S, read_timeout_s),  # the deadline comes first
                stream=True,
                allow_redirects=False,
            ) as response:
                return Reply(response.status_code, response.headers, _beginning(response))
        except (requests.RequestException, UnusableFile) as exc:
            return reason_at(exc, host_of(url))


def _beginning(response: requests.Response) -> bytes:
    """The body up to a bound: more than any answer that we know is not read."""
    body = b""
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return body


@dataclass(frozen=True, slots=True)
class InquiryResult:
    """The hub's answer to a message over HTTPS."""

    accepted: bool
    quota: bool = False
    """True if the hub's daily quota is used up."""
    server_s: float | None = None
    """Unix time by the hub's clock."""


class Inquiry:
    """Asks the hub if it accepts messages at all, by one without content; in a thread of its own."""

    def __init__(self, route: HttpsRoute) -> None:
        self._way = route
        self._asking = threading.Lock()
        self._result: InquiryResult | None = None

    def start(self, credentials: HubCredentials, message_id: str) -> None:
        """Send the inquiry, unless one is under way."""
        if self._asking.acquire(blocking=False):
            try:
                start_thread(self._run, "inquiry", credentials, message_id)
            except BlockingIOError:  # the inquiry is repeated in an hour
                self._asking.release()

    def result(self) -> InquiryResult | None:
        """The answer, once; None while it is awaited, or where HTTPS does not get through either."""
        result, self._result = self._result, None
        return result

    def _run(self, credentials: HubCredentials, message_id: str) -> None:
        headers = {"iothub-messageid": message_id, "iothub-app-ignore-payload": "true"}
        try:
            with HubHttps(self._way, credentials) as hub:
                hub.post("/messages/events", "a message", headers=headers)
            self._result = InquiryResult(accepted=True)
        except HubRefusedCall as exc:
            logger.info("the hub over HTTPS, {}", exc)
            self._result = InquiryResult(False, exc.quota, exc.server_s)
        except OSError as exc:  # HubUnreachable, or a file of authorities that cannot be read
            logger.info("the hub does not answer over HTTPS either: {}", exc)
        finally:
            self._asking.release()


def _unix_time(date: str | None) -> float | None:
    try:
        return lifetime.http_date_s(date) if date else None
    except ValueError:
        return None
