"""Azure DPS through azure-iot-device's own client, against a strict stand-in that speaks its MQTT."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.dps import Question, assign
from runtime.adapters.identity import IdentityReader
from runtime.core.answer import Outcome
from runtime.core.connection_string import derived_key
from runtime.core.secret import Secret
from runtime.producer import Producer
from tests.harness import Cloud, Home, eventually
from tests.integration.dps_stand_in import ID_SCOPE, Dps, dps_service

GROUP_KEY = base64.b64encode(b"the key of a whole enrolment group").decode()


@pytest.fixture
def service(folder: Path) -> Iterator[Dps]:
    with dps_service(folder) as running:
        yield running


def question(service: Dps, key: str | None, registration_id: str = "dev-1") -> Question:
    return Question(
        service.host, ID_SCOPE, registration_id, Secret(key) if key else None, ca_file=service.ca_file
    )


def test_a_key_derived_from_the_groups_is_what_the_service_expects(service: Dps) -> None:
    expected = base64.b64encode(
        hmac.new(base64.b64decode(GROUP_KEY), b"dev-1", hashlib.sha256).digest()
    ).decode()
    service.keys["dev-1"] = expected
    assert derived_key(Secret(GROUP_KEY), "dev-1") == Secret(expected)
    service.assigns = ("hub.example", "dev-1")
    found = assign(question(service, expected))
    assert (found.outcome, found.hub_host, found.device_id) == (Outcome.OK, "hub.example", "dev-1")


def test_a_certificate_is_enough(service: Dps, folder: Path) -> None:
    made = service.authority.issue_cert("dev-1.invalid", common_name="dev-1")
    made.cert_chain_pems[0].write_to_path(str(folder / "c.pem"))
    made.private_key_pem.write_to_path(str(folder / "c.key"))
    asked = Question(
        service.host, ID_SCOPE, "dev-1", None, folder / "c.pem", folder / "c.key", service.ca_file
    )
    assert assign(asked).outcome is Outcome.OK


def test_a_wrong_key_has_a_name_and_ends(service: Dps) -> None:
    service.keys["dev-1"] = GROUP_KEY
    wrong = base64.b64encode(b"wrong").decode()
    found = assign(question(service, wrong))
    assert found.outcome is Outcome.UNAUTHORIZED and wrong not in found.reason


def test_a_service_that_says_nothing_costs_one_deadline_and_leaves_no_process(service: Dps) -> None:
    service.silent = True
    service.keys["dev-1"] = GROUP_KEY
    began_s = time.monotonic()
    assert assign(question(service, GROUP_KEY), deadline_s=1.5).outcome is Outcome.TIMED_OUT
    assert time.monotonic() - began_s < 8


def test_a_stop_ends_the_question_at_once(service: Dps) -> None:
    service.silent = True
    assert assign(question(service, GROUP_KEY), waiting=lambda: True).outcome is Outcome.ABANDONED


def test_a_device_that_dps_assigns_to_a_hub_delivers_there(service: Dps, cloud: Cloud, home: Home) -> None:
    workspace = cloud.facts["workspace"]
    cloud.call("POST", f"/workspaces/{workspace}/devices/certificates/create", {"deviceId": "dps-1"})
    with closing(sqlite3.connect(f"file:{cloud.folder / 'devcloud.db'}?mode=ro", uri=True)) as db:
        key = str(db.execute("SELECT key FROM devices WHERE id = 'dps-1'").fetchone()[0])
    service.keys["dps-1"] = key
    service.assigns = (cloud.facts["hub_host"], f"{workspace}:dps-1")
    authorities = home.folder / "authorities.pem"
    authorities.write_text(service.ca_file.read_text() + Path(cloud.facts["ca_file"]).read_text())
    key_file = home.folder / "dps.key"
    key_file.write_text(key)
    home.write_config(
        f'[device]\nid = "dps-1"\n[platform]\nca_file = "{authorities}"\n'
        f'[identity]\nmode = "dps"\ndps_host = "{service.host}"\ndps_id_scope = "{ID_SCOPE}"\n'
        f'dps_key_file = "{key_file}"\n[upload]\nhttps_port = {cloud.facts["https_port"]}\n'
    )
    for worker in ("ingest", "upload", "refresh"):
        home.start_worker(worker)
    eventually(IdentityReader(home.layout).hub_credentials, 30)
    with Producer(f"ipc://{home.layout.producer_socket}") as producer:
        producer.put("hello")
    eventually(lambda: [m.payload for m in cloud.messages()] == [b"hello"], 30)
    assert service.registered == ["dps-1"]
