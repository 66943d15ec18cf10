"""Device management over the operators' API and on the command line, as scripts and tests use it."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.integration.test_devcloud_cli import said
from tests.support.devcloud_client import Client, problem
from tests.support.harness import Cloud


def device(client: Client, name: str) -> str:
    """The path of a device that exists."""
    assert client.operator("POST", f"{client.workspace}/devices/connection-string", {"deviceId": name}).ok
    return f"{client.workspace}/devices/{name}"


def send(client: Client, path: str, payload: bytes = b"go", query: str = "", **headers: str) -> Any:
    bearer = {"Authorization": f"Bearer {client.facts['operator_token']}"}
    named = {f"iothub-{name}": value for name, value in headers.items()}
    return client.send("POST", f"{path}/c2d-messages?{query}", data=payload, headers=bearer | named)


def test_a_twin_is_read_whole_and_changed_only_by_who_knows_it(client: Client) -> None:
    path = device(client, "dev-etag")
    assert client.operator("PATCH", f"{path}/tags", {"site": "x"}).json() == {"site": "x"}
    before = client.operator("GET", f"{path}/twin").json()
    assert (before["tags"], before["version"]) == ({"site": "x"}, 2)
    bearer = {"Authorization": f"Bearer {client.facts['operator_token']}"}

    def patch(etag: str) -> Any:
        headers = {**bearer, "If-Match": etag}
        return client.send("PATCH", f"{path}/desired-properties", json={"a": 1}, headers=headers)

    assert patch(before["etag"]).json() == {"$version": 2}
    assert problem(patch(before["etag"]))[0] == 412
    assert patch("*").ok
    assert problem(client.operator("PATCH", f"{path}/tags", {"a": "x" * 4000, "b": "x" * 4097}))[0] == 400
    metadata = client.operator("GET", f"{path}/twin").json()["properties"]["desired"]["$metadata"]
    assert metadata["a"]["$lastUpdatedVersion"] == 3


def test_a_command_is_listed_with_its_life_and_its_feedback(limited: Client) -> None:
    client, path = limited, device(limited, "dev-c2d")
    sent = send(client, path, query="command=stop&flag&empty=", messageid="m-1", ack="full", contenttype="t")
    assert sent.status_code == 202
    (listed,) = client.operator("GET", f"{path}/c2d-messages").json()["messages"]
    assert listed["properties"] == {"command": "stop", "flag": None, "empty": ""}
    assert listed["system"] == {"$.mid": "m-1", "$.ct": "t", "iothub-ack": "full"}
    assert (listed["state"], listed["deliveries"], listed["text"]) == ("enqueued", 0, "go")
    assert client.operator("DELETE", f"{path}/c2d-messages").json() == {"purged": 1}
    after = client.operator("GET", f"{client.workspace}/devices/c2d-feedback").json()["feedback"]
    assert [
        (f["originalMessageId"], f["statusCode"]) for f in after if f["deviceId"].endswith("dev-c2d")
    ] == [("m-1", "Purged")]
    for bad in (
        {"ack": "maybe"},
        {"expiry": "soon"},
        {"expiry": "1999-01-01T00:00:00Z"},
        {"messageid": "a/b"},
    ):
        assert problem(send(client, path, **bad))[0] == 400
    assert problem(send(client, path, bytes(64 * 1024 + 1)))[0] == 413
    client.operator("POST", "/admin/limits", {"commands_pending": 1})
    assert send(client, path).status_code == 202
    assert problem(send(client, path)) == (403, "/problems/hub/deviceMaximumQueueDepthExceeded")


def test_a_method_call_has_two_time_outs_within_the_hubs_ranges(limited: Client) -> None:
    client, path = limited, device(limited, "dev-method")

    def call(**body: Any) -> tuple[int, str]:
        return problem(client.operator("POST", f"{path}/methods", {"methodName": "m", **body}))

    for wrong in (
        {"responseTimeoutInSeconds": 4.9},
        {"responseTimeoutInSeconds": 301},
        {"methodName": "a/b"},
    ):
        assert call(**wrong)[0] == 400
    assert call(connectTimeoutInSeconds=301)[0] == 400
    assert call() == (404, "/problems/hub/deviceNotOnline")
    before_s = time.monotonic()
    assert call(connectTimeoutInSeconds=0.2)[0] == 404
    assert time.monotonic() - before_s >= 0.2


def test_the_basic_tier_refuses_device_management_to_operators_too(limited: Client) -> None:
    client, path = limited, device(limited, "dev-basic")
    assert client.operator("POST", "/admin/limits", {"tier": "basic"}).json()["tier"] == "basic"
    for method, end in (("GET", "twin"), ("PATCH", "desired-properties"), ("POST", "methods")):
        assert problem(client.operator(method, f"{path}/{end}", {})) == (400, "/problems/hub/notSupported")
    assert problem(send(client, path))[0] == 400
    assert problem(client.operator("POST", "/admin/limits", {"tier": "golden"}))[0] == 400


def test_a_test_waits_for_a_fact_instead_of_asking_again_and_again(client: Client) -> None:
    path = device(client, "dev-awaited")
    seq = send(client, path).json()["seq"]

    def waited(**fact: Any) -> Any:
        answer = client.operator("POST", "/admin/await", {"device": "dev-awaited", "wait_s": 0.05, **fact})
        return answer.json()

    assert waited(pending=0) == {"met": False, "now": 1}
    assert waited(command=seq) == {"met": False, "now": "enqueued"}
    assert waited(command=seq, state="enqueued")["met"]
    assert waited(command=seq + 10**9) == {"met": False, "now": None}
    assert waited(reported={}) == {"met": True, "now": {}}
    assert waited(reported={"a": 1}) == {"met": False, "now": {}}
    written = client.operator("POST", "/admin/reported", {"device": "dev-awaited", "patch": {"a": 1}})
    assert written.json() == {"$version": 2}
    assert waited(reported={"a": 1})["met"]
    assert client.operator("GET", "/admin/twin-requests", device="dev-awaited").json() == {"requests": []}
    assert problem(client.operator("POST", "/admin/await", {"device": "dev-awaited"}))[0] == 400


def test_a_device_made_again_keeps_its_credentials_and_nothing_else(client: Client) -> None:
    path = device(client, "dev-again")
    string = f"{client.workspace}/devices/connection-string"
    before = client.operator("POST", string, {"deviceId": "dev-again"}).json()
    client.operator("PATCH", f"{path}/desired-properties", {"a": 1})
    send(client, path)
    assert client.operator("POST", "/admin/device", {"device": "dev-again", "recreate": True}).ok
    assert client.operator("GET", f"{path}/desired-properties").json() == {"$version": 1}
    assert client.operator("GET", f"{path}/c2d-messages").json() == {"messages": []}
    assert client.operator("POST", string, {"deviceId": "dev-again"}).json() == before


def test_a_script_manages_a_device_on_the_command_line(devcloud: Cloud, limited: Client) -> None:
    device(limited, "dev-cli")
    twin = json.loads(said("twin", "dev-cli", "--patch", '{"interval": 5}', cloud=devcloud))
    assert twin["properties"]["desired"]["interval"] == 5
    message_id = said("send", "dev-cli", "stop ü", "--property", "command=stop", cloud=devcloud).strip()
    listed = limited.operator("GET", f"{limited.workspace}/devices/dev-cli/c2d-messages").json()["messages"]
    assert [(m["messageId"], m["text"], m["properties"]) for m in listed] == [
        (message_id, "stop ü", {"command": "stop"})
    ]
    limits = json.loads(said("limits", "tier=basic", "command_lock_s=1", cloud=devcloud))
    assert (limits["tier"], limits["command_lock_s"]) == ("basic", 1)
