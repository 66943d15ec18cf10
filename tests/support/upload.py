"""What the tests of the upload side share: a device that is registered without the workers that do it."""

from __future__ import annotations

import json
import secrets
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests
import zmq

from runtime.adapters.hub.mqtt_client import HubConnection, HubOptions
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.process.status_file import read_status
from runtime.adapters.store.reader import StoreReader
from runtime.core.delivery.events import Acked, Closed, Connected, ConnectionEvent, Lost
from runtime.core.identity.connection_string import parse
from runtime.core.identity.credentials import HubCredentials
from runtime.core.identity.enrolment import Enrolment
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.ingest.exchange import NotStored, refusal_error
from runtime.core.ingest.protocol import Refusal, decode_reply
from runtime.core.message import StoredMessage
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import Retryable
from runtime.layout import Layout
from tests.support.harness import Cloud, Home, eventually

DAY_S = 86_400


def register(cloud: Cloud, device: str | None = None) -> HubCredentials:
    """A device the cloud knows, with a SAS."""
    device = device or f"dev-{secrets.token_hex(4)}"
    path = f"/workspaces/{cloud.facts['workspace']}/devices/registration-tokens/create"
    token = cloud.call("POST", path, {"deviceId": device})["registrationToken"]
    answer = requests.put(
        f"{cloud.facts['admin_url']}/devices/register",
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
    store.save_provisioned(Enrolment(), PlatformResult(Secret("token"), None), now, 0.5)
    serial = store.read().registration.serial  # type: ignore[union-attr]  # it was just saved
    found = Registration(credentials.hub_host, credentials.device_id, None, sas=credentials.sas)
    assert store.save_registered(serial, found, now, 0.5)


class Line:
    """A hub adapter whose events are waited for."""

    def __init__(self, cloud: Cloud, **options: Any) -> None:
        self.hub = HubConnection(HubOptions(**{"ca_file": Path(cloud.facts["ca_file"]), **options}))
        self.seen: list[ConnectionEvent] = []

    def until(
        self, fact: Callable[[list[ConnectionEvent]], bool], timeout_s: float = 20.0
    ) -> list[ConnectionEvent]:
        """Collect events until `fact` holds about all of them."""
        deadline_s = time.monotonic() + timeout_s
        while not fact(self.seen):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"not within {timeout_s} s; seen {self.seen[-5:]}"
            select.select([self.hub], [], [], left_s)
            self.seen += self.hub.drain()
        return self.seen

    def connect(self, credentials: HubCredentials) -> int:
        number = self.hub.open(credentials)
        self.until(lambda seen: any(e.client == number for e in seen))
        assert Connected(number) in self.seen, self.seen
        return number

    def discard(self, number: int) -> None:
        self.hub.discard()
        self.until(lambda seen: Closed(number) in seen)


def acked(events: Iterable[ConnectionEvent]) -> list[object]:
    return [e.tag for e in events if isinstance(e, Acked)]


def losses(events: Iterable[ConnectionEvent]) -> list[Lost]:
    return [e for e in events if isinstance(e, Lost)]


def put(home: Home, header: dict[str, Any], *payloads: bytes) -> list[int]:
    """One request to ingest over a plain REQ socket; the ids it stored."""
    reply = json.loads(ask(home, header, *payloads))
    assert reply["ok"], reply
    return list(reply["ids"])


def refusal(home: Home, *payloads: bytes) -> NotStored:
    """How ingest refuses these: once, and however late. A producer that gives up soon may hear nothing."""
    reply = decode_reply([ask(home, {}, *payloads)])
    assert isinstance(reply, Refusal), reply
    return refusal_error(reply)


def ask(home: Home, header: dict[str, Any], *payloads: bytes) -> bytes:
    """One request, and its answer."""
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.linger = 0
    try:
        socket.connect(home.config.producer_endpoint())
        socket.send_multipart([json.dumps(header).encode(), *payloads])
        assert socket.poll(20_000), "ingest does not answer"
        return socket.recv()
    finally:
        socket.close(0)


def backlog(home: Home) -> int:
    """Messages that the store still has; -1 while it cannot be read."""
    reader = StoreReader(home.layout.messages_db)
    try:
        return reader.backlog().messages
    except Retryable:
        return -1
    finally:
        reader.close()


def quarantined(home: Home) -> dict[bytes, str]:
    """Payload and reason of what was set aside."""
    reader = StoreReader(home.layout.messages_db)
    try:
        return {
            aside.message.payload if isinstance(aside.message, StoredMessage) else b"": aside.reason
            for aside in reader.quarantine(limit=10_000)
        }
    finally:
        reader.close()


def uploading(home: Home, cloud: Cloud, toml: str = "", **more: str) -> HubCredentials:
    """A registered device with ingest and upload at work."""
    credentials = prepare(home, cloud, toml, **more)
    home.start_worker("upload")
    return credentials


def prepare(home: Home, cloud: Cloud, toml: str = "", **more: str) -> HubCredentials:
    """A registered device with ingest at work."""
    home.write_config(cloud.config_toml(upload=toml, **more))
    credentials = register(cloud)
    put_in_force(home.layout, credentials)
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists(), 20, "ingest starts")
    return credentials


def within_a_day() -> None:
    """Return when midnight (UTC) is not near: what is counted by the day would begin anew in the midst."""
    eventually(lambda: time.time() % DAY_S < DAY_S - 90.0, 120)


def check_arrivals(cloud: Cloud, payloads: Iterable[bytes], streams: str = "stream-name") -> None:
    """Everything is there, first arrivals in order within each stream, repeats under known ids."""
    wanted = list(payloads)
    first: dict[str, bytes] = {}
    for message in cloud.messages():
        if message.message_id.startswith("probe:"):
            continue
        known = first.setdefault(message.message_id, message.payload)
        assert known == message.payload, "two messages under one id"
    assert sorted(first.values()) == sorted(wanted)
    order: dict[str, list[bytes]] = {}
    seen: set[str] = set()
    for message in cloud.messages():
        if message.message_id not in seen and not message.message_id.startswith("probe:"):
            seen.add(message.message_id)
            order.setdefault(message.properties.get(streams, ""), []).append(message.payload)
    position = {payload: n for n, payload in enumerate(wanted)}
    for stream, arrived in order.items():
        places = [position[payload] for payload in arrived]
        assert places == sorted(places), f"stream {stream}: {arrived[:10]}"


def endings(home: Home) -> int:
    """Connections of upload that were lost, and attempts that came to nothing."""
    told = read_status(home.layout.status_file("upload")) or {}
    return int(told.get("losses", 0)) + int(told.get("failed_attempts", 0))
