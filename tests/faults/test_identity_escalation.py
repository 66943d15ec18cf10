"""Each credential is refused in turn while messages flow: all heals without a hand, and nothing is lost."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.credentials import HubCredentials
from runtime.producer import Producer
from tests.support.harness import Cloud, Home, eventually


class Running:
    """A whole device at work, and what it sent."""

    def __init__(self, cloud: Cloud, device: Home) -> None:
        self.cloud, self.device = cloud, device
        self.reader = IdentityReader(device.layout)
        self.producer = Producer(f"ipc://{device.layout.producer_socket}", name="sender")
        self._numbers = itertools.count()
        self.sent = 0

    def send(self, count: int = 20) -> None:
        self.producer.put_many([str(next(self._numbers)).encode() for _ in range(count)])
        self.sent += count

    def arrived(self) -> bool:
        return {int(m.payload) for m in self.cloud.messages()} == set(range(self.sent))

    def credentials(self) -> HubCredentials:
        credentials = eventually(self.reader.hub_credentials)
        assert credentials is not None
        return credentials

    def state(self, worker: str) -> str:
        return str((read_status(self.device.layout.status_file(worker)) or {}).get("state"))

    def refusals(self) -> int:
        """CONNECTs that the hub refused."""
        path = f"file:{self.cloud.folder / 'devcloud.db'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=10)) as db:
            return int(db.execute("SELECT count(*) FROM connections WHERE code <> 0").fetchone()[0])

    @property
    def name(self) -> str:
        """The device id within the workspace."""
        return self.credentials().device_id.partition(":")[2]


@pytest.fixture
def running(cloud: Cloud, device: Home) -> Iterator[Running]:
    device.start_all()
    eventually(device.layout.producer_socket.exists)
    made = Running(cloud, device)
    made.send()  # stored from the first second, long before approval
    eventually(cloud.waiting)
    assert made.reader.hub_credentials() is None
    cloud.approve_all()
    eventually(made.arrived)
    try:
        yield made
    finally:
        made.producer.close()


def test_a_sas_that_the_hub_refuses_is_replaced_at_once_and_once(running: Running) -> None:
    before = running.credentials().generation
    eventually(lambda: (running.reader.read().sas is not None) and _sas_age_s(running) > 5.5, 15)
    running.cloud.call("POST", "/admin/tokens", {"what": "sas", "device": running.name})
    running.send()
    eventually(running.arrived, 20)
    assert running.credentials().generation == before + 1
    assert running.refusals() <= 3


def test_a_revoked_registration_token_ends_in_provisioning_again_and_the_backlog_goes_out(
    running: Running,
) -> None:
    eventually(lambda: _sas_age_s(running) > 5.5, 15)
    old = running.name
    running.cloud.call(
        "POST", "/admin/tokens", {"what": "registration-token", "how": "revoke", "device": old}
    )
    running.cloud.call("POST", "/admin/tokens", {"what": "sas", "device": old})
    running.send()
    waiting = eventually(running.cloud.waiting, 30, "the device asks to be provisioned again")
    running.cloud.approve(waiting[0]["provisioningOperationId"], "reborn-1")
    eventually(running.arrived, 30)
    assert running.name == "reborn-1"
    assert {m.device_id.partition(":")[2] for m in running.cloud.messages()} == {old, "reborn-1"}


def test_a_refused_provisioning_token_waits_visibly_until_another_one_is_put_into_its_file(
    running: Running,
) -> None:
    eventually(lambda: _sas_age_s(running) > 5.5, 15)
    workspace = f"/workspaces/{running.cloud.facts['workspace']}"
    listed = running.cloud.call("GET", f"{workspace}/provisioning-tokens")
    for token in next(iter(listed.values())):
        running.cloud.call(
            "PUT",
            f"{workspace}/provisioning-tokens/revoke",
            {"provisioningTokenId": token["provisioningTokenId"]},
        )
    for what in ("registration-token", "sas"):
        running.cloud.call("POST", "/admin/tokens", {"what": what, "device": running.name})
    running.send()
    eventually(lambda: running.state("refresh") == "registration token refused", 30)
    made = running.cloud.call("POST", f"{workspace}/provisioning-tokens/create", {})
    (running.cloud.folder / "device-provisioning-token").write_text(made["provisioningToken"])
    eventually(running.cloud.waiting, 30, "the device asks with its new Provisioning Token")
    running.cloud.approve_all()
    eventually(running.arrived, 30)
    eventually(lambda: running.state("refresh") == "registered")


def _sas_age_s(running: Running) -> float:
    from runtime.adapters.process.clock import SystemClock, read_moment

    sas = running.reader.read().sas
    return 0.0 if sas is None else sas.life.age(read_moment(SystemClock())) or 0.0
