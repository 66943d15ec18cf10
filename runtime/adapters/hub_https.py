"""The hub's HTTPS side: where files begin and end, and the only place where it says in words why it refuses.

MQTT 3.1.1 has no word for a used-up daily quota: the hub takes the connection and ends it at the first
message, as in an outage. Over HTTPS the same message is refused with 403 and the code 403002.
"""

from __future__ import annotations

import email.utils
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from loguru import logger

from runtime.adapters.trust import Trust
from runtime.core.credentials import HubCredentials
from runtime.core.proxy import Proxy

API_VERSION = "2021-04-12"
TIMEOUTS_S = (10.0, 60.0)
"""To connect, and for each read."""
_QUOTA_USED_UP = "403002"


@dataclass(frozen=True)
class HttpsWay:
    """How to get there."""

    ca_file: Path | None = None
    port: int = 443
    proxy: Proxy | None = None


class Refused(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, what: str, answer: requests.Response) -> None:
        text = answer.text[:500]
        super().__init__(f"{what}: {answer.status_code} {text[:200]}")
        self.status = answer.status_code
        self.quota = _QUOTA_USED_UP in text
        """The hub's daily quota is used up."""
        after = answer.headers.get("Retry-After", "")
        self.retry_after_s = float(after) if after.isdigit() else None
        self.server_s = _unix_time(answer.headers.get("Date"))


class HubHttps:
    """Calls under one device's name, each with its deadlines. `session` knows the way to the storage, too."""

    def __init__(self, way: HttpsWay, credentials: HubCredentials) -> None:
        self._credentials = credentials
        device = quote(credentials.device_id, safe="")
        self._base = f"https://{credentials.hub_host}:{way.port}/devices/{device}"
        self.session = requests.Session()
        self.session.trust_env = False  # a ~/.netrc must not replace our SAS
        self.session.verify = Trust(way.ca_file).verify()
        if way.proxy:
            self.session.proxies = {"https": way.proxy.url()}
        if credentials.certificate and credentials.key:
            self.session.cert = (str(credentials.certificate), str(credentials.key))

    def post(
        self, path: str, what: str, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Raises Refused, or a RequestException."""
        sas = self._credentials.sas
        answer = self.session.post(
            self._base + path,
            params={"api-version": API_VERSION},
            json=json,
            headers={**(headers or {}), **({"Authorization": sas.reveal()} if sas else {})},
            timeout=TIMEOUTS_S,
            allow_redirects=False,
        )
        if not answer.ok:
            raise Refused(what, answer)
        return answer


@dataclass(frozen=True, slots=True)
class Said:
    """What the hub said about a message over HTTPS."""

    taken: bool
    quota: bool = False
    """Its daily quota is used up."""
    server_s: float | None = None
    """Unix time by its own clock."""


class Inquiry:
    """Asks the hub whether it takes messages at all, by one that says nothing; in a thread of its own."""

    def __init__(self, way: HttpsWay) -> None:
        self._way = way
        self._asking = threading.Lock()
        self._said: Said | None = None

    def ask(self, credentials: HubCredentials, message_id: str) -> None:
        """Unless it is being asked already."""
        if self._asking.acquire(blocking=False):
            threading.Thread(target=self._ask, args=(credentials, message_id), daemon=True).start()

    def take(self) -> Said | None:
        """The answer, once; none while it is awaited, or where HTTPS does not get through either."""
        said, self._said = self._said, None
        return said

    def _ask(self, credentials: HubCredentials, message_id: str) -> None:
        headers = {"iothub-messageid": message_id, "iothub-app-ignore-payload": "true"}
        try:
            HubHttps(self._way, credentials).post("/messages/events", "a message", headers=headers)
            self._said = Said(taken=True)
        except Refused as exc:
            logger.info("the hub over HTTPS, {}", exc)
            self._said = Said(False, exc.quota, exc.server_s)
        except OSError as exc:  # a RequestException, or a file of authorities that is not there
            logger.info("the hub does not answer over HTTPS either: {}", type(exc).__name__)
        finally:
            self._asking.release()


def _unix_time(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
