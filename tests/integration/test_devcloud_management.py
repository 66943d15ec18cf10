"""Device management over the operators' API and on the command line, as scripts and tests use it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse

from tests.integration.test_devcloud_cli import said
from tests.support.devcloud_client import Client, problem
from tests.support.harness import Cloud
from tests.support.managed import Managed


def test_a_twin_is_read_whole_and_changed_only_by_who_knows_it(client: Client) -> None:
    device = Managed(client, "dev-etag")
    assert device.call("PATCH", "tags", {"site": "x"}).json() == {"site": "x"}
    before = device.call("GET", "twin").json()
    assert (before["tags"], before["version"]) == ({"site": "x"}, 2)
    bearer = {"Authorization": f"Bearer {client.facts['operator_token']}"}

    def patch(etag: str) -> Any:
        path, headers = f"{device.path}/desired-properties", {**bearer, "If-Match": etag}
        return client.send("PATCH", path, json={"a": 1, "$version": 9}, headers=headers)

    assert patch(before["etag"]).json() == {"$version": 2}
    assert problem(patch(before["etag"]))[0] == 412
    assert patch("*").ok
    assert problem(device.call("PATCH", "tags", {"a": "x" * 4000, "b": "x" * 4097}))[0] == 400
    metadata = device.call("GET", "twin").json()["properties"]["desired"]["$metadata"]
    assert metadata["a"]["$lastUpdatedVersion"] == 3


@pytest.mark.parametrize(
    "wrong",
    [{"ack": "maybe"}, {"expiry": "soon"}, {"expiry": "1999-01-01T00:00:00Z"}, {"messageid": "a/b"}],
    ids=str,
)
def test_a_command_with_a_wrong_system_property_is_refused(client: Client, wrong: dict[str, Any]) -> None:
    device = Managed(client, "dev-wrong")
    assert problem(device.send(**wrong))[0] == 400
    assert device.commands() == []


def test_a_command_is_listed_with_its_life_and_its_feedback(limited: Client) -> None:
    device = Managed(limited, "dev-c2d")
    sent = device.send(query="command=stop&flag&empty=", messageid="m-1", ack="full", contenttype="t")
    assert sent.status_code == 202
    (listed,) = device.commands()
    assert listed["properties"] == {"command": "stop", "flag": None, "empty": ""}
    assert listed["system"] == {"$.mid": "m-1", "$.ct": "t", "iothub-ack": "full"}
    assert (listed["state"], listed["deliveries"], listed["text"]) == ("enqueued", 0, "go")
    assert device.call("DELETE", "c2d-messages").json() == {"purged": 1}
    assert device.feedback() == [("m-1", "Purged")]
    assert problem(device.send(bytes(64 * 1024 + 1)))[0] == 413
    limited.operator("POST", "/admin/limits", {"commands_pending": 1})
    assert device.send().status_code == 202
    assert problem(device.send()) == (403, "/problems/hub/deviceMaximumQueueDepthExceeded")


def test_a_method_call_has_two_time_outs_within_the_hubs_ranges(client: Client) -> None:
    device = Managed(client, "dev-method")

    def call(**body: Any) -> tuple[int, str]:
        return problem(device.call("POST", "methods", {"methodName": "m", **body}))

    for wrong in (
        {"responseTimeoutInSeconds": 4.9},
        {"responseTimeoutInSeconds": 301},
        {"connectTimeoutInSeconds": 301},
        {"methodName": "a/b"},
    ):
        assert call(**wrong)[0] == 400
    assert call() == (404, "/problems/hub/deviceNotOnline")
    before_s = time.monotonic()
    assert call(connectTimeoutInSeconds=0.2)[0] == 404
    assert time.monotonic() - before_s >= 0.2


def test_the_basic_tier_refuses_device_management_to_operators_too(limited: Client) -> None:
    device = Managed(limited, "dev-basic")
    assert limited.operator("POST", "/admin/limits", {"tier": "basic"}).json()["tier"] == "basic"
    for method, end in (("GET", "twin"), ("PATCH", "desired-properties"), ("POST", "methods")):
        assert problem(device.call(method, end, {})) == (400, "/problems/hub/notSupported")
    assert problem(device.send())[0] == 400
    assert problem(limited.operator("POST", "/admin/limits", {"tier": "golden"}))[0] == 400


def test_a_test_waits_for_a_fact_instead_of_asking_again_and_again(client: Client) -> None:
    device = Managed(client, "dev-awaited")
    seq = device.send().json()["seq"]
    assert device.wait(0.05, pending=0) == {"met": False, "now": 1}
    assert device.wait(0.05, command=seq) == {"met": False, "now": "enqueued"}
    assert device.wait(command=seq, state="enqueued")["met"]
    assert device.wait(0.05, command=seq + 10**9) == {"met": False, "now": None}
    assert device.wait(reported={}) == {"met": True, "now": {}}
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(device.wait(reported={"a": 1})))
    thread.start()
    written = client.operator("POST", "/admin/reported", {"device": "dev-awaited", "patch": {"a": 1}})
    thread.join(20)
    assert written.json() == {"$version": 2}
    assert waiting == [{"met": True, "now": {"a": 1}}]
    assert problem(client.operator("POST", "/admin/await", {"device": "dev-awaited"}))[0] == 400


def test_a_device_made_again_keeps_its_credentials_and_nothing_else(client: Client) -> None:
    before = Managed(client, "dev-again")
    before.call("PATCH", "desired-properties", {"a": 1})
    before.send()
    assert client.operator("POST", "/admin/device", {"device": "dev-again", "recreate": True}).ok
    after = Managed(client, "dev-again")
    assert after.call("GET", "desired-properties").json() == {"$version": 1}
    assert after.commands() == []
    assert after.connection_string == before.connection_string


def test_the_published_sdk_is_managed_over_the_operators_api(client: Client) -> None:
    device = Managed(client, "dev-sdk")
    sdk = IoTHubDeviceClient.create_from_connection_string(
        device.connection_string, server_verification_cert=Path(client.facts["ca_file"]).read_text()
    )
    try:
        sdk.connect()
        sdk.patch_twin_reported_properties({"firmware": "1.2"})
        assert device.wait(reported={"firmware": "1.2"})["met"]
        assert [request["request"] for request in device.twin_requests()] == ["PATCH"]
        sdk.on_method_request_received = lambda request: sdk.send_method_response(
            MethodResponse.create_from_method_request(request, 207, {"heard": request.payload})
        )
        body = {"methodName": "echo", "payload": [1], "connectTimeoutInSeconds": 10}
        assert device.call("POST", "methods", body).json() == {"status": 207, "payload": {"heard": [1]}}
        sdk.on_message_received = lambda message: None
        assert device.wait(command=device.send(messageid="m-1", ack="positive").json()["seq"])["met"]
        assert device.feedback() == [("m-1", "Success")]
    finally:
        sdk.shutdown()


def test_a_script_manages_a_device_on_the_command_line(devcloud: Cloud, limited: Client) -> None:
    device = Managed(limited, "dev-cli")
    twin = json.loads(said("twin", "dev-cli", "--patch", '{"interval": 5}', cloud=devcloud))
    assert twin["properties"]["desired"]["interval"] == 5
    message_id = said("send", "dev-cli", "stop ü", "--property", "command=stop", cloud=devcloud).strip()
    assert [(m["messageId"], m["text"], m["properties"]) for m in device.commands()] == [
        (message_id, "stop ü", {"command": "stop"})
    ]
    limits = json.loads(said("limits", "tier=basic", "command_lock_s=1", cloud=devcloud))
    assert (limits["tier"], limits["command_lock_s"]) == ("basic", 1)
