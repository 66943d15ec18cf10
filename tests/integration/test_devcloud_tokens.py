"""The stand-in's provisioning, refresh and registration, held against the platform's contract."""

from __future__ import annotations

import re
import time
import urllib.parse
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from tests.support.devcloud_client import Client, problem
from tests.support.harness import Cloud, eventually

CANCELLED = "/problems/deviceProvisioning/provisioningOperationCancelled"


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
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    expiring, revoked = client.create_token(expirationTime=later), client.create_token()
    path = f"{client.workspace}/provisioning-tokens/revoke"
    assert client.operator("PUT", path, {"provisioningTokenId": revoked["provisioningTokenId"]}).ok

    def refused(token: dict[str, Any]) -> bool:
        answer = client.device("POST", "/provisioning-operations/init", {}, token["provisioningToken"])
        return answer.status_code == 401

    assert refused(revoked) and not refused(expiring)
    ending = {"what": "provisioning-token", "how": "expire"}
    token_id = expiring["provisioningTokenId"]
    assert client.operator("POST", "/admin/tokens", {**ending, "provisioningTokenId": token_id}).ok
    assert refused(expiring)


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
    brief = child.json()["registrationToken"]
    client.operator("POST", "/admin/lifetimes", {"grace_s": 0.1})
    try:
        last = client.refresh(brief).json()["registrationToken"]
    finally:
        client.operator("POST", "/admin/lifetimes", {"grace_s": 600})
    eventually(lambda: client.register(brief).status_code == 401)
    assert problem(client.refresh(brief))[0] == 410
    assert client.register(last).status_code == 200


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
    assert re.fullmatch(r"29\.23:59:\d\d(\.\d{7})?", body["tokenRemainingLifetime"])
    prefix, sas = body["connectionString"].split(";SharedAccessSignature=", 1)
    assert prefix == f"HostName={host};DeviceId=demo:dev-register"
    fields = urllib.parse.parse_qs(sas.removeprefix("SharedAccessSignature "))
    assert fields["sr"] == [f"{host}/devices/demo:dev-register"]
    ends = datetime.fromisoformat(body["connectionStringExpiration"])
    assert int(fields["se"][0]) == ends.timestamp()
    assert 23 * 3600 < ends.timestamp() - time.time() <= 24 * 3600


def test_lifetimes_can_be_made_short_and_a_token_of_unlimited_life_says_null(
    client: Client, devcloud: Cloud
) -> None:
    devcloud.faults(sas_lifetime_s=20, registration_token_lifetime_s=30)
    body = client.register(client.provisioned("dev-short")).json()
    assert datetime.fromisoformat(body["connectionStringExpiration"]).timestamp() <= time.time() + 20
    assert re.fullmatch(r"00:00:(2\d|30)(\.\d{7})?", body["tokenRemainingLifetime"])
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
