"""`edgectl doctor` goes the way that the runtime goes, believes whom it believes, and says what helps."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
import trustme
from cryptography import x509

from runtime.adapters.net.probe import NetworkProbe
from runtime.adapters.process.status_file import StatusFile
from runtime.devcloud.addresses import HUB_PORT
from runtime.operations.doctor import examine
from runtime.wiring import hub_route, registration_route
from tests.support.harness import Cloud, Home
from tests.support.proxy import FAR_NAME as NAME
from tests.support.proxy import KINDS, PASSWORD, USER, WRITTEN, proxy_to
from tests.support.upload import put_in_force, register


def doctor(home: Home) -> dict[str, dict[str, Any]]:
    answer = home.edgectl("doctor", "--json", timeout_s=60)
    assert PASSWORD not in answer.stdout and "p%3A4" not in answer.stdout
    return {check["name"]: check for check in json.loads(answer.stdout)}


def registered(home: Home, cloud: Cloud, **tables: str) -> None:
    home.write_config(cloud.config_toml(**tables))
    put_in_force(home.layout, register(cloud))


@pytest.mark.parametrize("kind", KINDS)
def test_doctor_goes_through_the_proxy_and_nowhere_beside_it(home: Home, far_cloud: Cloud, kind: str) -> None:
    proxy = proxy_to(far_cloud, kind, user=USER, password=PASSWORD)
    registered(home, far_cloud, platform=f'proxy = "{proxy.url(WRITTEN)}"')
    checks = doctor(home)
    port = far_cloud.facts["https_port"]
    assert {name: checks[name]["verdict"] for name in checks if NAME in name} == {
        f"platform {NAME}:{port}": "ok",
        f"hub {NAME}:{HUB_PORT}": "ok",
        f"files {NAME}:{port}": "ok",
    }
    assert checks["clock"]["verdict"] == checks["proxy"]["verdict"] == "ok"
    assert set(proxy.targets) == {f"{NAME}:{HUB_PORT}", f"{NAME}:{port}"}
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_doctor_names_a_proxy_that_refuses_the_password(home: Home, far_cloud: Cloud, kind: str) -> None:
    proxy = proxy_to(far_cloud, kind, user=USER, password="another")
    registered(home, far_cloud, upload=f'proxy = "{proxy.url(WRITTEN)}"')
    found = doctor(home)[f"hub {NAME}:{HUB_PORT}"]
    assert found["verdict"] == "error"
    assert found["text"].startswith(f"no way through the {kind} proxy 127.0.0.1:{proxy.port}: ")
    assert found["remedy"].startswith("check upload.proxy, user and password")
    proxy.close()


def test_doctor_suggests_websockets_where_only_8883_is_blocked(home: Home, cloud: Cloud) -> None:
    registered(home, cloud)
    cloud.hub(up=False)
    checks = doctor(home)
    assert "upload.websockets = true" in checks[f"hub {cloud.facts['hub_host']}:{HUB_PORT}"]["remedy"]
    assert checks[f"files {cloud.facts['hub_host']}:{cloud.facts['https_port']}"]["verdict"] == "ok"


def test_doctor_names_an_authority_that_is_not_trusted_and_believes_no_clock_of_its_kind(
    home: Home, cloud: Cloud
) -> None:
    registered(home, cloud)
    other = home.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    toml = (home.folder / "edge.toml").read_text().replace(cloud.facts["ca_file"], str(other))
    home.write_config(toml)
    checks = doctor(home)
    found = checks[f"platform {cloud.facts['instance']}"]
    assert (found["verdict"], found["text"][:20]) == ("error", "certificate refused:")
    assert "ca_file" in found["remedy"]
    assert checks["clock"]["text"] == "no server that we trust said what time it is"


@pytest.mark.parametrize(
    ("first_day", "last_day", "words"),
    [
        ("2090-01-01", "2091-01-01", "our clock is behind"),
        ("2001-01-01", "2002-01-01", "or our clock is ahead"),
    ],
)
def test_a_clock_so_wrong_that_no_certificate_counts_is_named(
    home: Home, cloud: Cloud, first_day: str, last_day: str, words: str
) -> None:
    """The certificate is of another time instead of the clock: to OpenSSL that is the same."""
    first, last = (datetime.datetime.fromisoformat(day) for day in (first_day, last_day))
    ca = trustme.CA.from_pem((cloud.folder / "ca.pem").read_bytes(), (cloud.folder / "ca.key").read_bytes())
    server = cloud.folder / "server.pem"
    theirs = x509.load_pem_x509_certificate(server.read_bytes()).extensions
    names = [str(name.value) for name in theirs.get_extension_for_class(x509.SubjectAlternativeName).value]
    ours = ca.issue_cert(*names, not_before=first, not_after=last)
    cloud.close()
    ours.private_key_and_cert_chain_pem.write_to_path(str(server))
    cloud.start()
    home.write_config(cloud.config_toml())
    settings = home.config.settings
    probe = NetworkProbe(registration_route(settings), hub_route(settings))
    checks = {check.name: check for check in probe.platform()}
    found = checks[f"platform {cloud.facts['instance']}"]
    assert found.verdict == "error"
    assert words in found.text and "timedatectl" in found.remedy


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("45 connections in a row ended within seconds: does another device use this id?", "device.id"),
        ("large packets do not get through; sending segments of 1200 bytes", "mtu"),
    ],
)
def test_doctor_repeats_what_upload_says_of_a_connection_and_what_helps(
    home: Home, cloud: Cloud, trouble: str, remedy: str
) -> None:
    registered(home, cloud)
    StatusFile(home.layout.status_file("upload"), "upload").progress({"trouble": trouble})
    (found,) = (check for check in examine(home.config) if check.name == "connection")
    assert (found.verdict, found.text) == ("warning", trouble)
    assert remedy in found.remedy


def test_a_hub_without_https_is_no_error_while_messages_flow(home: Home, cloud: Cloud) -> None:
    """A plain MQTT broker: file uploads alone need the other port."""
    registered(home, cloud, upload="")
    toml = (home.folder / "edge.toml").read_text()
    home.write_config(toml.replace(f"https_port = {cloud.facts['https_port']}", "https_port = 1"))
    checks = doctor(home)
    host = cloud.facts["hub_host"]
    assert checks[f"hub {host}:{HUB_PORT}"]["verdict"] == "ok"
    assert checks[f"files {host}:1"]["verdict"] == "warning"
    assert checks[f"files {host}:1"]["remedy"].startswith("messages flow without it; for file uploads: ")
