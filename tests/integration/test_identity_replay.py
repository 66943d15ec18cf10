"""The disk forgets what the platform has done: a kill or a power cut between an answer and its saving.

The platform is the strict stand-in; the device's memory is put back byte by byte to where it was.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.platform_answer import PlatformResult
from runtime.core.secret import Secret
from runtime.workers.refresh import RefreshLoop
from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, Home, eventually, heart, short_folder

LIFE_S = 3600.0


class Device:
    """A registered device whose `refresh` is turned by hand."""

    def __init__(self, home: Home, client: Client, hints: Hints, name: str) -> None:
        token = home.folder / "token"
        token.write_text(client.facts["provisioning_token"])
        token.chmod(0o600)
        facts = client.facts
        home.write_config(
            f'[platform]\ninstance = "{facts["instance"]}"\nca_file = "{facts["ca_file"]}"\n'
            f'provisioning_token_file = "{token}"\n[refresh]\nretry_max_s = 1\n'
        )
        self.home, self.hints = home, hints
        self.store = IdentityStore(home.layout)
        now, grant = read_moment(SystemClock()), PlatformResult(Secret(client.provisioned(name)), LIFE_S)
        self.store.save_provisioned(Enrolment(EnrolmentState.PROVISIONED, "basis", at=now), grant, now, 0.5)
        self.born_anew()
        self.turn_until_registered()

    def born_anew(self) -> None:
        """As after a crash: nothing is left but the disk."""
        self.keeper = RefreshLoop(self.home.config, heart(self.home, "refresh"), self.hints)

    def age(self, kind: str) -> None:
        """The token of that kind is due; the minimum gap is over for all of them."""
        with closing(sqlite3.connect(self.home.layout.identity_db)) as db:
            db.execute("UPDATE tokens SET boot_s = boot_s - 10")
            db.execute("UPDATE tokens SET age_s = lifetime_s - 100 WHERE kind = ?", (kind,))
            db.commit()

    def renew(self) -> None:
        """The Registration Token is renewed, and proven."""
        before = self.serial()
        self.age("registration")
        eventually(lambda: (self.keeper.turn(False), self.serial() > before)[1], 10)
        self.turn_until_registered()

    def turn_until_registered(self) -> None:
        def proven() -> bool:
            self.keeper.turn(False)
            found = self.store.read()
            return bool(found.sas and found.registration and found.sas.serial == found.registration.serial)

        eventually(proven, 10)

    def serial(self) -> int:
        found = self.store.read().registration
        return found.serial if found else 0

    def disk(self) -> bytes:
        return self.home.layout.identity_db.read_bytes()

    def put_back(self, disk: bytes) -> None:
        self.home.layout.identity_db.write_bytes(disk)
        self.born_anew()

    def state(self) -> object:
        return (read_status(self.home.layout.status_file("refresh")) or {}).get("state")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A cloud with the usual grace period, which is longer than a test on a busy machine."""
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield Client(running)
        running.close()


@pytest.fixture
def device(home: Home, client: Client) -> Iterator[Device]:
    with closing(Hints(home.layout, "refresh")) as hints:
        yield Device(home, client, hints, f"replay-{secrets.token_hex(4)}")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_identity_that_forgets_a_renewal_again_and_again_renews_with_the_parent_in_its_grace(
    times: int, device: Device
) -> None:
    disk = device.disk()
    for _ in range(times):  # the first answer was 201, all others are 200
        device.renew()
        device.put_back(disk)
    device.renew()
    assert device.state() == "registered"


def test_an_identity_that_is_two_generations_old_asks_to_be_provisioned_again_by_itself(
    device: Device,
) -> None:
    disk = device.disk()
    device.renew()
    device.renew()
    device.put_back(disk)
    device.age("sas")
    eventually(lambda: (device.keeper.turn(False), device.serial() == 0)[1], 10)
    device.keeper.turn(False)
    assert device.state() == "waiting for provisioning"
    assert device.store.hub_credentials() is not None, "what is connected goes on meanwhile"
