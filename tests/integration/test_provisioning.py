"""The provisioning worker against a platform that says what the test wants, and files that come and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import IDENTITY_CHANGED, Hints
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.identity.platform_api import CANCELLED
from runtime.adapters.identity.values import IdentityRecord
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import EnrolmentState
from runtime.core.identity.platform_answer import Outcome, Registration
from runtime.core.secret import Secret
from runtime.operations.doctor import check_unregistered
from runtime.workers.provisioning import ProvisioningLoop
from tests.support import scripted as s
from tests.support.harness import Home, eventually, heart
from tests.support.scripted import Asked, Says, Scripted, scripted

BEGUN = Says(200, {"provisioningOperationId": "op-1", "verificationCode": "AB-12", "expirationTime": None})
GRANTED = Says(200, {"registrationToken": "the-registration-token", "expirationTime": None})


class Bench:
    """One worker, turned by hand."""

    def __init__(self, home: Home, server: Scripted, folder: Path) -> None:
        self.home, self.server = home, server
        self.token_file = folder / "token"
        self.token_file.write_text("the-provisioning-token\n")
        self.configure()
        self.hints = Hints(home.layout, "provisioning")
        self.stop = Stop()
        self.restart()

    def configure(self, device_id: str = "dev-1", timeout_s: float = 10.0) -> None:
        self.home.write_config(
            f'[device]\nid = "{device_id}"\n[platform]\ninstance = "{self.server.instance}"\n'
            f'ca_file = "{self.server.ca_file}"\nprovisioning_token_file = "{self.token_file}"\n'
            f"timeout_s = {timeout_s}\n"
            "[provisioning]\npoll_s = 0.1\nretry_max_s = 1\ncancelled_pause_s = 30\n"
        )

    def restart(self) -> None:
        """As after a crash: nothing is left but the disk."""
        mine = heart(self.home, "provisioning", self.stop)
        self.clerk = ProvisioningLoop(self.home.config, mine, self.hints)

    def state(self) -> EnrolmentState:
        return IdentityReader(self.home.layout).read().enrolment.state

    def turn_until(self, state: EnrolmentState) -> None:
        def turned() -> bool:
            self.clerk.turn()
            return self.state() is state

        eventually(turned, what=f"provisioning is {state.name}")

    def calls(self) -> list[str]:
        return [asked.path.rpartition("/")[2] for asked in self.server.asked]


@pytest.fixture
def bench(home: Home, folder: Path) -> Iterator[Bench]:
    with scripted(folder) as server:
        made = Bench(home, server, folder)
        with closing(made.hints):
            yield made


def script(**answers: Says) -> s.Script:
    return lambda asked: answers[asked.path.rpartition("/")[2]]


def test_a_device_shows_its_code_waits_for_approval_and_is_provisioned(bench: Bench) -> None:
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    code_file = bench.home.layout.run / "verification-code"
    bench.turn_until(EnrolmentState.PENDING)
    bench.clerk.turn()
    assert code_file.read_text() == "AB-12\n"
    told = read_status(bench.home.layout.status_file("provisioning"))
    assert told is not None
    assert (told["state"], told["verification_code"]) == ("waiting for approval", "AB-12")
    with closing(Hints(bench.home.layout, "refresh", ["provisioning"])) as listener:
        eventually(lambda: (bench.hints.publish("hello"), listener.wait(0.1))[1], 10, "it listens")
        bench.server.answer = script(init=BEGUN, complete=GRANTED)
        bench.turn_until(EnrolmentState.PROVISIONED)
        eventually(lambda: IDENTITY_CHANGED in listener.wait(0.1))
    bench.clerk.turn()
    assert not code_file.exists()
    registration = IdentityReader(bench.home.layout).read().registration
    assert registration is not None and registration.secret is not None
    assert registration.secret.reveal() == "the-registration-token"
    assert bench.server.asked[0].body == {"deviceId": "dev-1"}
    assert bench.calls()[0] == "init" and set(bench.calls()[1:]) == {"complete"}


def test_a_worker_killed_between_complete_and_saving_completes_again(bench: Bench) -> None:
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    bench.turn_until(EnrolmentState.PENDING)
    bench.server.answer = script(complete=Says(raw=s.cut_within))  # approved, but we never got to keep it
    eventually(lambda: (bench.clerk.turn(), "complete" in bench.calls())[1])
    bench.restart()
    bench.server.answer = script(complete=GRANTED)
    bench.turn_until(EnrolmentState.PROVISIONED)
    assert bench.calls().count("init") == 1
    assert {asked.body["provisioningOperationId"] for asked in bench.server.asked[1:]} == {"op-1"}


@pytest.mark.parametrize("late", [Says(202, b""), GRANTED], ids=["not yet", "approved"])
def test_a_device_that_was_told_to_forget_is_not_brought_back_by_an_answer_under_way(
    late: Says, bench: Bench
) -> None:
    store = IdentityStore(bench.home.layout)

    def forgotten_meanwhile(asked: Asked) -> Says:
        if asked.path.endswith("complete"):
            store.reset()
            return late
        return BEGUN

    bench.server.answer = forgotten_meanwhile
    bench.turn_until(EnrolmentState.PENDING)
    eventually(lambda: (bench.clerk.turn(), "complete" in bench.calls())[1])
    found = store.read()
    assert (found.enrolment.operation_id, found.registration) == (None, None)
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    bench.turn_until(EnrolmentState.PENDING)
    assert bench.calls().count("init") == 2, "it has begun anew"


def test_a_cancelled_operation_is_told_and_not_begun_again_in_a_hurry(bench: Bench) -> None:
    bench.server.answer = script(init=BEGUN, complete=Says(410, {"type": CANCELLED, "detail": "by Eve"}))
    bench.turn_until(EnrolmentState.CANCELLED)
    bench.restart()
    assert bench.clerk.turn() > 25
    told = read_status(bench.home.layout.status_file("provisioning"))
    assert told is not None and told["state"] == "cancelled by the operator" and "by Eve" in told["reason"]
    assert bench.calls().count("init") == 1


def test_an_expired_operation_is_begun_again_with_a_new_code(bench: Bench) -> None:
    bench.server.answer = script(init=BEGUN, complete=Says(410, {"type": "/problems/expired"}))
    bench.turn_until(EnrolmentState.PENDING)
    bench.turn_until(EnrolmentState.FRESH)
    second = Says(200, {**BEGUN.body, "provisioningOperationId": "op-2", "verificationCode": "CD-34"})
    bench.server.answer = script(init=second, complete=Says(202, b""))
    bench.turn_until(EnrolmentState.PENDING)
    assert IdentityReader(bench.home.layout).read().enrolment.verification_code == "CD-34"


def test_a_wish_that_is_put_back_needs_nobody_s_approval(bench: Bench) -> None:
    """As the runbook says. An operator had to approve a device that was registered all the time."""
    bench.server.answer = script(init=BEGUN, complete=GRANTED)
    bench.turn_until(EnrolmentState.PROVISIONED)
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    bench.configure(device_id="dev-2")
    bench.restart()
    bench.turn_until(EnrolmentState.PENDING)
    asked = len(bench.calls())
    bench.configure(device_id="dev-1")
    bench.restart()
    bench.clerk.turn()
    assert (bench.state(), len(bench.calls())) == (EnrolmentState.PROVISIONED, asked)
    bench.token_file.write_text("another-token\n")
    bench.clerk.turn()
    assert (bench.state(), len(bench.calls())) == (EnrolmentState.PROVISIONED, asked), (
        "another means to the same end"
    )
    bench.configure(device_id="dev-3")
    bench.restart()
    bench.turn_until(EnrolmentState.PENDING)


def test_a_rejected_wish_waits_for_another_configuration(bench: Bench) -> None:
    bench.server.answer = script(init=Says(400, {"detail": "dev-1 is taken"}))
    bench.turn_until(EnrolmentState.REJECTED)
    bench.restart()
    for _ in range(5):
        bench.clerk.turn()
    assert bench.calls() == ["init"]
    told = read_status(bench.home.layout.status_file("provisioning"))
    assert told is not None and "dev-1 is taken" in told["reason"]
    bench.configure(device_id="dev-2")
    bench.restart()
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    bench.turn_until(EnrolmentState.PENDING)
    assert bench.server.asked[1].body == {"deviceId": "dev-2"}


def test_a_refused_token_waits_and_a_new_one_in_the_file_is_taken_without_a_restart(bench: Bench) -> None:
    def answer(asked: Asked) -> Says:
        return BEGUN if asked.headers["Authorization"].endswith("another-token") else Says(401, {})

    bench.server.answer = answer
    bench.turn_until(EnrolmentState.TOKEN_REFUSED)
    bench.token_file.write_text("another-token")
    bench.turn_until(EnrolmentState.PENDING)


def test_a_token_that_comes_late_is_enough(bench: Bench) -> None:
    bench.token_file.unlink()
    bench.clerk.turn()
    told = read_status(bench.home.layout.status_file("provisioning"))
    assert told is not None and told["state"] == "no provisioning token"
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    bench.token_file.write_text("the-provisioning-token")
    bench.turn_until(EnrolmentState.PENDING)


def _missing(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_text(" \n")


def _two_lines(file: Path) -> None:
    file.write_text("one\ntwo\n")


def _no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "state", "words"),
    [
        (_missing, "no provisioning token", "is not there: put one provisioning token, alone, into it"),
        (_empty, "no provisioning token", "is empty: put one provisioning token"),
        (_two_lines, "provisioning token garbled", "it is not one word of printable ASCII: put one"),
        (_no_text, "provisioning token garbled", "it is not text: put one"),
        (_pipe, "provisioning token unreadable", "is not a regular file: make it readable"),
        (_folder, "provisioning token unreadable", "is not a regular file: make it readable"),
        (None, "provisioning token refused", "HTTP 401: put another token into"),
    ],
)
def test_a_provisioning_token_that_does_not_serve_is_told_with_its_path_and_what_helps(
    spoil: Callable[[Path], None] | None, state: str, words: str, bench: Bench
) -> None:
    """All of them said "approve the device", and there was nothing to approve."""
    if spoil:
        spoil(bench.token_file)
    bench.server.answer = script(init=Says(401, {}))
    bench.clerk.turn()
    bench.clerk.turn()
    told = read_status(bench.home.layout.status_file("provisioning")) or {}
    assert (told["state"], told["verification_code"]) == (state, None)
    assert words in told["reason"] and str(bench.token_file) in told["reason"]
    known = IdentityReader(bench.home.layout).read()
    check = check_unregistered(bench.home.config, known)
    assert check.verdict == "error" and str(bench.token_file) in check.text and "approve" not in check.remedy


def test_a_registration_token_by_hand_that_cannot_be_read_is_told_with_its_path(bench: Bench) -> None:
    bench.token_file.unlink()
    hand = bench.home.folder / "hand"
    hand.write_text("one\ntwo\n")
    bench.home.write_config(
        f'[platform]\ninstance = "{bench.server.instance}"\nregistration_token_file = "{hand}"\n'
    )
    bench.restart()
    bench.clerk.turn()
    told = read_status(bench.home.layout.status_file("provisioning")) or {}
    assert told["reason"].startswith(f"{hand} holds no token: it is not one word of printable ASCII: put a")


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        (Says(423, {}), Outcome.DISABLED),
        (Says(429, {}), Outcome.THROTTLED),
        (Says(503, b"<html>"), Outcome.UNAVAILABLE),
        (Says(200, b"[]"), Outcome.GARBLED),
        (Says(raw=s.hang), Outcome.TIMED_OUT),
        (Says(raw=s.cut_before), Outcome.CUT),
    ],
    ids=lambda one: one.name if isinstance(one, Outcome) else "",
)
def test_weather_is_named_waited_out_and_keeps_the_operation(
    says: Says, outcome: Outcome, bench: Bench
) -> None:
    bench.server.answer = script(init=BEGUN, complete=says)
    bench.turn_until(EnrolmentState.PENDING)
    if outcome is Outcome.TIMED_OUT:
        bench.configure(timeout_s=0.5)
        bench.restart()
    eventually(lambda: (bench.clerk.turn(), IdentityReader(bench.home.layout).read().enrolment.trouble)[1])
    bench.configure()
    bench.restart()
    found = IdentityReader(bench.home.layout).read().enrolment
    assert (found.trouble, found.state, found.operation_id) == (outcome, EnrolmentState.PENDING, "op-1")
    assert found.pause_s > 0
    bench.server.answer = script(complete=GRANTED)
    bench.turn_until(EnrolmentState.PROVISIONED)


def test_retry_after_is_honoured_over_a_restart(bench: Bench) -> None:
    bench.server.answer = script(init=Says(429, {}, {"Retry-After": "60"}))
    bench.clerk.turn()
    bench.restart()
    assert bench.clerk.turn() > 55
    assert bench.calls() == ["init"]


def test_a_stop_in_the_middle_of_a_call_ends_it_at_once(bench: Bench) -> None:
    bench.server.answer = script(init=Says(raw=s.hang))
    bench.stop.ask()
    bench.clerk.turn()
    record = IdentityReader(bench.home.layout).read().enrolment
    assert (record.state, record.trouble) == (EnrolmentState.FRESH, None), (
        "the call's own deadline came first"
    )


def test_a_device_without_a_platform_waits_visibly(home: Home) -> None:
    with closing(Hints(home.layout, "provisioning")) as hints:
        clerk = ProvisioningLoop(home.config, heart(home, "provisioning"), hints)
        assert clerk.turn() > 0
    told = read_status(home.layout.status_file("provisioning"))
    assert told is not None
    assert (told["state"], told["reason"]) == ("no platform configured", "platform.instance is not set")


def test_a_flipped_bit_in_the_file_for_a_display_ends_no_worker(bench: Bench) -> None:
    """It was compared as text: what is no UTF-8 ended provisioning at every start, as long as it waited."""
    bench.server.answer = script(init=BEGUN, complete=Says(202, b""))
    code_file = bench.home.layout.run / "verification-code"
    bench.turn_until(EnrolmentState.PENDING)
    code_file.write_bytes(b"AB-\xff2\n")
    bench.clerk.turn()
    assert code_file.read_text() == "AB-12\n"


def test_a_token_that_comes_back_while_provisioning_decides_costs_no_approval(bench: Bench) -> None:
    """`refresh` had it in force again between two statements: a device that worked began anew."""
    bench.server.answer = script(init=BEGUN, complete=GRANTED)
    bench.turn_until(EnrolmentState.PROVISIONED)
    store, now = IdentityStore(bench.home.layout), read_moment(SystemClock())
    granted = store.read().in_force
    assert granted is not None
    found = Registration("hub.example", "w:d", None, Secret("SharedAccessSignature sr=x&sig=y&se=4102444800"))
    store.save_registered(granted.serial, found, now, 0.5, host=bench.server.instance)
    store.drop_registration(granted.serial, now, whole=True)
    theirs, read = bench.clerk._store, bench.clerk._store.read

    def read_and_be_overtaken() -> IdentityRecord:
        identity = read()
        theirs.read = read  # type: ignore[method-assign]
        assert identity.former is not None
        store.save_registered(identity.former.serial, found, now, 0.5, host=bench.server.instance)
        return identity

    theirs.read = read_and_be_overtaken  # type: ignore[method-assign]
    calls = bench.calls()
    for _ in range(3):
        bench.clerk.turn()
    assert bench.state() is EnrolmentState.PROVISIONED and bench.calls() == calls
