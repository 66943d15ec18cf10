"""A line of tokens that worked rests until another one has registered, and no other platform is shown it.

Both workers on one disk, turned by hand, before two platforms that say what the test wants.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import REFUSED_BY_HAND, Enrolment, EnrolmentState, host_of
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.secret import Secret
from runtime.workers.provisioning import ProvisioningLoop
from runtime.workers.refresh import RefreshLoop
from tests.support.harness import Home, eventually, heart
from tests.support.scripted import Asked, Says, Scripted, scripted

KEY = base64.b64encode(b"k" * 32).decode()
PAGE = Says(403, b"<html>Blocked by your organisation</html>")
NOT_YET = Says(202, b"")


def token_of(asked: Asked) -> str:
    """The Registration Token in a call, wherever it stands."""
    if asked.path.endswith("refresh"):
        return str(asked.body["registrationToken"])
    return asked.headers["Authorization"].removeprefix("DeviceToken ")


class Platform:
    """A platform that knows some tokens; what it says otherwise is the test's."""

    def __init__(self, server: Scripted, name: str) -> None:
        self.server, self.name = server, name
        self.good: set[str] = set()
        self.complete = NOT_YET
        self.refusal, self.no_refresh = Says(401, {}), Says(410, {})
        server.answer = self.answer

    def answer(self, asked: Asked) -> Says:
        match asked.path.rpartition("/")[2]:
            case "init":
                return Says(200, {"provisioningOperationId": "op", "verificationCode": "AB-12"})
            case "complete":
                return self.complete
            case "register" if token_of(asked) in self.good:
                sas = f"SharedAccessSignature sr={self.name}&sig={token_of(asked)}"
                told = f"HostName={self.name};DeviceId=w:d;SharedAccessSignature={sas}"
                return Says(200, {"connectionString": told, "tokenRemainingLifetime": None})
            case "register":
                return self.refusal
            case _:
                return self.no_refresh

    def calls(self, name: str) -> list[str]:
        """The tokens that a call came with."""
        return [token_of(one) for one in self.server.asked if one.path.endswith(name)]

    def was_shown(self, token: str) -> bool:
        return any(token in f"{one.headers} {one.body}" for one in self.server.asked)


class Device:
    """Both workers; `configure` starts them anew, as a change of edge.toml does."""

    def __init__(self, home: Home, folder: Path, hints: tuple[Hints, Hints]) -> None:
        self.home, self.folder, self._hints = home, folder, hints
        (folder / "token").write_text("the-provisioning-token")
        (folder / "token").chmod(0o600)
        self.store = IdentityStore(home.layout)

    def configure(self, at: Platform, mode: str = "platform", by_hand: str | None = None) -> None:
        hand = self.folder / "hand"
        if by_hand is not None:
            hand.write_text(by_hand)
            hand.chmod(0o600)
        connection = f"HostName=direct;DeviceId=w:d;SharedAccessKey={KEY}"
        self.home.write_config(
            f'[platform]\ninstance = "{at.server.instance}"\nca_file = "{at.server.ca_file}"\n'
            f'provisioning_token_file = "{self.folder / "token"}"\nregistration_token_file = "{hand}"\n'
            f'[identity]\nmode = "{mode}"\nconnection_string = "{connection}"\n'
            "[provisioning]\npoll_s = 0.1\nretry_max_s = 1\n[refresh]\nretry_max_s = 1\n"
        )
        self.clerk = ProvisioningLoop(self.home.config, heart(self.home, "provisioning"), self._hints[0])
        self.keeper = RefreshLoop(self.home.config, heart(self.home, "refresh"), self._hints[1])

    def turn(self) -> None:
        self.clerk.turn()
        self.keeper.turn(False)

    def turn_until(self, fact: Any, what: str) -> None:
        eventually(lambda: (self.turn(), fact())[1], what=what)

    def sas(self) -> str:
        found = self.store.hub_credentials()
        return found.sas.reveal().split("sig=")[1].split("&")[0] if found and found.sas else ""

    def rest(self) -> dict[str, str]:
        """Every Registration Token on disk, by its row."""
        with closing(sqlite3.connect(self.home.layout.identity_db)) as db:
            return dict(db.execute("SELECT kind, text FROM tokens WHERE kind <> 'sas'").fetchall())

    def age(self, seconds: float) -> None:
        """All that was received was received so long before."""
        with closing(sqlite3.connect(self.home.layout.identity_db)) as db, db:
            db.execute("UPDATE tokens SET boot_s = boot_s - ?", (seconds,))


