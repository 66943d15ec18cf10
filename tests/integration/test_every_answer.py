"""Every answer to every call, over a real wire, and what the device does next: the table says it.

Each cell is one real call by a real worker. What is read afterwards is the status file of a worker that was
started anew on the same disk: what follows does not depend on anybody's memory.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity import token_files
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.identity.platform_api import CANCELLED as CANCELLED_TYPE
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import Enrolment, EnrolmentState, Wish
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome, PlatformResult, Registration
from runtime.core.identity.renewal import RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.wiring import provisioning_token
from runtime.workers.provisioning import ProvisioningLoop
from runtime.workers.refresh import RefreshLoop
from tests.support import scripted as s
from tests.support.harness import Home, heart, short_folder
from tests.support.scripted import Says, Scripted, scripted

# The columns: the calls, in the order of escalation. "refused" is a refresh once registering was refused,
# "parent" the refresh with the parent token that follows where a child turned out to be dead.
TABLE = """
answer                 init       complete     register    refresh     refused     parent
200                    approve    provisioned  registered  prove       prove       prove
201                    approve    provisioned  registered  prove       prove       prove
202                    again      poll         again       again       again       again
400                    rejected   again        again       again       provision   provision
401                    new-token  new-token    renew       again       again       again
403                    new-token  new-token    again       again       provision   provision
404                    again      again        again       again       again       again
410                    again      begin        renew       doubt       provision   provision
410-cancelled          again      cancelled    renew       doubt       provision   provision
412                    again      again        again       again       provision   provision
400-page               again      again        again       again       again       again
401-page               new-token  new-token    again       again       again       again
403-page               again      again        again       again       again       again
403-json               again      again        again       again       again       again
410-page               again      again        again       again       again       again
423                    again      again        again       again       again       again
429                    again      again        again       again       again       again
429-retry-after        later      later        later       later       later       later
500                    again      again        again       again       again       again
503                    again      again        again       again       again       again
503-retry-after        later      later        later       later       later       later
hang                   again      again        again       again       again       again
trickle-headers        again      again        again       again       again       again
trickle-body           again      again        again       again       again       again
cut-before             again      again        again       again       again       again
cut-within             again      again        again       again       again       again
not-http               again      again        again       again       again       again
garbage                again      again        again       again       again       again
wrong-json             again      again        again       again       again       again
endless                again      again        again       again       again       again
tls-stranger           again      again        again       again       again       again
no-authority           again      again        again       again       again       again
name-unknown           again      again        again       again       again       again
unreachable            again      again        again       again       again       again
proxy-away             again      again        again       again       again       again
"""

ALL_GOOD = {
    "provisioningOperationId": "op",
    "verificationCode": "AB-12",
    "registrationToken": "another",
    "expirationTime": None,
    "connectionString": "HostName=h;DeviceId=w:d;SharedAccessSignature=SharedAccessSignature sr=h&sig=x",
    "connectionStringExpiration": "2999-01-01T00:00:00Z",
}
PAGE = b"<html><title>Blocked by your organisation</title>"
ASKED_S = 40
LATER = {"Retry-After": str(ASKED_S)}

ANSWERS: dict[str, tuple[Outcome, Says]] = {
    "200": (Outcome.OK, Says(200, ALL_GOOD)),
    "201": (Outcome.CREATED, Says(201, ALL_GOOD)),
    "202": (Outcome.NOT_YET, Says(202, {})),
    "400": (Outcome.BAD_REQUEST, Says(400, {})),
    "401": (Outcome.UNAUTHORIZED, Says(401, {})),
    "403": (Outcome.FORBIDDEN, Says(403, {})),
    "404": (Outcome.UNEXPECTED, Says(404, {})),
    "410": (Outcome.GONE, Says(410, {"type": "/problems/expired"})),
    "410-cancelled": (Outcome.CANCELLED, Says(410, {"type": CANCELLED_TYPE})),
    "412": (Outcome.PRECONDITION, Says(412, {})),
    "400-page": (Outcome.BAD_REQUEST, Says(400, PAGE)),
    "401-page": (Outcome.UNAUTHORIZED, Says(401, PAGE)),
    "403-page": (Outcome.FORBIDDEN, Says(403, PAGE)),
    "403-json": (Outcome.FORBIDDEN, Says(403, {"type": "x"}, {"Content-Type": "application/json"})),
    "410-page": (Outcome.GONE, Says(410, PAGE)),
    "423": (Outcome.DISABLED, Says(423, {})),
    "429": (Outcome.THROTTLED, Says(429, {})),
    "429-retry-after": (Outcome.THROTTLED, Says(429, {}, LATER)),
    "500": (Outcome.UNAVAILABLE, Says(500, b"<html>")),
    "503": (Outcome.UNAVAILABLE, Says(503, {})),
    "503-retry-after": (Outcome.UNAVAILABLE, Says(503, {}, LATER)),
    "hang": (Outcome.TIMED_OUT, Says(raw=s.hang)),
    "trickle-headers": (Outcome.TIMED_OUT, Says(raw=s.trickle_headers)),
    "trickle-body": (Outcome.TIMED_OUT, Says(raw=s.trickle_body)),
    "cut-before": (Outcome.CUT, Says(raw=s.cut_before)),
    "cut-within": (Outcome.CUT, Says(raw=s.cut_within)),
    "not-http": (Outcome.CUT, Says(raw=s.not_http)),
    "garbage": (Outcome.GARBLED, Says(200, b"\xff<html>")),
    "wrong-json": (Outcome.GARBLED, Says(200, {"token": 7})),
    "endless": (Outcome.GARBLED, Says(raw=s.endless)),
    "tls-stranger": (Outcome.TLS_FAILED, Says()),
    "no-authority": (Outcome.NO_CERTIFICATE, Says()),
    "name-unknown": (Outcome.NAME_UNKNOWN, Says()),
    "unreachable": (Outcome.UNREACHABLE, Says()),
    "proxy-away": (Outcome.PROXY, Says()),
}
PROVISIONING, REFRESH = "provisioning", "refresh"
CALLS = {  # column -> (worker, the call, the state while it is under way)
    "init": (PROVISIONING, "init", "not begun"),
    "complete": (PROVISIONING, "complete", "waiting for approval"),
    "register": (REFRESH, "register", "registering"),
    "refresh": (REFRESH, "refresh", "registered"),
    "refused": (REFRESH, "refresh", "registration token refused"),
    "parent": (REFRESH, "refresh with the parent token", "registration token refused"),
}
MOST_S = 30.0
"""Longest pause after a first failure, in all that is set up here."""


@dataclass(frozen=True)
class Next:
    """What a person is shown after the answer: the state, the next call, and the seconds until it."""

    state: str
    call: str | None = None
    in_s: tuple[float, float] = (0, 0)
    trouble: bool | None = True
    """Whether the answer is named as a trouble; None: that the token was refused is."""


def expected(word: str, column: str) -> Next:
    """The meaning of each word of the table."""
    _, call, state = CALLS[column]
    return {
        # the same call after a pause
        "again": Next(state, call, (1, MOST_S)),
        "later": Next(state, call, (ASKED_S - 1, ASKED_S + MOST_S)),
        # on the way to a Registration Token
        "approve": Next("waiting for approval", "complete", (4, 5), trouble=False),
        "poll": Next("waiting for approval", "complete", (4, 5), trouble=False),
        "provisioned": Next("provisioned", trouble=False),
        "begin": Next("not begun", "init", (2.5, MOST_S)),  # half of poll_s and more, by chance
        "cancelled": Next("cancelled by the operator", "init", (3599, 5400)),
        "rejected": Next("rejected by the platform", "init", (60, 120)),
        "new-token": Next("provisioning token refused", call, (59, 60)),
        # with one
        "registered": Next("registered", "refresh", (60, 3600), trouble=False),
        "prove": Next("registered", "register", trouble=False),
        "renew": Next("registration token refused", "refresh"),
        "doubt": Next("registered", "register"),  # whether the token lives
        # what was refused rests, and is tried again now and then
        "provision": Next(
            "waiting for provisioning", "register with the token that was refused", (299, 300), trouble=None
        ),
    }[word]


def rows() -> dict[str, dict[str, str]]:
    """answer -> column -> word"""
    head, *lines = [line.split() for line in TABLE.strip().splitlines()]
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


@dataclass
class World:
    """A server that gives one answer, one that nobody here trusts, and a port where nobody listens."""

    server: Scripted
    stranger: Scripted
    closed: str
    answer: str = ""

    def platform(self, folder: Path) -> str:
        """[platform] of the configuration that runs into the answer."""
        where, authority, more = self.server.instance, self.server.ca_file, ""
        match self.answer:
            case "tls-stranger":
                where = self.stranger.instance
            case "no-authority":
                authority = folder / "gone.pem"
            case "name-unknown":
                where = "no-such-host.invalid"
            case "unreachable":
                where = self.closed
            case "proxy-away":
                more = f'proxy = "http://{self.closed}"\n'
        return f'instance = "{where}"\nca_file = "{authority}"\ntimeout_s = {self.timeout_s}\n{more}'

    @property
    def timeout_s(self) -> float:
        """Short where it is the answer."""
        return 0.3 if self.answer in ("hang", "trickle-headers", "trickle-body") else 15.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with short_folder() as folder, socket.socket() as deaf:
        (folder / "other").mkdir()
        deaf.bind(("127.0.0.1", 0))  # and kept, so that nobody else listens there
        port = deaf.getsockname()[1]
        with scripted(folder) as server, scripted(folder / "other") as stranger:
            yield World(server, stranger, f"127.0.0.1:{port}")


class Device:
    """A home on the eve of one call."""

    def __init__(self, folder: Path, world: World, column: str) -> None:
        self.worker, _, _ = CALLS[column]
        token = folder / "token"
        token.write_text("the-provisioning-token")
        token.chmod(0o600)
        home = Home(folder, f'[platform]\n{world.platform(folder)}provisioning_token_file = "{token}"\n')
        self.home, self.config = home, home.config
        self.store, self._then = IdentityStore(home.layout), _ago(60)
        getattr(self, f"_{column}", lambda: None)()

    def _complete(self) -> None:
        settings = self.config.settings
        mark = token_files.fingerprint(token_files.token_at(provisioning_token(settings)))
        basis = Wish(str(settings.platform.instance), mark, None).basis()
        self.store.save_enrolment(Enrolment(EnrolmentState.PENDING, basis, "op", "AB-12"))

    def _register(self, age_s: float = 60) -> None:
        done = Enrolment(EnrolmentState.PROVISIONED, "basis", at=self._then)
        self.store.save_provisioned(done, PlatformResult(Secret("first"), 3600.0), _ago(age_s), 0.5)

    def _refresh(self, age_s: float = 3500) -> None:
        self._register(age_s)
        self.store.save_registered(1, Registration("hub", "w:d", 1e6, Secret("sas")), self._then, 0.5)

    def _refused(self) -> None:
        self._refresh(60)
        self.store.save_failed(1, Task.REGISTER, RetryPace(), refused=True)

    def _parent(self) -> None:
        self._refused()
        self.store.save_refreshed(1, PlatformResult(Secret("child"), 3600.0), self._then, 0.5)
        self.store.drop_registration(2)

    def turn(self) -> dict[str, object]:
        """One turn of a worker that just started; what it showed before it asked."""
        beating = heart(self.home, self.worker)
        with closing(Hints(self.home.layout, self.worker)) as hints:
            if self.worker == PROVISIONING:
                ProvisioningLoop(self.config, beating, hints).turn()
            else:
                RefreshLoop(self.config, beating, hints).turn(False)
        return read_status(self.home.layout.status_file(self.worker)) or {}


def _ago(seconds: float) -> Moment:
    clock = SystemClock()
    return Moment(clock.wall_s() - seconds, clock.boot_s() - seconds, clock.boot_id())


def what_follows(world: World, column: str) -> tuple[dict[str, object], dict[str, object], float]:
    """What the worker showed before the call and after its answer, and how long that look took."""
    with short_folder() as folder:
        device = Device(folder, world, column)
        before, began_s = device.turn(), time.monotonic()
        return before, device.turn(), time.monotonic() - began_s


def test_the_table_has_every_answer_that_has_a_name() -> None:
    named = {outcome for outcome, _ in ANSWERS.values()}
    elsewhere = {Outcome.ABANDONED, Outcome.WRONG_TIME}  # no answers: a stop of ours, a clock of ours
    assert named == set(Outcome) - elsewhere
    assert list(rows()) == list(ANSWERS)


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_every_answer_leads_to(answer: str, world: World) -> None:
    outcome, says = ANSWERS[answer]
    world.answer, world.server.answer = answer, lambda asked: says
    with ThreadPoolExecutor(len(CALLS)) as pool:
        looks = {column: pool.submit(what_follows, world, column) for column in CALLS}
    for column, word in rows()[answer].items():
        before, after, took_s = looks[column].result()
        _, call, state = CALLS[column]
        assert (before["state"], before["next"], before["next_in_s"]) == (state, call, 0), column
        wanted = expected(word, column)
        trouble = "refused" if wanted.trouble is None else outcome.value if wanted.trouble else None
        assert (after["state"], after["next"], after["trouble"]) == (wanted.state, wanted.call, trouble), (
            column
        )
        if wanted.call is not None:
            low_s, high_s = wanted.in_s
            run_down_s = took_s + 0.1  # of the pause, by the time that it is shown; tenths are rounded
            assert low_s - run_down_s <= float(str(after["next_in_s"])) <= high_s, (column, after)
