"""Commands over HTTPS at the stand-in: received one at a time under a lock, and settled in three ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.devcloud_client import Client
from tests.support.managed import Managed


class PollingDevice(Managed):
    """A device that asks for its commands."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client, name)
        self.sas = client.sas(name)
        self.hub_path = f"/devices/{client.facts['workspace']}:{name}/messages/devicebound"

    def ask(self, method: str, end: str = "", query: str = "") -> requests.Response:
        """A call of the device itself."""
        url = f"{self.hub_path}{end}?api-version=2021-04-12{query}"
        return self.client.send(method, url, headers={"Authorization": self.sas})

    def receive(self) -> tuple[bytes, str]:
        """Payload and lock token of the next command."""
        answer = self.ask("GET")
        assert answer.status_code == 200
        return answer.content, answer.headers["etag"].strip('"')


@pytest.fixture
def device(client: Client, request: pytest.FixtureRequest) -> Iterator[PollingDevice]:
    yield PollingDevice(client, f"dev-{abs(hash(request.node.name))}")


def test_a_command_is_described_locked_and_completed_once(device: PollingDevice) -> None:
    assert device.ask("GET").status_code == 204
    device.send(b"first", "command=stop&flag", messageid="m-1", ack="full")
    device.send(b"second")
    first = device.ask("GET")
    assert first.content == b"first"
    described = {name: value for name, value in first.headers.items() if name.startswith("iothub-")}
    assert described["iothub-messageid"] == "m-1" and described["iothub-deliverycount"] == "0"
    assert (described["iothub-app-command"], described["iothub-app-flag"]) == ("stop", "")
    token = first.headers["etag"].strip('"')
    assert device.receive()[0] == b"second", "the first is locked"
    assert device.ask("GET").status_code == 204
    assert device.ask("DELETE", f"/{token}").status_code == 204
    lost = device.ask("DELETE", f"/{token}")
    assert (lost.status_code, lost.headers["iothub-errorcode"]) == (412, "DeviceMessageLockLost")
    assert (device.states(), device.feedback()) == (["completed", "enqueued"], [("m-1", "Success")])


def test_a_rejected_command_does_not_come_again(device: PollingDevice) -> None:
    device.send(messageid="m", ack="negative")
    _, token = device.receive()
    assert device.ask("DELETE", f"/{token}", "&reject").status_code == 204
    assert (device.states(), device.feedback()) == (["rejected"], [("m", "Rejected")])


def test_an_abandoned_command_comes_again_until_it_was_delivered_too_often(
    device: PollingDevice, limited: Client
) -> None:
    limited.operator("POST", "/admin/limits", {"command_deliveries": 2})
    device.send(messageid="m", ack="full")
    for _ in range(2):
        assert device.states() == ["enqueued"]
        assert device.ask("POST", f"/{device.receive()[1]}/abandon").status_code == 204
    assert device.ask("GET").status_code == 204
    assert (device.states(), device.feedback()) == (["deadLettered"], [("m", "DeliveryCountExceeded")])


def test_a_lock_ends_by_time_and_its_token_with_it(device: PollingDevice, limited: Client) -> None:
    limited.operator("POST", "/admin/limits", {"command_lock_s": 0.001})
    device.send()
    _, token = device.receive()
    assert device.receive()[0] == b"go"
    assert device.ask("DELETE", f"/{token}").status_code == 412
    assert device.states() == ["enqueued"]


def test_only_the_device_itself_receives_and_only_where_the_hub_has_commands(
    device: PollingDevice, limited: Client
) -> None:
    device.send()
    other = PollingDevice(device.client, "dev-nosy")
    stranger: Any = device.client.send(
        "GET", f"{device.hub_path}?api-version=2021-04-12", headers={"Authorization": other.sas}
    )
    assert stranger.status_code == 401
    _, token = device.receive()
    assert other.ask("DELETE", f"/{token}").status_code == 412
    limited.operator("POST", "/admin/limits", {"tier": "basic"})
    assert device.ask("GET").status_code == 400