@pytest.fixture
def world(home: Home, folder: Path) -> Iterator[tuple[Device, Platform, Platform]]:
    with ExitStack() as stack:
        platforms = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            platforms.append(Platform(stack.enter_context(scripted(folder / name)), name))
        hints = tuple(
            stack.enter_context(closing(Hints(home.layout, name))) for name in ("provisioning", "refresh")
        )
        device = Device(home, folder, (hints[0], hints[1]))
        platforms[0].good = {"good-token"}
        platforms[0].complete = Says(200, {"registrationToken": "good-token", "expirationTime": None})
        device.configure(platforms[0])
        device.turn_until(lambda: device.sas() == "good-token", "registered at a")
        platforms[0].complete = NOT_YET
        device.age(60)
        yield device, platforms[0], platforms[1]


World = tuple[Device, Platform, Platform]


def test_a_token_by_hand_with_a_piece_missing_does_not_cost_the_one_that_worked(world: World) -> None:
    device, a, _ = world
    device.configure(a, by_hand="good-toke")
    device.turn_until(lambda: "good-toke" in a.calls("register"), "it is tried")
    assert device.rest()["former"] == "good-token"
    device.turn_until(lambda: device.rest() == {"registration": "good-token"}, "the one before is back")
    for _ in range(5):
        device.turn()
    assert a.calls("init") == ["the-provisioning-token"], "no operator is asked"
    assert a.calls("register").count("good-toke") == 1, "it is not taken twice"
    told = read_status(device.home.layout.status_file("provisioning")) or {}
    assert (told["state"], told["reason"]) == ("provisioned", REFUSED_BY_HAND)


def test_a_token_by_hand_that_a_gateway_refuses_is_not_given_up_for_it(world: World) -> None:
    device, a, _ = world
    a.refusal = a.no_refresh = PAGE
    device.configure(a, by_hand="new-token")
    device.turn_until(lambda: "new-token" in a.calls("register"), "it is tried")
    device.turn()
    assert device.rest() == {"registration": "new-token", "former": "good-token"}
    a.good.add("new-token")
    device.turn_until(lambda: device.sas() == "new-token", "registered")
    assert device.rest() == {"registration": "new-token"}, "only now nothing of the one before is needed"


def test_a_stay_in_another_mode_costs_no_approval(world: World) -> None:
    device, a, _ = world
    device.configure(a, "connection-string")
    device.turn_until(lambda: (found := device.store.read().hub) and found.host == "direct", "by its key")
    assert device.rest() == {"registration": "", "former": "good-token"}
    asked = len(a.server.asked)
    device.configure(a)
    device.turn_until(lambda: device.sas() == "good-token", "registered again")
    calls = [one.path.rpartition("/")[2] for one in a.server.asked[asked:]]
    assert calls == ["register"], "nothing is to be approved"
    assert device.store.read().enrolment.state is EnrolmentState.PROVISIONED


def test_one_refusal_and_the_page_of_a_firewall_do_not_make_the_device_ask_for_approval(
    world: World,
) -> None:
    """One 401 to register and one 403 to refresh, and a working token was deleted."""
    device, a, _ = world
    a.good.clear()
    a.no_refresh = PAGE
    device.age(10**6)
    device.store.forget_failed(Task.REGISTER)
    with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET lifetime_s = 1000 WHERE kind = 'sas'")
    device.turn_until(lambda: len(a.calls("refresh")) >= 3, "it is refused")
    assert device.rest() == {"registration": "good-token"}
    a.good.add("good-token")
    device.turn_until(lambda: not device.store.read().token_refused, "registered again")
    assert a.calls("init") == ["the-provisioning-token"]


