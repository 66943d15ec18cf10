"""Azure DPS by azure-iot-device's own client: every way to prove oneself, and every way to be turned away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.identity import dps
from runtime.adapters.identity.dps import DpsRequest, assign
from runtime.adapters.identity.registrars import registrar
from runtime.adapters.process.process import SUPERVISOR_PID
from runtime.core.identity.connection_string import derived_key
from runtime.core.identity.platform_answer import Outcome
from runtime.core.secret import Secret
from runtime.producer import Producer
from runtime.wiring import registration_route
from tests.support.harness import Cloud, Home, eventually, short_folder
from tests.support.supervised import Runtime


class Service:
    """The stand-in's DPS, as its operator and its devices see it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.path = f"/workspaces/{cloud.facts['workspace']}"

    def enrol(self, name: str, *, group: bool = False, attestation: str = "key") -> str:
        """A new enrolment; its key, or nothing."""
        body = {"name": name, "group": group, "attestation": attestation}
        return str(self.cloud.call("POST", f"{self.path}/dps/enrolments/create", body)["key"] or "")

    def certify(self, device_id: str, folder: Path) -> tuple[Path, Path]:
        made = self.cloud.call("POST", f"{self.path}/devices/certificates/create", {"deviceId": device_id})
        files = folder / f"{device_id}.pem", folder / f"{device_id}.key"
        for path, text in zip(files, (made["certificate"], made["privateKey"]), strict=True):
            path.write_text(text)
        return files

    def question(
        self, who: str, key: str | None = None, files: tuple[Path, Path] | None = None, **more: Any
    ) -> DpsRequest:
        facts = self.cloud.facts
        certificate, key_file = files or (None, None)
        secret, ca_file = Secret(key) if key else None, Path(facts["ca_file"])
        scope = more.get("id_scope", facts["dps_id_scope"])
        return DpsRequest(facts["dps_host"], scope, who, secret, certificate, key_file, ca_file)

    def assigned(self) -> dict[str, int]:
        """Registration ids, and how often each was assigned."""
        found = self.cloud.call("GET", f"{self.path}/dps/enrolments")["assigned"]
        return {row["registrationId"]: row["times"] for row in found}


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield Service(running)
        running.close()


def test_an_enrolled_key_is_assigned_to_the_hub_under_the_registration_id(shared: Service) -> None:
    found = assign(shared.question("single-1", shared.enrol("single-1")))
    hub = shared.cloud.facts["hub_host"]
    assert (found.outcome, found.hub_host, found.device_id) == (Outcome.OK, hub, "demo:single-1")


