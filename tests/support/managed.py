"""A device as its operator manages it at the stand-in: twin, commands, methods, and facts to wait for."""

from __future__ import annotations

from typing import Any

import requests

from tests.support.devcloud_client import Client


class Managed:
    """One device that exists; each call is one of the operators' API."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name
        self.path = f"{client.workspace}/devices/{name}"
        string = client.operator("POST", f"{client.workspace}/devices/connection-string", {"deviceId": name})
        assert string.ok, string.text
        self.connection_string = str(string.json()["connectionString"])

    def call(self, method: str, end: str, body: Any = None, **query: Any) -> requests.Response:
        """One call below the device's path, answered or refused."""
        return self.client.operator(method, f"{self.path}/{end}", body, **query)

    def send(self, payload: bytes = b"go", query: str = "", **headers: str) -> requests.Response:
        """Send a command; its properties are the query, `headers` its system properties, as `ack="full"`."""
        bearer = {"Authorization": f"Bearer {self.client.facts['operator_token']}"}
        named = {f"iothub-{name}": value for name, value in headers.items()}
        return self.client.send(
            "POST", f"{self.path}/c2d-messages?{query}", data=payload, headers=bearer | named
        )

    def commands(self) -> list[dict[str, Any]]:
        """Every command in any state, oldest first."""
        return list(self.call("GET", "c2d-messages").json()["messages"])

    def states(self) -> list[str]:
        return [command["state"] for command in self.commands()]

    def feedback(self) -> list[tuple[str, str]]:
        """Message id and status of each feedback record of this device."""
        records = self.client.operator("GET", f"{self.client.workspace}/devices/c2d-feedback").json()
        return [
            (record["originalMessageId"], record["statusCode"])
            for record in records["feedback"]
            if record["deviceId"].endswith(f":{self.name}")
        ]

    def wait(self, wait_s: float = 20.0, **fact: Any) -> Any:
        """Wait for a fact (`pending=0`, `command=SEQ`, `reported={...}`): `{"met": bool, "now": ...}`."""
        body = {"device": self.name, "wait_s": wait_s, **fact}
        return self.client.operator("POST", "/admin/await", body).json()

    def twin_requests(self) -> list[dict[str, Any]]:
        """What the device asked of its twin, oldest first."""
        logged = self.client.operator("GET", "/admin/twin-requests", device=self.name)
        return list(logged.json()["requests"])