def test_no_other_platform_is_shown_a_token_and_back_at_its_own_it_serves_again(world: World) -> None:
    """`platform.instance` was changed, and the Registration Token of one platform went to the other."""
    device, a, b = world
    device.configure(b)
    device.turn_until(lambda: b.calls("complete"), "an operator of b is asked")
    assert not b.was_shown("good-token")
    assert device.rest() == {"former": "good-token"} and device.sas() == "good-token"
    device.configure(a)
    for _ in range(5):
        device.turn()
    assert device.rest() == {"registration": "good-token"}
    assert device.store.read().enrolment.state is EnrolmentState.PROVISIONED
    assert a.calls("init") == ["the-provisioning-token"], "nobody had to approve that again"


def test_what_worked_is_forgotten_once_the_other_platform_has_registered_the_device(world: World) -> None:
    device, a, b = world
    device.configure(b)
    b.complete, b.good = Says(200, {"registrationToken": "b-token", "expirationTime": None}), {"b-token"}
    device.turn_until(lambda: device.sas() == "b-token", "registered at b")
    assert device.rest() == {"registration": "b-token"}
    assert not a.was_shown("b-token") and not b.was_shown("good-token")


def test_the_same_platform_written_otherwise_is_no_other(world: World) -> None:
    device, _, _ = world
    with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET host = 'platform.example' WHERE kind = 'registration'")
    found = device.store.read()
    assert not found.misplaced(host_of("Platform.Example:443"))
    assert found.misplaced(host_of("platform.example:8443"))


def test_what_was_refused_is_tried_again_while_an_operator_is_awaited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, a, _ = world
    monkeypatch.setattr("runtime.adapters.identity.token_lines.FORMER_PAUSE_S", 0.3)
    monkeypatch.setattr("runtime.core.identity.renewal.FORMER_PAUSE_S", 0.3)
    a.good.clear()
    with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET lifetime_s = 10 WHERE kind = 'sas'")
    device.turn_until(lambda: a.calls("complete")[1:], "an operator is asked")
    assert device.rest() == {"former": "good-token"}
    tried = len(a.calls("register"))
    device.turn_until(lambda: len(a.calls("register")) > tried, "it is tried again")
    assert device.store.read().enrolment.state is EnrolmentState.PENDING
    a.good.add("good-token")
    device.turn_until(lambda: device.rest() == {"registration": "good-token"}, "it was a mistake")
    assert device.store.read().enrolment.state is EnrolmentState.PROVISIONED
    asked = len(a.calls("complete"))
    for _ in range(5):
        device.turn()
    assert len(a.calls("complete")) == asked, "nobody is asked any more"


def test_a_token_that_registers_is_not_given_up_because_it_is_not_renewed(world: World) -> None:
    """One 410 to a refresh."""
    device, a, _ = world
    with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET lifetime_s = 50 WHERE kind = 'registration'")
    registered = len(a.calls("register"))
    device.turn_until(lambda: a.calls("refresh"), "it is to be renewed")
    device.turn_until(lambda: len(a.calls("register")) > registered, "it is tried")
    assert device.rest() == {"registration": "good-token"}
    assert a.calls("init") == ["the-provisioning-token"]


@pytest.mark.parametrize(
    ("basis", "elsewhere"),
    [("A.example:443 dev-1 0123456789abcdef", False), ("A.example * 01", False), ("made by hand", True)],
)
def test_a_device_of_before_keeps_its_line_for_the_platform_that_it_is_of(
    basis: str, elsewhere: bool, home: Home
) -> None:
    clock = SystemClock()
    store, now = IdentityStore(home.layout), read_moment(clock)
    record = Enrolment(EnrolmentState.PROVISIONED, basis, at=now)
    store.save_provisioned(record, PlatformResult(Secret("kept"), None), now, 0.5)
    store.save_registered(1, Registration("hub", "w:d", 3600.0, Secret("sas")), now, 0.5)
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        for table, column in (("tokens", "host"), ("tokens", "basis"), ("paces", "refusals")):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for column in ("begun", "refusals"):
            db.execute(f"ALTER TABLE enrolment DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 4")
    assert IdentityReader(home.layout).read().registration is not None, "a reader comes before the writer"
    found = IdentityStore(home.layout).read()
    assert found.granted == record.basis and found.enrolment == record
    assert (found.has_token("a.example"), found.has_token("b.example")) == (True, elsewhere)
