"""Devices with a client certificate: registration by mTLS, the hub, file upload; by the real SDK."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from azure.iot.device import X509, IoTHubDeviceClient

from tests.support.devcloud_client import REGISTER, Client, problem
from tests.support.harness import Cloud, eventually, short_folder


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield running
        running.close()


@pytest.fixture
def client(shared: Cloud) -> Client:
    return Client(shared)


def certificate(client: Client, device_id: str, folder: Path) -> tuple[str, str]:
    """Paths of a new certificate and its key."""
    made = client.operator("POST", f"{client.workspace}/devices/certificates/create", {"deviceId": device_id})
    assert made.status_code == 201, made.text
    paths = folder / f"{device_id}.pem", folder / f"{device_id}.key"
    paths[0].write_text(made.json()["certificate"])
    paths[1].write_text(made.json()["privateKey"])
    return str(paths[0]), str(paths[1])


def register(client: Client, pair: tuple[str, str]) -> requests.Response:
    return client.send("PUT", "/devices/register", json=REGISTER, cert=pair)


def hub_client(client: Client, device_id: str, pair: tuple[str, str]) -> IoTHubDeviceClient:
    return IoTHubDeviceClient.create_from_x509_certificate(
        X509(*pair),
        client.facts["hub_host"],
        f"demo:{device_id}",
        server_verification_cert=Path(client.facts["ca_file"]).read_text(),
        connection_retry=False,
    )


def test_a_certificate_registers_and_serves_at_the_hub(client: Client, shared: Cloud, folder: Path) -> None:
    pair = certificate(client, "dev-mtls", folder)
    body = register(client, pair).json()
    host = client.facts["hub_host"]
    assert body["connectionString"] == f"HostName={host};DeviceId=demo:dev-mtls;x509=true"
    assert (body["connectionStringExpiration"], body["tokenRemainingLifetime"]) == (None, None)
    device = hub_client(client, "dev-mtls", pair)
    device.send_message("by certificate")
    device.shutdown()
    arrived = eventually(lambda: [m for m in shared.messages() if m.device_id == "demo:dev-mtls"])
    assert arrived[0].payload == b"by certificate"


def test_a_new_certificate_works_beside_the_old_one_until_all_are_revoked(
    client: Client, folder: Path
) -> None:
    (folder / "new").mkdir()
    old, new = (
        certificate(client, "dev-rotates", folder),
        certificate(client, "dev-rotates", folder / "new"),
    )
    assert register(client, old).ok
    assert register(client, new).ok
    path = f"{client.workspace}/devices/certificates/revoke"
    assert client.operator("PUT", path, {"deviceId": "dev-rotates"}).json() == {"revoked": 2}
    assert problem(register(client, old))[0] == 401


def test_a_certificate_opens_the_hub_for_its_own_device_only(client: Client, folder: Path) -> None:
    pair = certificate(client, "dev-honest", folder)
    certificate(client, "dev-victim", folder)
    thief = hub_client(client, "dev-victim", pair)
    with pytest.raises(Exception, match=r"(?i)credential|connection"):
        thief.connect()
    thief.shutdown()
    path = "/devices/demo%3Adev-victim/files?api-version=2021-04-12"
    assert client.send("POST", path, json={"blobName": "x"}, cert=pair).status_code == 401
    own = path.replace("dev-victim", "dev-honest")
    assert client.send("POST", own, json={"blobName": "x"}, cert=pair).status_code == 200


def test_a_certificate_of_another_authority_ends_in_the_handshake(client: Client, folder: Path) -> None:
    made = trustme.CA().issue_cert("device.invalid", common_name="dev-honest")
    pair = folder / "foreign.pem", folder / "foreign.key"
    made.cert_chain_pems[0].write_to_path(os.fspath(pair[0]))
    made.private_key_pem.write_to_path(os.fspath(pair[1]))
    with pytest.raises(requests.ConnectionError):
        register(client, (str(pair[0]), str(pair[1])))


def test_a_token_in_the_header_counts_more_than_a_certificate(client: Client, folder: Path) -> None:
    pair = certificate(client, "dev-both", folder)
    headers = {"Authorization": "DeviceToken garbage"}
    answer = client.send("PUT", "/devices/register", json=REGISTER, cert=pair, headers=headers)
    assert problem(answer)[0] == 401
