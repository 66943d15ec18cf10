"""A piece of work gives back what it takes: descriptors, threads and memory stay flat, however often.

The soak is a few seconds long here; `SOAK_FILES=1000` makes it as long as one wants.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.hub.file_upload import FileOptions, Uploaded, UploadFailed
from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubRefusedCall, Inquiry
from runtime.adapters.hub.mqtt_client import HubConnection, HubOptions
from runtime.adapters.identity import dps
from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.net import https
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.adapters.process.process import memory_bytes
from runtime.core.delivery.envelope import FileParcel, Telemetry
from runtime.core.delivery.events import Closed, Lost
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from runtime.workers.refresh import RefreshLoop
from tests.integration.test_file_upload import Lane
from tests.support.harness import Cloud, Home, eventually, heart
from tests.support.scripted import Asked, Says, Scripted, cut_within, scripted
from tests.support.upload import Line as Hubs
from tests.support.upload import register

SAS = "SharedAccessSignature sr=127.0.0.7%2Fdevices%2Fw%3Ad&sig=x&se=4102444800"
TIMES = int(os.environ.get("SOAK_FILES", "60"))
SPARE_DESCRIPTORS = 5
"""What may be open at one look and not at another: the last connection, a wake-up."""
SPARE_BYTES_EACH = 8_192
"""Of growth in memory for each piece of work; a TLS connection that is kept takes 56 kB."""


@dataclass(frozen=True)
class Taken:
    """What this process holds."""

    descriptors: int
    threads: int
    bytes: int

    @classmethod
    def now(cls) -> Taken:
        return cls(
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
            memory_bytes(os.getpid()) or 0,
        )


def flat(work: Callable[[int], object], times: int = TIMES) -> None:
    """Do it a few times to warm up, then `times` times: nothing may be held for it in the end.

    There is no `gc.collect()`: a worker waits for none either.
    """
    for number in range(5):
        work(-1 - number)
    before = Taken.now()
    for number in range(times):
        work(number)
    eventually(lambda: Taken.now().threads <= before.threads + 1, 10, "the threads end")
    after = Taken.now()
    assert after.descriptors <= before.descriptors + SPARE_DESCRIPTORS, (before, after)
    grown = after.bytes - before.bytes
    assert grown < 4_000_000 + SPARE_BYTES_EACH * times, (before, after)


@pytest.fixture
def server(folder: Path) -> Iterator[Scripted]:
    """A hub and a storage that take everything."""
    with scripted(folder) as server:
        address = {"hostName": server.instance, "containerName": "files", "sasToken": "?sig=x"}

        def answer(asked: Asked) -> Says:
            if asked.method == "PUT":
                return Says(201)
            if asked.path.partition("?")[0].endswith("/files"):
                return Says(body={"correlationId": "c", "blobName": asked.body["blobName"], **address})
            return Says(403 if "refused" in asked.path else 204)

        server.answer = answer
        yield server


@pytest.fixture
def way(server: Scripted) -> HttpsRoute:
    return HttpsRoute(server.ca_file, int(server.instance.partition(":")[2]))


@pytest.fixture
def lane(folder: Path, way: HttpsRoute) -> Lane:
    return Lane(FileOptions(folder / "uploads", folder / "spool", way))


CREDENTIALS = HubCredentials("127.0.0.1", "dev-1", 1, sas=Secret("sas"))


def parcel(name: str) -> FileParcel:
    return FileParcel(name, b"3 kB" * 768, None, Telemetry("m", b""))


def test_a_file_upload_gives_its_connections_back(lane: Lane) -> None:
    """Each kept a TLS connection for ever: after 993 files no descriptor was left, for telemetry either."""
    credentials = CREDENTIALS

    def upload(number: int) -> None:
        assert isinstance(lane.upload(parcel(f"clip{number}"), credentials, number), Uploaded)
        lane.seen.clear()
        lane.files.forget(number, credentials)

    flat(upload)


def test_a_file_that_fails_gives_its_connections_back(server: Scripted, lane: Lane) -> None:
    take = server.answer
    server.answer = lambda asked: Says(503) if asked.method == "PUT" else take(asked)

    def upload(number: int) -> None:
        assert isinstance(lane.upload(parcel("clip"), CREDENTIALS, 1), UploadFailed)
        lane.seen.clear()

    flat(upload, TIMES // 2)


def test_a_file_that_is_given_up_gives_its_connection_back(server: Scripted, lane: Lane) -> None:
    """The hub hears that it failed, from a thread of its own."""
    take = server.answer
    server.answer = lambda asked: Says(503) if asked.method == "PUT" else take(asked)

    def give_up(number: int) -> None:
        assert isinstance(lane.upload(parcel("clip"), CREDENTIALS, 1), UploadFailed)
        asked = len(server.asked)
        lane.files.forget(1, CREDENTIALS)
        eventually(lambda: len(server.asked) > asked)
        lane.seen.clear()

    flat(give_up, TIMES // 2)


def test_a_control_to_a_refusal_gives_its_connection_back(server: Scripted, lane: Lane) -> None:
    """`accepts_control_upload`: the hub refuses a name, and another one is asked for."""
    take = server.answer

    def answer(asked: Asked) -> Says:
        named = isinstance(asked.body, dict) and asked.body.get("blobName") == "clip"
        return Says(400) if named else take(asked)

    server.answer = answer

    def upload(number: int) -> None:
        failed = lane.upload(parcel("clip"), CREDENTIALS, number)
        assert isinstance(failed, UploadFailed) and failed.final, failed
        lane.seen.clear()

    flat(upload, TIMES // 2)


@pytest.mark.parametrize("status", [204, 403])
def test_an_inquiry_gives_its_connection_back(server: Scripted, way: HttpsRoute, status: int) -> None:
    server.answer = lambda asked: Says(status)
    inquiry = Inquiry(way)

    def ask(number: int) -> None:
        inquiry.start(CREDENTIALS, f"probe:{number}")
        eventually(lambda: inquiry.result())

    flat(ask, TIMES // 2)


def test_what_is_dropped_without_being_closed_is_given_back_by_itself(way: HttpsRoute) -> None:
    """urllib3's finalizer held what a class closed over, and that held the pool: no collection freed it."""

    def post(number: int) -> None:
        with pytest.raises(HubRefusedCall):
            HubHttps(way, CREDENTIALS).post("/refused", "nothing")

    flat(post)


