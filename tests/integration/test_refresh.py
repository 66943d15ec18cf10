"""The refresh worker against a platform that says whatever the test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.identity.values import IdentityRecord
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import PlatformResult
from runtime.core.identity.renewal import MIN_GAP_S
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.workers import refresh
from runtime.workers.refresh import RefreshLoop
from tests.support import scripted as s
from tests.support.harness import Home, eventually, heart
from tests.support.scripted import Asked, Says, Scripted, scripted

NEVER = {"connectionStringExpiration": "2999-01-01T00:00:00Z", "tokenRemainingLifetime": None}


def registered(sas: str, **more: Any) -> Says:
    told = f"HostName=hub;DeviceId=w:d;SharedAccessSignature=SharedAccessSignature sr=hub&sig={sas}"
    return Says(200, {"connectionString": told, **NEVER, **more})


def renewed(token: str, status: int = 201) -> Says:
    return Says(status, {"registrationToken": token, "expirationTime": None})


class Bench:
    """One worker, turned by hand, with a Registration Token to begin with."""

    def __init__(self, home: Home, server: Scripted, folder: Path) -> None:
        self.home, self.server = home, server
        self.token_file = folder / "token"
        self.token_file.write_text("the-provisioning-token")
        home.write_config(
            f'[platform]\ninstance = "{server.instance}"\nca_file = "{server.ca_file}"\n'
            f'provisioning_token_file = "{self.token_file}"\ntimeout_s = 10\n[refresh]\nretry_max_s = 10\n'
        )
        self.store = IdentityStore(home.layout)
        self.hints = Hints(home.layout, "refresh")
        self.provisioned("first", 3600)
        self.restart()

    def provisioned(self, token: str, lifetime_s: float | None, age_s: float = 0) -> None:
        """A Registration Token as the provisioning worker saves it, received `age_s` ago."""
        clock = SystemClock()
        then = Moment(clock.wall_s() - age_s, clock.boot_s() - age_s, clock.boot_id())
        done = Enrolment(EnrolmentState.PROVISIONED, "basis", at=then)
        self.store.save_provisioned(done, PlatformResult(Secret(token), lifetime_s), then, 0.5)

    def restart(self) -> None:
        self.keeper = RefreshLoop(self.home.config, heart(self.home, "refresh"), self.hints)

    def identity(self) -> IdentityRecord:
        return self.store.read()

    def turn_until(self, fact: Any, hub_refused: bool = False) -> None:
        eventually(lambda: (self.keeper.turn(hub_refused), fact())[1])

    def asked(self) -> list[tuple[str, str]]:
        """Which call with which token, in order."""
        return [_token_of(one) for one in self.server.asked]

    def sas(self) -> str | None:
        found = self.store.hub_credentials()
        return found.sas.reveal().split("sig=")[1].split("&")[0] if found and found.sas else None


def _token_of(asked: Asked) -> tuple[str, str]:
    call = asked.path.rpartition("/")[2]
    if call == "refresh":
        return call, asked.body["registrationToken"]
    return call, asked.headers["Authorization"].removeprefix("DeviceToken ")


@pytest.fixture
def bench(home: Home, folder: Path) -> Iterator[Bench]:
    with scripted(folder) as server:
        made = Bench(home, server, folder)
        with closing(made.hints):
            yield made


def test_a_provisioned_device_registers_at_once_and_then_rests(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    assert bench.asked() == [("register", "first")]
    assert bench.keeper.turn(False) > 60
    told = read_status(bench.home.layout.status_file("refresh"))
    assert told is not None and (told["state"], told["device_id"]) == ("registered", "w:d")


def test_a_registration_token_that_is_due_is_renewed_with_its_own_text_and_proven(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    _age_sas(bench, MIN_GAP_S)
    bench.provisioned("old", 3600, age_s=3500)

    def answer(asked: Asked) -> Says:
        return renewed("new") if asked.path.endswith("refresh") else registered("two")

    bench.server.answer = answer
    bench.turn_until(lambda: bench.sas() == "two")
    assert bench.asked()[1:] == [("refresh", "old"), ("register", "new")]
    assert bench.identity().parent is None, "the child has proven itself"


def test_an_answer_that_was_lost_is_asked_for_again_with_the_parent(bench: Bench) -> None:
    bench.provisioned("parent", 3600, age_s=3500)
    bench.server.answer = lambda asked: Says(raw=s.cut_within)
    eventually(lambda: (bench.keeper.turn(False), bench.identity().paces)[1])
    bench.store.forget_failed(Task.REFRESH)  # its second comes soon enough in other tests
    bench.restart()

    def answer(asked: Asked) -> Says:
        return renewed("second-child", 200) if asked.path.endswith("refresh") else registered("sas")

    bench.server.answer = answer
    bench.turn_until(lambda: bench.asked()[-1] == ("register", "second-child"))
    assert bench.asked().count(("refresh", "parent")) == 2


def test_a_refused_registration_token_is_refreshed_and_if_that_is_refused_provisioned_again(
    bench: Bench,
) -> None:
    bench.provisioned("parent", 36000, age_s=3600)
    bench.store.save_refreshed(2, PlatformResult(Secret("child"), 36000.0), _ago(MIN_GAP_S), 0.5)

    def answer(asked: Asked) -> Says:
        return Says(410 if asked.path.endswith("refresh") else 401, {})

    bench.server.answer = answer
    bench.turn_until(lambda: bench.identity().registration is None and bench.identity().parent is None)
    assert bench.asked() == [("register", "child"), ("refresh", "child"), ("refresh", "parent")]
    assert bench.keeper.turn(False) > 0
    told = read_status(bench.home.layout.status_file("refresh"))
    assert told is not None and told["state"] == "waiting for provisioning"


def test_a_dead_child_is_replaced_through_its_parent(bench: Bench) -> None:
    bench.provisioned("parent", 36000, age_s=3600)
    bench.store.save_refreshed(2, PlatformResult(Secret("child"), 36000.0), _ago(MIN_GAP_S), 0.5)

    def answer(asked: Asked) -> Says:
        call, token = _token_of(asked)
        if token == "child":
            return Says(410 if call == "refresh" else 401, {})
        return renewed("good", 200) if call == "refresh" else registered("sas")

    bench.server.answer = answer
    bench.turn_until(bench.sas)
    assert bench.asked()[-1] == ("register", "good")


def test_the_hubs_refusal_is_answered_at_once_once_and_then_with_backoff(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    _age_sas(bench, 60)
    bench.server.answer = lambda asked: registered("two")
    bench.turn_until(lambda: bench.sas() == "two", hub_refused=True)
    assert len(bench.asked()) == 2
    _age_sas(bench, 60)
    assert bench.keeper.turn(True) >= MIN_GAP_S / 2, "it did not help: the second answer is not at once"
    assert len(bench.asked()) == 2


def test_a_refusal_that_speaks_of_the_sas_before_is_not_answered(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    assert bench.keeper.turn(True) > 60
    assert len(bench.asked()) == 1


def test_a_failed_renewal_leaves_the_sas_in_force_and_names_the_trouble(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    _age_sas(bench, 10**9)
    bench.server.answer = lambda asked: Says(503, {"title": "down"})
    bench.turn_until(lambda: Task.REGISTER in (bench.identity().paces or {}))
    assert bench.sas() == "one"
    bench.keeper.turn(False)
    told = read_status(bench.home.layout.status_file("refresh"))
    assert told is not None and told["trouble"] == "platform unavailable" and "down" in told["reason"]


def test_a_refused_provisioning_token_keeps_everything_and_a_new_one_ends_the_pause(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one")
    bench.turn_until(bench.sas)
    _age_sas(bench, MIN_GAP_S)
    bench.provisioned("old", 3600, age_s=3500)

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("register"):
            return registered("two")
        good = asked.headers["Authorization"].endswith("another-token")
        return renewed("new") if good else Says(401, {}, {"Retry-After": "600"})

    bench.server.answer = answer
    bench.turn_until(lambda: Task.REFRESH in (bench.identity().paces or {}))
    registration = bench.identity().registration
    assert registration is not None and registration.secret is not None
    assert registration.secret.reveal() == "old"
    bench.token_file.write_text("another-token")
    bench.turn_until(lambda: ("refresh", "old") in bench.asked()[-3:] and bench.sas() == "two")
    registration = bench.identity().registration
    assert registration is not None and registration.secret is not None
    assert registration.secret.reveal() == "new"


@pytest.mark.parametrize(
    ("provisioning_token", "wanted"),
    [
        ("refused", "refresh: HTTP 401: no refresh; the provisioning token is refused: put another one into"),
        (
            "",
            "HTTP 401: no register; no provisioning token renews it: put one, or another registration token",
        ),
    ],
)
def test_a_refused_registration_token_that_nothing_renews_is_told_with_what_helps(
    provisioning_token: str, wanted: str, bench: Bench
) -> None:
    """The status said that the token is refused, and nothing of the other one, for which it waited."""
    bench.token_file.write_text(provisioning_token)
    bench.server.answer = lambda asked: Says(401, {"title": f"no {asked.path.rpartition('/')[2]}"})
    bench.provisioned("first", 3600, age_s=MIN_GAP_S)
    bench.turn_until(
        lambda: wanted in (read_status(bench.home.layout.status_file("refresh")) or {}).get("reason", "")
    )


def test_a_registration_token_provisioned_meanwhile_is_not_overwritten_by_a_late_answer(bench: Bench) -> None:
    def answer(asked: Asked) -> Says:
        if _token_of(asked)[1] == "first":
            bench.provisioned("newcomer", None)  # while the call is under way
        return registered(_token_of(asked)[1])

    bench.server.answer = answer
    bench.turn_until(lambda: bench.sas() is not None)
    assert bench.sas() == "newcomer"


def test_a_refusal_of_the_token_before_makes_its_successor_wait_for_nothing(bench: Bench) -> None:
    def superseded_meanwhile(asked: Asked) -> Says:
        bench.provisioned("second", None)
        bench.server.answer = lambda asked: registered("sas-2")
        return Says(401, {}, {"Retry-After": "600"})

    bench.server.answer = superseded_meanwhile
    bench.keeper.turn(False)
    assert not bench.identity().paces
    bench.turn_until(lambda: bench.sas() == "sas-2")
    assert bench.asked() == [("register", "first"), ("register", "second")]


def test_skew_is_learnt_from_the_servers_clock(bench: Bench) -> None:
    says = registered("one")
    says.headers["Date"] = "Mon, 01 Jan 2035 00:00:00 GMT"
    bench.server.answer = lambda asked: says
    bench.turn_until(bench.sas)
    skew_s = bench.identity().skew_s
    assert skew_s is not None and abs(SystemClock().wall_s() + skew_s - 2_051_222_400) < 30
    told = bench.identity().sas
    assert told is not None and told.life.lifetime_s is not None
    assert told.life.lifetime_s == pytest.approx(32_472_144_000 - 2_051_222_400), "by the server's own clock"


@pytest.mark.parametrize("ends", ["2034-12-30T00:00:00Z", "2035-01-01T00:00:00Z"])
def test_a_platform_whose_date_runs_ahead_of_what_it_issues_is_not_asked_every_five_seconds(
    ends: str, bench: Bench
) -> None:
    says = registered("one", connectionStringExpiration=ends)
    says.headers["Date"] = "Mon, 01 Jan 2035 00:00:00 GMT"
    bench.server.answer = lambda asked: says
    bench.turn_until(bench.sas)
    assert bench.keeper.turn(False) > 60
    _age_sas(bench, MIN_GAP_S)
    assert bench.keeper.turn(False) > 60
    assert len(bench.asked()) == 1


def test_a_platform_whose_date_is_years_behind_is_not_asked_for_another_token_every_five_seconds(
    bench: Bench,
) -> None:
    def answer(asked: Asked) -> Says:
        if asked.path.endswith("register"):
            return registered("one", tokenRemainingLifetime="30.00:00:00")
        return Says(201, {"registrationToken": "second", "expirationTime": "2026-12-31T00:00:00Z"}, behind)

    behind = {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}
    bench.server.answer = answer
    bench.provisioned("first", 100, age_s=99)
    bench.turn_until(bench.sas)
    assert bench.keeper.turn(False) > 3600
    assert bench.asked() == [("refresh", "first"), ("register", "second")]


def test_a_token_that_has_just_served_is_not_over_whatever_life_the_platform_tells(bench: Bench) -> None:
    bench.server.answer = lambda asked: registered("one", tokenRemainingLifetime="-00:00:05")
    bench.turn_until(bench.sas)
    assert bench.keeper.turn(False) > 60


def test_a_device_without_a_platform_waits_and_does_not_spin(home: Home) -> None:
    with closing(Hints(home.layout, "refresh")) as hints:
        keeper = RefreshLoop(home.config, heart(home, "refresh"), hints)
        assert keeper.turn(False) >= refresh.TURN_S
    told = read_status(home.layout.status_file("refresh"))
    assert told is not None and told["reason"] == "platform.instance is not set"


def _ago(seconds: float) -> Moment:
    clock = SystemClock()
    return Moment(clock.wall_s() - seconds, clock.boot_s() - seconds, clock.boot_id())


def _age_sas(bench: Bench, seconds: float) -> None:
    """Let the SAS have been received so long ago; with more than its life it is overdue."""
    import sqlite3

    with sqlite3.connect(bench.home.layout.identity_db) as db:
        db.execute(
            "UPDATE tokens SET boot_s = boot_s - ?, lifetime_s = min(lifetime_s, 1e6) WHERE kind = 'sas'",
            (seconds,),
        )
