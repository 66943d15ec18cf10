"""`edgectl identity` and `edgectl provision`, as a person and as a script meet them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.process import Lock
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome, PlatformResult, Registration
from runtime.core.identity.renewal import RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from tests.support.harness import Home, heart
from tests.support.runbook import documented_keys


def now() -> Moment:
    return read_moment(SystemClock())


def register(home: Home) -> IdentityStore:
    store = IdentityStore(home.layout)
    store.save_provisioned(
        Enrolment(EnrolmentState.PROVISIONED, "b", at=now()),
        PlatformResult(Secret("secret-rt"), None),
        now(),
        0.5,
    )
    store.save_registered(1, Registration("hub", "w:dev-1", 86_395.0, Secret("secret-sas")), now(), 0.5)
    return store


def test_a_new_device_says_that_it_is_nobody_yet_and_exits_with_1(home: Home) -> None:
    done = home.edgectl("identity")
    assert done.returncode == 1 and "waiting for provisioning" in done.stdout
    done = home.edgectl("provision")
    assert (done.returncode, done.stdout.strip()) == (1, "No verification code yet: not begun.")


def test_a_pending_device_shows_its_code(home: Home) -> None:
    IdentityStore(home.layout).save_enrolment(Enrolment(EnrolmentState.PENDING, "b", "op", "AB-12", at=now()))
    done = home.edgectl("provision")
    assert done.returncode == 1 and "Verification code: AB-12" in done.stdout
    assert "AB-12" in home.edgectl("identity").stdout


def test_a_registered_device_that_waits_for_approval_under_another_wish_shows_its_code(home: Home) -> None:
    register(home).save_enrolment(Enrolment(EnrolmentState.PENDING, "b2", "op", "AB-12", at=now()))
    for options in ((), ("--wait", "--timeout", "0.2")):
        done = home.edgectl("provision", *options)
        assert done.returncode == 1 and "Verification code: AB-12" in done.stdout
        assert "Registered" not in done.stdout


def test_a_registered_device_tells_everything_but_its_tokens(home: Home) -> None:
    store = register(home)
    store.save_failed(1, Task.REFRESH, RetryPace(2, now(), 30.0, Outcome.THROTTLED, "too many"))
    store.save_skew(-3600.0)
    done = home.edgectl("identity")
    assert done.returncode == 0
    for fact in (
        "w:dev-1",
        "never expires, age",
        "23 h 59 min left",
        "renewal in 14 h",
        "-3600 s",
        "throttled (too many), 2 times",
    ):
        assert fact in done.stdout, fact
    told = json.loads(home.edgectl("identity", "--json").stdout)
    assert (told["state"], told["device_id"]) == ("registered", "w:dev-1")
    assert told["tokens"]["registration token"]["remaining_s"] is None
    assert told["errors"][0]["at"] == "refresh"
    for text in (done.stdout, json.dumps(told)):
        assert "secret-" not in text


def test_the_keys_of_the_json_are_those_of_the_runbook_whoever_runs(home: Home) -> None:
    register(home).save_failed(1, Task.REFRESH, RetryPace(2, now(), 30.0, Outcome.THROTTLED, "too many"))
    told = json.loads(home.edgectl("identity", "--json").stdout)
    assert set(told["errors"][0]) == {"at", "outcome", "reason", "times", "ago_s"}
    with heard(home):
        running = json.loads(home.edgectl("identity", "--json").stdout)
    for found in (told, running):
        one = {
            **found,
            "tokens": {"KIND": found["tokens"]["sas"]},
            "next": {"WORKER": found["next"]["refresh"]},
        }
        assert set(keys(one)) == documented_keys("identity --json")


def keys(found: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in found.items():
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


@contextmanager
def heard(home: Home) -> Iterator[None]:
    """A `refresh` that says where it stands."""
    lock = Lock(home.layout.lock("refresh"))
    heart(home, "refresh").publish({"state": "registered", "next": "register", "next_in_s": 5}, now=True)
    yield
    lock.release()


def test_forgetting_needs_a_word_and_then_forgets(home: Home) -> None:
    register(home)
    refused = home.edgectl("provision", "--reset", stdin="y\n")
    assert refused.returncode == 2 and "--yes" in refused.stderr
    assert IdentityReader(home.layout).hub_credentials() is not None
    done = home.edgectl("provision", "--reset", "--yes")
    assert done.returncode == 0, "it did what it was asked for"
    assert "Forgotten" in done.stdout
    assert IdentityReader(home.layout).hub_credentials() is None


def test_a_line_at_rest_is_shown_without_its_text_and_forgotten_with_the_rest(home: Home) -> None:
    done = Enrolment(EnrolmentState.PROVISIONED, "made by hand", at=now(), adopted="mark")
    register(home).save_provisioned(done, PlatformResult(Secret("secret-by-hand"), None), now(), 0.5)
    told = home.edgectl("identity").stdout
    assert "former token" in told and "secret-" not in told
    home.edgectl("provision", "--reset", "--yes")
    assert IdentityReader(home.layout).read().tokens == []


def test_waiting_ends_when_its_time_is_over(home: Home) -> None:
    assert home.edgectl("provision", "--wait", "--timeout", "0.2").returncode == 1


@pytest.mark.parametrize("options", [(), ("--wait", "--timeout", "0.2")])
def test_whoever_waits_for_a_code_hears_why_none_comes(options: tuple[str, ...], home: Home) -> None:
    rejected = Enrolment(
        EnrolmentState.REJECTED, "b", trouble=Outcome.BAD_REQUEST, reason="HTTP 400: dev-1 is taken"
    )
    IdentityStore(home.layout).save_enrolment(rejected)
    said = home.edgectl("provision", *options)
    assert said.returncode == 1
    assert said.stdout.startswith("rejected by the platform: HTTP 400: dev-1 is taken\n")


def test_a_token_file_that_others_can_read_is_named_with_the_remedy(home: Home) -> None:
    token = home.folder / "token"
    token.write_text("t")
    home.write_config('[platform]\nprovisioning_token_file = "token"\n')
    for mode, named in ((0o644, True), (0o640, False)):
        token.chmod(mode)
        assert (f"chmod 600 {token}" in home.edgectl("doctor").stdout) is named
