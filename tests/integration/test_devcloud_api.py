"""The stand-in's HTTPS side, held against the platform's contract: real process, real TLS."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.devcloud import admin, blobs, devices, operators, page, platform_api
from runtime.devcloud.tls import server_context
from tests.devcloud_client import REGISTER, Client, problem
from tests.harness import Cloud, clean_environment, eventually, short_folder

GRACE_S = 1.0
CANCELLED = "/problems/deviceProvisioning/provisioningOperationCancelled"


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    """One cloud for all tests here; each brings its own devices and tokens."""
    with short_folder() as folder:
        running = Cloud(folder / "cloud", "--grace-lifetime-s", str(GRACE_S))
        yield running
        running.close()


@pytest.fixture
def client(shared: Cloud) -> Iterator[Client]:
    yield Client(shared)
    shared.no_faults()


# -- provisioning ------------------------------------------------------------------------------------


def test_an_operation_is_pending_until_a_person_approves_it(client: Client) -> None:
    operation = client.init("dev-pending")
    assert operation.keys() == {"provisioningOperationId", "verificationCode", "expirationTime"}
    assert datetime.fromisoformat(operation["expirationTime"]) > datetime.now(UTC)
    assert (client.complete(operation).status_code, client.complete(operation).content) == (202, b"")
    assert client.approve(operation).status_code == 200
    done = client.complete(operation)
    assert (done.status_code, done.json().keys()) == (200, {"registrationToken", "expirationTime"})


def test_a_device_that_died_before_saving_completes_again_and_the_token_it_lost_is_revoked(
    client: Client,
) -> None:
    operation = client.init("dev-again")
    client.approve(operation)
    lost, kept = (client.complete(operation).json()["registrationToken"] for _ in range(2))
    assert lost != kept
    assert problem(client.register(lost))[0] == 401
    assert client.register(kept).status_code == 200


def test_a_cancelled_operation_says_so_and_an_expired_one_says_something_else(client: Client) -> None:
    cancelled, expired = client.init(), client.init()
    assert client.cancel(cancelled).status_code == 200
    assert problem(client.complete(cancelled)) == (410, CANCELLED)
    ending = {"what": "operation", "provisioningOperationId": expired["provisioningOperationId"]}
    assert client.operator("POST", "/admin/tokens", ending).status_code == 204
    status, kind = problem(client.complete(expired))
    assert status == 410
    assert kind != CANCELLED
    assert problem(client.approve(expired))[0] == 400


def test_nobody_completes_the_operation_of_another_provisioning_token(client: Client) -> None:
    operation = client.init("dev-foreign")
    client.approve(operation)
    stranger = client.create_token()["provisioningToken"]
    assert problem(client.complete(operation, stranger))[0] == 410


def test_the_operator_may_override_the_device_id_and_approve_by_the_code_on_the_display(
    client: Client,
) -> None:
    operation = client.init("dev-wished")
    by_code = {"provisioningOperationId": operation["verificationCode"]}
    assert client.approve(by_code, "dev-chosen").json()["deviceId"] == "dev-chosen"
    token = client.complete(operation).json()["registrationToken"]
    assert "DeviceId=demo:dev-chosen;" in client.register(token).json()["connectionString"]


@pytest.mark.parametrize("wish", ["abc", "a" * 91, "has blank", "umläut", "semi;colon", ""])
def test_what_cannot_be_a_device_id_is_refused_for_good(client: Client, wish: str) -> None:
    assert problem(client.device("POST", "/provisioning-operations/init", {"deviceId": wish}))[0] == 400


@pytest.mark.parametrize(
    ("mode", "device_says", "device_says_nothing", "operator_says", "operator_says_nothing"),
    [
        ("DeviceEnforce", True, False, False, True),
        ("DeviceAllow", True, True, False, True),
        ("TechnicianEnforce", False, True, True, False),
        ("TechnicianAllow", False, True, True, True),
        ("DeviceAndTechnicianAllow", True, True, True, True),
        ("Disable", False, True, False, True),
    ],
)
def test_a_provisioning_token_says_who_chooses_the_device_id(
    client: Client,
    mode: str,
    device_says: bool,
    device_says_nothing: bool,
    operator_says: bool,
    operator_says_nothing: bool,
) -> None:
    token = client.create_token(deviceIdMode=mode)["provisioningToken"]

    def init(body: dict[str, Any]) -> requests.Response:
        return client.device("POST", "/provisioning-operations/init", body, token)

    said, silent = init({"deviceId": f"dev-{mode}"}), init({})
    assert (said.ok, silent.ok) == (device_says, device_says_nothing)
    open_one = said if said.ok else silent
    named = client.approve(open_one.json(), f"other-{mode}")
    assert named.ok == operator_says
    unnamed = client.approve((init({"deviceId": f"dev-{mode}"}) if said.ok else init({})).json())
    assert unnamed.ok == operator_says_nothing


def test_a_provisioning_token_that_expired_or_was_revoked_lets_nobody_in(client: Client) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    expiring, revoked = client.create_token(expirationTime=soon), client.create_token()
    path = f"{client.workspace}/provisioning-tokens/revoke"
    assert client.operator("PUT", path, {"provisioningTokenId": revoked["provisioningTokenId"]}).ok

    def refused(token: dict[str, Any]) -> bool:
        answer = client.device("POST", "/provisioning-operations/init", {}, token["provisioningToken"])
        return answer.status_code == 401

    assert refused(revoked)
    eventually(lambda: refused(expiring), 5)


# -- refresh -----------------------------------------------------------------------------------------


def test_after_a_refresh_the_parent_lives_for_its_grace_period_and_the_grandparent_dies_at_once(
    client: Client,
) -> None:
    grandparent = client.provisioned("dev-family")
    first = client.refresh(grandparent)
    assert first.status_code == 201
    parent = first.json()["registrationToken"]
    assert client.register(grandparent).status_code == 200  # in its grace period
    child = client.refresh(parent)
    assert child.status_code == 201
    assert problem(client.register(grandparent))[0] == 401
    assert client.register(parent).status_code == 200
    eventually(lambda: client.register(parent).status_code == 401, GRACE_S + 5)
    assert problem(client.refresh(parent))[0] == 410
    assert client.register(child.json()["registrationToken"]).status_code == 200


def test_refreshing_the_parent_again_says_the_answer_was_lost_and_revokes_the_token_handed_out(
    client: Client,
) -> None:
    parent = client.provisioned("dev-lost")
    lost = client.refresh(parent).json()["registrationToken"]
    again = client.refresh(parent)
    assert again.status_code == 200
    assert problem(client.register(lost))[0] == 401
    assert problem(client.refresh(lost))[0] == 410
    assert client.register(again.json()["registrationToken"]).status_code == 200


def test_a_revoked_registration_token_is_neither_refreshed_nor_registered(client: Client) -> None:
    token = client.provisioned("dev-revoked")
    path = f"{client.workspace}/devices/registration-tokens/revoke"
    assert client.operator("PUT", path, {"deviceId": "dev-revoked"}).json() == {"revoked": 1}
    assert problem(client.refresh(token))[0] == 410
    assert problem(client.register(token))[0] == 401


# -- registration ------------------------------------------------------------------------------------


def test_registration_answers_with_a_sas_for_this_device_that_ends_when_it_says(client: Client) -> None:
    body = client.register(client.provisioned("dev-register")).json()
    host = client.facts["hub_host"]
    assert body["iotHubHostName"] == host
    assert body["connectionStringType"] == "SharedAccessSignature"
    assert re.fullmatch(r"29\.23:59:\d\d\.\d{7}", body["tokenRemainingLifetime"])
    prefix, sas = body["connectionString"].split(";SharedAccessSignature=", 1)
    assert prefix == f"HostName={host};DeviceId=demo:dev-register"
    fields = urllib.parse.parse_qs(sas.removeprefix("SharedAccessSignature "))
    assert fields["sr"] == [f"{host}/devices/demo:dev-register"]
    ends = datetime.fromisoformat(body["connectionStringExpiration"])
    assert int(fields["se"][0]) == ends.timestamp()
    assert 23 * 3600 < ends.timestamp() - time.time() <= 24 * 3600


def test_lifetimes_can_be_made_short_and_a_token_of_unlimited_life_says_null(
    client: Client, shared: Cloud
) -> None:
    shared.faults(sas_lifetime_s=20, registration_token_lifetime_s=30)
    body = client.register(client.provisioned("dev-short")).json()
    assert datetime.fromisoformat(body["connectionStringExpiration"]).timestamp() <= time.time() + 20
    assert re.fullmatch(r"00:00:(29|30)(\.\d{7})?", body["tokenRemainingLifetime"])
    made = client.operator(
        "POST", f"{client.workspace}/devices/registration-tokens/create", {"deviceId": "dev-by-hand"}
    ).json()
    assert made["expirationTime"] is None
    assert client.register(made["registrationToken"]).json()["tokenRemainingLifetime"] is None


def test_the_other_connection_string_types_exist_and_unknown_ones_do_not(client: Client) -> None:
    token = client.provisioned("dev-types")

    def register(kind: object) -> requests.Response:
        return client.device("PUT", "/devices/register", {"connectionStringType": kind}, token)

    assert ";SharedAccessKey=" in register("SharedAccessKey").json()["connectionString"]
    assert register("AuthorizationHeader").json()["connectionString"].startswith("SharedAccessSignature sr=")
    for unknown in ("sharedaccesssignature", "", None, 7):
        assert problem(register(unknown))[0] == 400


# -- strictness --------------------------------------------------------------------------------------

CALLS = [
    ("POST", "/provisioning-operations/init", {}),
    ("PUT", "/provisioning-operations/complete", {"provisioningOperationId": "x"}),
    ("PUT", "/devices/registration-tokens/refresh", {"registrationToken": "x"}),
    ("PUT", "/devices/register", REGISTER),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_no_device_call_is_answered_without_a_token_of_the_right_kind(
    client: Client, method: str, path: str, body: dict[str, Any]
) -> None:
    wrong_kind = client.provisioned("dev-kind") if path != "/devices/register" else None
    for header in (
        None,
        "DeviceToken",
        "DeviceToken ",
        "DeviceToken garbage",
        "DeviceToken a.b",
        f"Bearer {client.facts['provisioning_token']}",
        f"DeviceToken {wrong_kind or client.facts['provisioning_token']}",
        f"DeviceToken {client.facts['provisioning_token'][:-2]}xx",
    ):
        headers = {"Authorization": header} if header else {}
        answer = client.send(method, path, json=body, headers=headers)
        assert problem(answer)[0] == 401, header
        assert answer.headers["WWW-Authenticate"] == "DeviceToken"


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_disabled_workspace_answers_423_to_every_call(
    client: Client, shared: Cloud, method: str, path: str, body: dict[str, Any]
) -> None:
    shared.call("POST", "/admin/workspace", {"enabled": False})
    try:
        assert problem(client.device(method, path, body))[0] == 423
    finally:
        shared.call("POST", "/admin/workspace", {"enabled": True})


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"deviceId": 7}', "application/json", 400),
        (b'{"deviceId": "\xff"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b" " * 300_000 + b"{}", "application/json", 413),
    ],
)
def test_what_is_not_a_json_object_is_refused_in_words(
    client: Client, data: bytes, content_type: str, status: int
) -> None:
    headers = {
        "Authorization": f"DeviceToken {client.facts['provisioning_token']}",
        "Content-Type": content_type,
    }
    answer = client.send("POST", "/provisioning-operations/init", data=data, headers=headers)
    assert problem(answer)[0] == status


FIELDS = (
    "deviceId", "provisioningOperationId", "registrationToken", "connectionStringType", "expirationTime",
    "registrationTokenLifetimeSeconds", "deviceIdMode", "provisioningTokenId", "methodName", "what", "how",
    "device", "mode", "enabled", "sas_s", "ack_delay_ms", "http", "token",
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
SPECIAL = st.sampled_from(["dev-fuzz", "\ud800", "9999-12-31T23:59:59-14:00", "\0", 10**40, 1e308, -0.0])


def test_no_json_whatever_makes_it_answer_500(client: Client, shared: Cloud) -> None:
    client.provisioned("dev-fuzz")
    ours = [platform_api, operators, devices, admin, page]
    targets = [
        (method, re.sub(r"\{[^}]*\}", lambda m: {"{workspace}": "demo"}.get(m[0], "dev-fuzz"), route.path))
        for part in ours
        for route in part.routes
        for method in (route.methods or set()) & {"POST", "PUT", "PATCH"}
        if route.path not in ("/admin/hub", "/admin/workspace")
    ]
    wire = requests.Session()

    @settings(max_examples=150)
    @given(st.sampled_from(targets), st.dictionaries(st.sampled_from(FIELDS), SPECIAL | VALUES, max_size=4))
    def law(target: tuple[str, str], body: dict[str, Any]) -> None:
        token = (
            "operator_token" if target[1].startswith(("/admin", "/work", "/page")) else "provisioning_token"
        )
        scheme = "Bearer" if token == "operator_token" else "DeviceToken"
        headers = {"Content-Type": "application/json", "Authorization": f"{scheme} {client.facts[token]}"}
        url = client.facts["admin_url"] + target[1]
        answer = wire.request(
            target[0], url, data=json.dumps(body), headers=headers, verify=client.facts["ca_file"], timeout=15
        )
        assert answer.status_code < 500, (target, body, answer.text)

    law()
    assert shared.process.running()


def test_what_does_not_exist_is_refused_as_a_problem_too(client: Client) -> None:
    assert problem(client.send("GET", "/nothing/here"))[0] == 404
    assert problem(client.send("GET", "/devices/register"))[0] == 405


def test_nothing_of_operators_or_admins_answers_without_their_token(client: Client) -> None:
    public = {"/", "/page/session", f"/{blobs.CONTAINER}/{{blob:path}}"}
    routes = [
        r for part in (operators, devices, admin, page, blobs) for r in part.routes if r.path not in public
    ]
    assert len(routes) > 20
    for route in routes:
        path = re.sub(r"\{[^}]*\}", "demo", route.path)
        for method in (route.methods or set()) - {"HEAD"}:
            for header in ("Bearer wrong", f"DeviceToken {client.facts['operator_token']}", "Bearer"):
                answer = client.send(method, path, json={}, headers={"Authorization": header})
                assert problem(answer)[0] == 401, (method, path)


def test_another_workspace_does_not_exist(client: Client) -> None:
    assert problem(client.operator("GET", "/workspaces/other/devices"))[0] == 404


# -- misbehaving on request --------------------------------------------------------------------------


def test_a_fault_answers_with_its_status_and_retry_after_as_often_as_told(
    client: Client, shared: Cloud
) -> None:
    shared.faults(http={"POST /provisioning-operations": {"status": 503, "retry_after": 7, "times": 1}})
    broken = client.device("POST", "/provisioning-operations/init", {})
    assert (broken.status_code, broken.headers["Retry-After"]) == (503, "7")
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 200


def test_a_fault_can_cut_the_connection_answer_garbage_or_answer_late(client: Client, shared: Cloud) -> None:
    path = "/provisioning-operations/init"
    shared.faults(http={f"POST {path}": {"cut": True}})
    with pytest.raises(requests.ConnectionError):
        client.device("POST", path, {})
    shared.faults(http={f"POST {path}": {"status": 200, "body": "<html>"}})
    assert client.device("POST", path, {}).text == "<html>"
    shared.faults(http={f"POST {path}": {"delay_s": 0.5}})
    before_s = time.monotonic()
    assert client.device("POST", path, {}).status_code == 200
    assert time.monotonic() - before_s >= 0.5


def test_faults_never_lock_the_admin_out_and_a_misspelt_one_is_refused(client: Client, shared: Cloud) -> None:
    shared.faults(http={"POST /": {"status": 500}, "DELETE /": {"cut": True}})
    assert problem(client.operator("POST", "/admin/faults", {"ack_dealy_ms": 5}))[0] == 400
    shared.no_faults()
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 200


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
        device = IoTHubDeviceClient.create_from_sastoken(
            Client(cloud).sas("dev-killed"), server_verification_cert=ca, connection_retry=False
        )
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
    command = [sys.executable, "-m", "runtime", "devcloud", "--dir", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
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


def test_keys_and_facts_are_for_the_owner_only(shared: Cloud) -> None:
    for name in ("devcloud.json", "ca.key", "server.pem", "device-ca.key", "place.json", "devcloud.db"):
        assert (shared.folder / name).stat().st_mode & 0o777 == 0o600, name
    assert shared.folder.stat().st_mode & 0o777 == 0o700
    assert (shared.folder / "ca.pem").stat().st_mode & 0o777 == 0o644  # for whoever is a device


def test_tls_older_than_1_2_is_not_spoken(folder: Path) -> None:
    assert server_context(folder, "127.9.9.9").minimum_version == ssl.TLSVersion.TLSv1_2
