"""What the tests of the upload side share: a device that is registered without the workers that do it."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import requests

from runtime.adapters.hub import Hub, HubOptions
from runtime.adapters.identity import IdentityStore
from runtime.core.answer import Grant, Registration
from runtime.core.connection_string import parse
from runtime.core.credentials import HubCredentials
from runtime.core.enrolment import Enrolment
from runtime.core.line import Acked, Closed, Connected, LineEvent, Lost
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.layout import Layout
from tests.harness import Cloud


def register(cloud: Cloud, device: str | None = None) -> HubCredentials:
    """A device the cloud knows, with a SAS."""
    device = device or f"dev-{secrets.token_hex(4)}"
    path = f"/workspaces/{cloud.facts['workspace']}/devices/registration-tokens/create"
    token = cloud.call("POST", path, {"deviceId": device})["registrationToken"]
    answer = requests.put(
        f"https://{cloud.facts['instance']}/devices/register",
        json={"connectionStringType": "SharedAccessSignature"},
        headers={"Authorization": f"DeviceToken {token}"},
        verify=cloud.facts["ca_file"],
        timeout=10,
    )
    assert answer.ok, answer.text
    found = parse(answer.json()["connectionString"])
    return HubCredentials(found.hub_host, found.device_id, generation=1, sas=found.sas)


def put_in_force(layout: Layout, credentials: HubCredentials) -> None:
    """Write credentials into identity.db as provisioning and refresh would have."""
    store, now = IdentityStore(layout), Moment(time.time(), time.monotonic(), "boot")
    store.save_provisioned(Enrolment(), Grant(Secret("token"), None), now, 0.5)
    serial = store.read().registration.serial  # type: ignore[union-attr]  # it was just saved
    found = Registration(credentials.hub_host, credentials.device_id, None, sas=credentials.sas)
    assert store.save_registered(serial, found, now, 0.5)


class Line:
    """A hub adapter whose events are waited for."""

    def __init__(self, cloud: Cloud, keepalive_s: int = 25) -> None:
        self.hub = Hub(HubOptions(ca_file=Path(cloud.facts["ca_file"]), keepalive_s=keepalive_s))
        self.seen: list[LineEvent] = []

    def until(self, fact: Callable[[list[LineEvent]], bool], timeout_s: float = 20.0) -> list[LineEvent]:
        """Collect events until `fact` holds about all of them."""
        deadline_s = time.monotonic() + timeout_s
        while not fact(self.seen):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"not within {timeout_s} s; seen {self.seen[-5:]}"
            select.select([self.hub], [], [], left_s)
            self.seen += self.hub.take()
        return self.seen

    def connect(self, credentials: HubCredentials) -> int:
        number = self.hub.open(credentials)
        self.until(lambda seen: any(e.client == number for e in seen))
        assert Connected(number) in self.seen, self.seen
        return number

    def discard(self, number: int) -> None:
        self.hub.discard()
        self.until(lambda seen: Closed(number) in seen)


def acked(events: Iterable[LineEvent]) -> list[object]:
    return [e.tag for e in events if isinstance(e, Acked)]


def losses(events: Iterable[LineEvent]) -> list[Lost]:
    return [e for e in events if isinstance(e, Lost)]
