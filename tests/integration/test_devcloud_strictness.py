"""What the stand-in refuses, and how it misbehaves on request: real process, real TLS."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.devcloud.http import (
    admin,
    approval_page,
    blobs,
    device_management,
    devices,
    operators,
    platform_api,
)
from tests.support.devcloud_client import REGISTER, Client, problem
from tests.support.harness import Cloud

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
    client: Client, devcloud: Cloud, method: str, path: str, body: dict[str, Any]
) -> None:
    devcloud.call("POST", "/admin/workspace", {"enabled": False})
    try:
        assert problem(client.device(method, path, body))[0] == 423
    finally:
        devcloud.call("POST", "/admin/workspace", {"enabled": True})


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


def test_no_json_whatever_makes_it_answer_500(client: Client, devcloud: Cloud) -> None:
    client.provisioned("dev-fuzz")
    ours = [platform_api, operators, devices, device_management, admin, approval_page]
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

    lifetimes = client.operator("GET", "/admin/lifetimes").json()
    try:
        law()
    finally:
        assert client.operator("POST", "/admin/lifetimes", lifetimes).ok  # other tests use the same cloud
    assert devcloud.process.running()


def test_what_does_not_exist_is_refused_as_a_problem_too(client: Client) -> None:
    assert problem(client.send("GET", "/nothing/here"))[0] == 404
    assert problem(client.send("GET", "/devices/register"))[0] == 405


def test_nothing_of_operators_or_admins_answers_without_their_token(client: Client) -> None:
    public = {"/", "/page/session", f"/{blobs.CONTAINER}/{{blob:path}}"}
    routes = [
        r
        for part in (operators, devices, device_management, admin, approval_page, blobs)
        for r in part.routes
        if r.path not in public
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
    client: Client, devcloud: Cloud
) -> None:
    devcloud.faults(http={"POST /provisioning-operations": {"status": 503, "retry_after": 7, "times": 1}})
    broken = client.device("POST", "/provisioning-operations/init", {})
    assert (broken.status_code, broken.headers["Retry-After"]) == (503, "7")
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 200


def test_a_fault_can_cut_the_connection_answer_garbage_or_answer_late(
    client: Client, devcloud: Cloud
) -> None:
    path = "/provisioning-operations/init"
    devcloud.faults(http={f"POST {path}": {"cut": True}})
    with pytest.raises(requests.ConnectionError):
        client.device("POST", path, {})
    devcloud.faults(http={f"POST {path}": {"status": 200, "body": "<html>"}})
    assert client.device("POST", path, {}).text == "<html>"
    devcloud.faults(http={f"POST {path}": {"delay_s": 0.5}})
    before_s = time.monotonic()
    assert client.device("POST", path, {}).status_code == 200
    assert time.monotonic() - before_s >= 0.5


def test_faults_never_lock_the_admin_out_and_a_misspelt_one_is_refused(
    client: Client, devcloud: Cloud
) -> None:
    devcloud.faults(http={"POST /": {"status": 500}, "DELETE /": {"cut": True}})
    assert problem(client.operator("POST", "/admin/faults", {"ack_dealy_ms": 5}))[0] == 400
    devcloud.no_faults()
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 200


def test_how_calls_were_answered_is_counted_so_that_a_fault_that_struck_can_be_told(
    client: Client, devcloud: Cloud
) -> None:
    call = "POST /provisioning-operations/init"

    def counted() -> Counter[str]:
        return Counter(client.operator("GET", "/admin/answers").json().get(call, {}))

    before = counted()
    devcloud.faults(http={call: {"status": 503, "times": 1}})
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 503
    devcloud.faults(http={call: {"cut": True, "times": 1}})
    with pytest.raises(requests.ConnectionError):
        client.device("POST", "/provisioning-operations/init", {})
    assert client.device("POST", "/provisioning-operations/init", {}).status_code == 200
    assert counted() - before == {"503": 1, "cut": 1, "200": 1}
    assert problem(client.send("GET", "/admin/answers"))[0] == 401
