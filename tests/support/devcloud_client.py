"""What tests of the stand-in's HTTPS side call it with: raw answers, good and bad."""

from __future__ import annotations

from typing import Any

import requests

from tests.support.harness import Cloud

REGISTER = {"connectionStringType": "SharedAccessSignature"}


class Client:
    """Calls one cloud as a device, as an operator, or as nobody."""

    def __init__(self, cloud: Cloud) -> None:
        self.facts = cloud.facts
        self.workspace = f"/workspaces/{cloud.facts['workspace']}"

    def send(self, method: str, path: str, **how: Any) -> requests.Response:
        """One call, exactly as told."""
        return requests.request(
            method, self.facts["admin_url"] + path, verify=self.facts["ca_file"], timeout=15, **how
        )

    def device(self, method: str, path: str, body: Any, token: str | None = None) -> requests.Response:
        """A device's call; with the shared Provisioning Token unless told otherwise."""
        text = self.facts["provisioning_token"] if token is None else token
        return self.send(method, path, json=body, headers={"Authorization": f"DeviceToken {text}"})

    def operator(self, method: str, path: str, body: Any = None, **query: Any) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self.facts['operator_token']}"}
        return self.send(method, path, json=body, params=query, headers=bearer)

    # -- the usual steps -----------------------------------------------------------------------------

    def init(self, wish: str | None = None, token: str | None = None) -> dict[str, Any]:
        body = {} if wish is None else {"deviceId": wish}
        answer = self.device("POST", "/provisioning-operations/init", body, token)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def complete(self, operation: dict[str, Any], token: str | None = None) -> requests.Response:
        body = {"provisioningOperationId": operation["provisioningOperationId"]}
        return self.device("PUT", "/provisioning-operations/complete", body, token)

    def approve(self, operation: dict[str, Any], device_id: str | None = None) -> requests.Response:
        body = {"provisioningOperationId": operation["provisioningOperationId"], "deviceId": device_id}
        return self.operator("PUT", f"{self.workspace}/provisioning-operations/approve", body)

    def cancel(self, operation: dict[str, Any]) -> requests.Response:
        body = {"provisioningOperationId": operation["provisioningOperationId"]}
        return self.operator("PUT", f"{self.workspace}/provisioning-operations/cancel", body)

    def provisioned(self, wish: str) -> str:
        """The Registration Token of a device that went the whole way."""
        operation = self.init(wish)
        assert self.approve(operation).status_code == 200
        return str(self.complete(operation).json()["registrationToken"])

    def register(self, registration_token: str) -> requests.Response:
        return self.device("PUT", "/devices/register", REGISTER, registration_token)

    def refresh(self, registration_token: str, token: str | None = None) -> requests.Response:
        body = {"registrationToken": registration_token}
        return self.device("PUT", "/devices/registration-tokens/refresh", body, token)

    def sas(self, wish: str) -> str:
        """A living SAS of a device made for it."""
        text = self.register(self.provisioned(wish)).json()["connectionString"]
        return str(text.split("SharedAccessSignature=", 1)[1])

    def create_token(self, **fields: Any) -> dict[str, Any]:
        """A Provisioning Token made for one test."""
        made = self.operator("POST", f"{self.workspace}/provisioning-tokens/create", fields)
        assert made.status_code == 201, made.text
        return dict(made.json())


def problem(answer: requests.Response) -> tuple[int, str]:
    """Status and type of a refusal, which must be problem+json whole and right."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["title"]
    assert body["instance"].startswith("/")
    return answer.status_code, body["type"]
