"""Commands over HTTPS at the stand-in: received one at a time under a lock, and settled in three ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.integration.test_devcloud_management import send
from tests.support.devcloud_client import Client


class PollingDevice:
    """A device that asks for its commands."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.sas = client, client.sas(name)
        self.path = f"{client.workspace}/devices/{name}"
        self.hub_path = f"/devices/{client.facts['workspace']}:{name}/messages/devicebound"

    def call(self, method: str, end: str = "", query: str = "") -> requests.Response:
        url = f"{self.hub_path}{end}?api-version=2021-04-12{query}"
        return self.client.send(method, url, headers={"Authorization": self.sas})

    def receive(self) -> tuple[bytes, str]:
        """Payload and lock token of the next command."""
        answer = self.call("GET")
        assert answer.status_code == 200
        return answer.content, answer.headers["etag"].strip('"')

    def states(self) -> list[str]:
        listed = self.client.operator("GET", f"{self.path}/c2d-messages").json()["messages"]
        return [message["state"] for message in listed]

    def feedback(self) -> list[str]:
        records = self.client.operator("GET", f"{self.client.workspace}/devices/c2d-feedback").json()
        mine = self.path.rpartition("/")[2]
        return [r["statusCode"] for r in records["feedback"] if r["deviceId"].endswith(mine)]


@pytest.fixture
def device(client: Client, request: pytest.FixtureRequest) -> Iterator[PollingDevice]:
    yield PollingDevice(client, f"dev-{abs(hash(request.node.name))}")


def test_a_command_is_described_locked_and_completed_once(device: PollingDevice) -> None:
    assert device.call("GET").status_code == 204
    send(device.client, device.path, b"first", "command=stop&flag", messageid="m-1", ack="full")
    send(device.client, device.path, b"second")
    first = device.call("GET")
    assert first.content == b"first"
    described = {name: value for name, value in first.headers.items() if name.startswith("iothub-")}
    assert described["iothub-messageid"] == "m-1" and described["iothub-deliverycount"] == "0"
    assert (described["iothub-app-command"], described["iothub-app-flag"]) == ("stop", "")
    token = first.headers["etag"].strip('"')
    assert device.receive()[0] == b"second", "the first is locked"
    assert device.call("GET").status_code == 204
    assert device.call("DELETE", f"/{token}").status_code == 204
    lost = device.call("DELETE", f"/{token}")
    assert (lost.status_code, lost.headers["iothub-errorcode"]) == (412, "DeviceMessageLockLost")
    assert (device.states(), device.feedback()) == (["completed", "enqueued"], ["Success"])


def test_a_rejected_command_does_not_come_again(device: PollingDevice) -> None:
    send(device.client, device.path, ack="negative")
    _, token = device.receive()
    assert device.call("DELETE", f"/{token}", "&reject").status_code == 204
    assert (device.states(), device.feedback()) == (["rejected"], ["Rejected"])


def test_an_abandoned_command_comes_again_until_it_was_delivered_too_often(
    device: PollingDevice, limited: Client
) -> None:
    limited.operator("POST", "/admin/limits", {"command_deliveries": 2})
    send(device.client, device.path, ack="full")
    for _ in range(2):
        assert device.states() == ["enqueued"]
        assert device.call("POST", f"/{device.receive()[1]}/abandon").status_code == 204
    assert device.call("GET").status_code == 204
    assert (device.states(), device.feedback()) == (["deadLettered"], ["DeliveryCountExceeded"])


def test_a_lock_ends_by_time_and_its_token_with_it(device: PollingDevice, limited: Client) -> None:
    limited.operator("POST", "/admin/limits", {"command_lock_s": 0.001})
    send(device.client, device.path)
    _, token = device.receive()
    assert device.receive()[0] == b"go"
    assert device.call("DELETE", f"/{token}").status_code == 412
    assert device.states() == ["enqueued"]


def test_only_the_device_itself_receives_and_only_where_the_hub_has_commands(
    device: PollingDevice, limited: Client
) -> None:
    send(device.client, device.path)
    other = PollingDevice(device.client, "dev-nosy")
    stranger: Any = device.client.send(
        "GET", f"{device.hub_path}?api-version=2021-04-12", headers={"Authorization": other.sas}
    )
    assert stranger.status_code == 401
    _, token = device.receive()
    assert other.call("DELETE", f"/{token}").status_code == 412
    limited.operator("POST", "/admin/limits", {"tier": "basic"})
    assert device.call("GET").status_code == 400