@pytest.mark.parametrize("ends", ["answered", "refused", "cut", "abandoned", "overdue"])
def test_a_call_to_the_platform_gives_its_connection_back(server: Scripted, ends: str) -> None:
    """Refreshing, registering and polling for approval: each is one of these."""
    server.answer = {
        "answered": lambda asked: Says(200, {}),
        "refused": lambda asked: Says(401, {}),
        "cut": lambda asked: Says(raw=cut_within),
        "abandoned": lambda asked: Says(raw=lambda _, closing: closing.wait(0.1) and None),
        "overdue": lambda asked: Says(raw=lambda _, closing: closing.wait(0.1) and None),
    }[ends]
    url, trust = f"https://{server.instance}/devices/register", TrustedAuthorities(server.ca_file)
    timeout_s = 0.05 if ends == "overdue" else 10.0

    def call(number: int) -> None:
        https.request("PUT", url, b"{}", None, trust, timeout_s, lambda: ends == "abandoned")

    flat(call, TIMES // 4 if ends == "abandoned" else TIMES // 2)


def test_a_client_of_the_hub_that_was_discarded_gives_everything_back(cloud: Cloud) -> None:
    """Its descriptors and its TLS were freed by a full collection only, which comes when it likes."""
    line, credentials = Hubs(cloud), register(cloud)

    def live(number: int) -> None:
        line.discard(line.connect(credentials))
        line.seen.clear()

    flat(live, TIMES // 4)


def test_a_client_of_the_hub_that_never_connected_gives_everything_back(folder: Path) -> None:
    """Nothing listens there: that is every attempt of an outage."""
    trustme.CA().cert_pem.write_to_path(str(folder / "ca.pem"))
    hub = HubConnection(HubOptions(folder / "ca.pem"))
    nowhere = HubCredentials("127.0.0.7", "w:d", 1, sas=Secret(SAS))
    seen: list[object] = []

    def attempt(number: int) -> None:
        seen.clear()
        mine = hub.open(nowhere)
        eventually(lambda: seen.extend(hub.drain()) or any(isinstance(event, Lost) for event in seen))
        hub.discard()
        eventually(lambda: seen.extend(hub.drain()) or Closed(mine) in seen)

    flat(attempt, TIMES // 4)


def test_a_question_to_the_provisioning_service_leaves_no_process_and_no_pipe(folder: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(folder / "ca.pem"))
    nobody = dps.DpsRequest("127.0.0.7", "scope", "who", Secret("a2V5"), ca_file=folder / "ca.pem")
    flat(lambda _: dps.assign(nobody, waiting=lambda: True), TIMES // 12)


def test_a_worker_that_opens_its_identity_anew_gives_the_old_one_back(home: Home) -> None:
    """After every trouble, and at every change of the configuration."""
    home.write_config('[platform]\ninstance = "127.0.0.7"\n')
    pulse = heart(home, "refresh")
    hints = Hints(home.layout, "refresh")

    def begin(number: int) -> None:
        keeper = RefreshLoop(home.config, pulse, hints)
        keeper.turn(False)
        IdentityReader(home.layout).read()

    flat(begin)
    hints.close()
