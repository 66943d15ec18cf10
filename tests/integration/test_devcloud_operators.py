"""The stand-in's page, its devices, and its process: killed, started anew, on another address."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
import urllib.parse
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError

from runtime.devcloud.tls import server_context
from tests.support import fork_server
from tests.support.devcloud_client import Client, problem
from tests.support.harness import Cloud, clean_environment

# -- the page ----------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere_and_holds_no_secret(client: Client) -> None:
    page = client.send("GET", "/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']https?:""", page.text)
    assert client.facts["operator_token"] not in page.text


def test_a_one_time_link_opens_the_page_once(client: Client) -> None:
    url = client.operator("POST", "/admin/page-link").json()["url"]
    assert url.startswith(client.facts["admin_url"])
    token = {"token": urllib.parse.urlparse(url).query.removeprefix("token=")}
    first = client.send("POST", "/page/session", json=token)
    assert first.json() == {"operatorToken": client.facts["operator_token"]}
    assert problem(client.send("POST", "/page/session", json=token))[0] == 401


def test_the_page_lists_who_waits_and_who_is_registered(client: Client) -> None:
    waiting = client.init("dev-waiting-for-page")
    client.provisioned("dev-on-page")
    feed = client.operator("GET", "/page/feed").json()
    assert waiting["verificationCode"] in {w["verificationCode"] for w in feed["waiting"]}
    assert "dev-on-page" in {d["deviceId"] for d in feed["devices"]}


def test_the_page_lists_dps_enrolments_and_who_came_by_them_without_a_key(client: Client) -> None:
    create = f"{client.workspace}/dps/enrolments/create"
    assert problem(client.operator("POST", create, {"name": "<b>bold</b>"}))[0] == 400, "a name is no markup"
    made = client.operator("POST", create, {"name": "dps-on-page"})
    answer = client.operator("GET", "/page/feed")
    dps = answer.json()["dps"]
    assert dps["idScope"] and "dps-on-page" in {one["name"] for one in dps["enrolments"]}
    assert made.json()["key"] not in answer.text


# -- devices -----------------------------------------------------------------------------------------


def test_a_deleted_device_is_gone_with_its_tokens(client: Client) -> None:
    token = client.provisioned("dev-deleted")
    assert client.operator("DELETE", f"{client.workspace}/devices/dev-deleted/delete").status_code == 204
    assert problem(client.register(token))[0] == 401
    assert problem(client.refresh(token))[0] == 410


def test_a_new_device_of_a_deleted_name_inherits_nothing(client: Client) -> None:
    client.provisioned("dev-reborn")
    path = f"{client.workspace}/devices/dev-reborn/desired-properties"
    assert client.operator("PATCH", path, {"a": 1}).ok
    assert client.operator("DELETE", f"{client.workspace}/devices/dev-reborn/delete").ok
    client.provisioned("dev-reborn")
    assert client.operator("GET", path).json() == {"$version": 1}


def test_desired_properties_are_merged_replaced_and_checked(client: Client) -> None:
    client.provisioned("dev-twin")
    path = f"{client.workspace}/devices/dev-twin/desired-properties"
    assert client.operator("PATCH", path, {"a": 1, "b": {"c": 2}}).json() == {"$version": 2}
    assert client.operator("PATCH", path, {"a": None}).ok
    assert client.operator("GET", path).json() == {"b": {"c": 2}, "$version": 3}
    assert client.operator("PUT", path, {"d": 4}).ok
    assert client.operator("GET", path).json() == {"d": 4, "$version": 4}
    assert problem(client.operator("PATCH", path, {"with.dot": 1}))[0] == 400
    assert problem(client.operator("PATCH", path, {"big": "x" * 5000}))[0] == 400


# -- the process -------------------------------------------------------------------------------------


def test_a_killed_cloud_comes_back_the_same(folder: Path) -> None:
    cloud = Cloud(folder / "cloud", "--sas-lifetime-s", "77")
    try:
        client = Client(cloud)
        token = client.provisioned("dev-kept")
        pending = client.init("dev-still-waiting")
        before, ca = cloud.facts, Path(cloud.facts["ca_file"]).read_bytes()
        cloud.process.kill()
        cloud.start()
        told_anew = {"pid", "page_url"}
        assert {k: v for k, v in cloud.facts.items() if k not in told_anew} == {
            k: v for k, v in before.items() if k not in told_anew
        }
        assert Path(cloud.facts["ca_file"]).read_bytes() == ca
        client = Client(cloud)
        ends = datetime.fromisoformat(client.register(token).json()["connectionStringExpiration"])
        assert ends.timestamp() <= time.time() + 77
        assert client.complete(pending).status_code == 202
    finally:
        cloud.close()


def test_every_message_acknowledged_before_a_kill_is_there(folder: Path) -> None:
    cloud = Cloud(folder / "cloud")
    try:
        ca = Path(cloud.facts["ca_file"]).read_text()
        options: dict[str, Any] = {"server_verification_cert": ca, "connection_retry": False}
        device = IoTHubDeviceClient.create_from_sastoken(Client(cloud).sas("dev-killed"), **options)
        for number in range(50):
            device.send_message(str(number))  # returns with the PUBACK
        cloud.process.kill()
        assert [m.payload for m in cloud.messages()] == [str(n).encode() for n in range(50)]
        with contextlib.suppress(ClientError):  # nobody is there to say goodbye to
            device.shutdown()
    finally:
        cloud.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--workspace", "a:b"), "workspace 'a:b'"),
        (("--sas-lifetime-s", "-1"), "sas_s"),
        (("--address", "300.1.1.1"), "300.1.1.1"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_no_traceback(
    folder: Path, options: tuple[str, ...], reason: str
) -> None:
    words = ("devcloud", "--dir", str(folder), *options)
    done = fork_server.run(words, clean_environment(), timeout_s=60)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_address_gets_another_certificate_of_the_same_authority(folder: Path) -> None:
    server_context(folder, "127.9.9.9")
    first, ca = (folder / "server.pem").read_bytes(), (folder / "ca.pem").read_bytes()
    server_context(folder, "127.9.9.9")
    assert (folder / "server.pem").read_bytes() == first
    server_context(folder, "127.9.9.8")
    assert (folder / "server.pem").read_bytes() != first
    assert (folder / "ca.pem").read_bytes() == ca
    (folder / "ca.pem").unlink()
    lost_ca = (folder / "server.pem").read_bytes()
    server_context(folder, "127.9.9.8")
    assert (folder / "server.pem").read_bytes() != lost_ca


def test_keys_and_facts_are_for_the_owner_only(devcloud: Cloud) -> None:
    for name in ("devcloud.json", "ca.key", "server.pem", "device-ca.key", "place.json", "devcloud.db"):
        assert (devcloud.folder / name).stat().st_mode & 0o777 == 0o600, name
    assert devcloud.folder.stat().st_mode & 0o777 == 0o700
    assert (devcloud.folder / "ca.pem").stat().st_mode & 0o777 == 0o644  # for whoever is a device


def test_tls_older_than_1_2_is_not_spoken(folder: Path) -> None:
    assert server_context(folder, "127.9.9.9").minimum_version == ssl.TLSVersion.TLSv1_2