def test_the_service_is_asked_under_supervisord_too(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child ended itself: its parent, `refresh`, is not the supervisor whose number it inherits."""
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    monkeypatch.setenv(SUPERVISOR_PID, str(os.getppid()))
    found = assign(shared.question("supervised-1", shared.enrol("supervised-1")))
    assert (found.outcome, found.device_id) == (Outcome.OK, "demo:supervised-1")


def test_a_key_derived_from_the_groups_is_what_the_service_expects_and_only_for_its_own_id(
    shared: Service,
) -> None:
    group = Secret(shared.enrol("fleet", group=True))
    mine = derived_key(group, "fleet-7").reveal()
    assert assign(shared.question("fleet-7", mine)).outcome is Outcome.OK
    assert assign(shared.question("fleet-8", mine)).outcome is Outcome.UNAUTHORIZED
    assert assign(shared.question("fleet-7", group.reveal())).outcome is Outcome.UNAUTHORIZED


def test_who_has_an_enrolment_of_its_own_is_not_let_in_by_the_groups_key(shared: Service) -> None:
    group = Secret(shared.enrol("others", group=True))
    shared.enrol("single-2")
    derived = derived_key(group, "single-2").reveal()
    assert assign(shared.question("single-2", derived)).outcome is Outcome.UNAUTHORIZED


def test_a_certificate_is_enough_where_it_names_the_registration_id(shared: Service, folder: Path) -> None:
    shared.enrol("cert-1", attestation="certificate")
    files = shared.certify("cert-1", folder)
    assert assign(shared.question("cert-1", files=files)).outcome is Outcome.OK
    assert assign(shared.question("cert-2", files=files)).outcome is Outcome.UNAUTHORIZED


@pytest.mark.parametrize("wrong", ["key", "scope", "registration id"])
def test_whoever_is_not_enrolled_has_a_name_for_it_and_an_end(wrong: str, shared: Service) -> None:
    key = shared.enrol(f"wrong-{wrong.replace(' ', '-')}")
    asked = {
        "key": shared.question("wrong-key", "d3Jvbmc="),
        "scope": shared.question("wrong-scope", key, id_scope="0neOTHER"),
        "registration id": shared.question("nobody", key),
    }[wrong]
    found = assign(asked)
    assert found.outcome is Outcome.UNAUTHORIZED and key not in found.reason


def test_a_disabled_enrolment_is_told_from_a_wrong_key(shared: Service) -> None:
    key = shared.enrol("off-1")
    shared.cloud.call("PUT", f"{shared.path}/dps/enrolments/off-1", {"enabled": False})
    assert assign(shared.question("off-1", key)).outcome is Outcome.DISABLED


def test_a_service_that_says_nothing_costs_one_deadline_or_a_stop_and_leaves_no_process(
    shared: Service,
) -> None:
    asked = shared.question("silence", shared.enrol("silence"))
    shared.cloud.faults(silent=True)
    try:
        began_s = time.monotonic()
        assert assign(asked, deadline_s=1.5).outcome is Outcome.TIMED_OUT
        assert time.monotonic() - began_s < 8
        assert assign(asked, waiting=lambda: True).outcome is Outcome.ABANDONED
    finally:
        shared.cloud.no_faults()


def test_a_stop_that_ends_the_child_as_well_costs_no_pause_after_the_next_start(shared: Service) -> None:
    """supervisord signals the whole group: it counted as a failure of the service, paused for by minutes."""
    asked, stopped = shared.question("stopped", shared.enrol("stopped")), threading.Event()

    def children() -> list[int]:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]

    before = children()

    def stop() -> None:
        started = eventually(lambda: [pid for pid in children() if pid not in before])
        stopped.set()
        os.kill(started[0], signal.SIGKILL)

    shared.cloud.faults(silent=True)
    try:
        threading.Thread(target=stop, daemon=True).start()
        assert assign(asked, waiting=stopped.is_set).outcome is Outcome.ABANDONED
    finally:
        shared.cloud.no_faults()


def test_the_library_signs_by_the_service_s_clock_where_ours_is_wrong(shared: Service) -> None:
    """Two days behind, every signature is over at birth; here the service's clock is said to be behind."""
    asked = shared.question("clock-1", shared.enrol("clock-1"))
    assert assign(replace(asked, ahead_s=-2 * 86_400.0)).outcome is Outcome.UNAUTHORIZED
    assert assign(replace(asked, ahead_s=2 * 86_400.0)).outcome is Outcome.OK


@pytest.mark.parametrize("hub", ["hub.example", ["hub.example"], "hub example", None])
@pytest.mark.parametrize("device", ["press-7", None, 7, "d" * 60_000])
def test_an_assignment_that_names_no_hub_or_no_device_is_garbled_and_ends_no_worker(
    hub: object, device: object
) -> None:
    """A list as host ended `refresh` at every start; no device id was kept until the next day."""
    told = json.dumps({"outcome": "OK", "hub_host": hub, "device_id": device})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["printf", "%s", told], text=True, **pipes) as child:  # type: ignore[call-overload]
        found = dps._listen(child, DpsRequest("", "", ""), lambda: False, time.monotonic() + 5)
    good = (hub, device) == ("hub.example", "press-7")
    assert found.outcome is (Outcome.OK if good else Outcome.GARBLED)


def configure(home: Home, service: Service, more: str, who: str) -> None:
    facts = service.cloud.facts
    home.write_config(
        f'[device]\nid = "{who}"\n[platform]\nca_file = "{facts["ca_file"]}"\n'
        f'[identity]\nmode = "dps"\ndps_host = "{facts["dps_host"]}"\n'
        f'dps_id_scope = "{facts["dps_id_scope"]}"\n'
        f"{more}[upload]\nhttps_port = {facts['https_port']}\n"
    )


@pytest.mark.parametrize("way", ["own key", "key of a group", "certificate", "certificate of a group"])
def test_a_device_that_dps_assigns_to_a_hub_delivers_there(
    way: str, shared: Service, home: Home, folder: Path
) -> None:
    who = f"e2e-{way.replace(' ', '-')}"
    group, by_certificate = way.endswith("group"), way.startswith("certificate")
    attestation = "certificate" if by_certificate else "key"
    key = shared.enrol("e2e-fleet-" + attestation if group else who, group=group, attestation=attestation)
    if by_certificate:
        files = shared.certify(who, folder)
        configure(home, shared, f'certificate_file = "{files[0]}"\nkey_file = "{files[1]}"\n', who)
    else:
        (home.folder / "dps.key").write_text(key)
        configure(home, shared, f'dps_key_file = "dps.key"\ndps_group = {str(group).lower()}\n', who)
    assert registrar(registration_route(home.config.settings)).missing() is None
    with closing(Runtime(home)):  # under supervisord, as on a device
        _deliver_one(way, who, shared, home)
    assert shared.assigned()[who] == 1


def _deliver_one(way: str, who: str, shared: Service, home: Home) -> None:
    with Producer(f"ipc://{home.layout.producer_socket}") as producer:
        producer.put(way)
    arrived = [(f"demo:{who}", way.encode())]
    eventually(lambda: [(m.device_id, m.payload) for m in shared.cloud.messages()][-1:] == arrived, 40)
