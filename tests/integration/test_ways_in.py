"""Every way in ends at the hub: a message goes out, and what is renewed on disk counts without a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.identity.registrars import registrar
from runtime.adapters.process.status_file import read_status
from runtime.core.address import Address
from runtime.core.identity.connection_string import parse, sas_expiry_s, sign
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.secret import Secret
from runtime.producer import Producer
from runtime.settings import IdentitySettings, PlatformSettings, Settings
from runtime.wiring import registration_route
from tests.support.certificates import Pair
from tests.support.harness import Cloud, Home, eventually


class Device:
    """A device that has no Provisioning Token, and the files it is known by."""

    def __init__(self, cloud: Cloud, home: Home) -> None:
        self.cloud, self.home = cloud, home
        self.files = {name: cloud.folder / f"device.{name}" for name in ("pem", "key", "connection")}
        self._sent = 0

    def configure(self, mode: str, *, platform: bool) -> None:
        facts = self.cloud.facts
        instance = f'instance = "{facts["instance"]}"\n' if platform else ""
        self.home.write_config(
            f'[platform]\nca_file = "{facts["ca_file"]}"\n{instance}'
            f'[identity]\nmode = "{mode}"\nconnection_string_file = "{self.files["connection"]}"\n'
            f'certificate_file = "{self.files["pem"]}"\nkey_file = "{self.files["key"]}"\n'
            f"[upload]\nhttps_port = {facts['https_port']}\nretry_max_s = 1\n[refresh]\nretry_max_s = 1\n"
        )

    def certify(self, device_id: str = "cert-1") -> None:
        """A new certificate, and its key, in the place of the old ones."""
        path = f"/workspaces/{self.cloud.facts['workspace']}/devices/certificates/create"
        made = self.cloud.call("POST", path, {"deviceId": device_id})
        self.files["key"].write_text(made["privateKey"])
        self.files["pem"].write_text(made["certificate"])

    def device_key(self) -> str:
        """The key of `cert-1`, as an operator would copy it."""
        with closing(sqlite3.connect(f"file:{self.cloud.folder / 'devcloud.db'}?mode=ro", uri=True)) as db:
            return str(db.execute("SELECT key FROM devices WHERE id = 'cert-1'").fetchone()[0])

    def connect_with(self, rest: str) -> None:
        host, workspace = self.cloud.facts["hub_host"], self.cloud.facts["workspace"]
        self.files["connection"].write_text(f"HostName={host};DeviceId={workspace}:cert-1;{rest}\n")

    def start(self) -> None:
        for worker in ("ingest", "upload", "refresh", "provisioning"):
            self.home.start_worker(worker)
        eventually(self.home.layout.producer_socket.exists)

    def generation(self) -> int:
        found = IdentityReader(self.home.layout).hub_credentials()
        return found.generation if found else 0

    def delivers(self) -> None:
        """One more message is acknowledged by ingest and arrives."""
        self._sent += 1
        with Producer(f"ipc://{self.home.layout.producer_socket}") as producer:
            producer.put(f"{self._sent}")
        eventually(lambda: f"{self._sent}".encode() in [m.payload for m in self.cloud.messages()], 30)


@pytest.fixture
def device(cloud: Cloud, home: Home) -> Iterator[Device]:
    made = Device(cloud, home)
    made.certify()
    yield made


def test_a_client_certificate_registers_at_the_platform_and_a_renewed_one_counts_at_once(
    device: Device,
) -> None:
    device.configure("mtls", platform=True)
    device.start()
    device.delivers()
    told = read_status(device.home.layout.status_file("provisioning"))
    assert told is not None and told["state"] == "not needed"
    before = device.generation()
    device.certify()
    eventually(lambda: device.generation() > before, 15, "the new certificate is taken without a restart")
    device.delivers()


@pytest.mark.parametrize(
    "rest",
    [lambda device: f"SharedAccessKey={device.device_key()}", lambda device: "x509=true"],
    ids=["device key", "certificate"],
)
def test_a_fixed_connection_string_needs_no_platform(rest: Callable[[Device], str], device: Device) -> None:
    device.configure("connection-string", platform=False)
    device.connect_with(rest(device))
    device.start()
    device.delivers()


def test_a_registration_token_made_by_hand_needs_no_approval_and_another_one_counts_at_once(
    device: Device,
) -> None:
    facts, token = device.cloud.facts, device.home.folder / "registration-token"
    path = f"/workspaces/{facts['workspace']}/devices/registration-tokens/create"

    def by_hand(device_id: str) -> None:
        token.write_text(device.cloud.call("POST", path, {"deviceId": device_id})["registrationToken"] + "\n")
        token.chmod(0o600)

    by_hand("hand-1")
    device.home.write_config(
        f'[platform]\ninstance = "{facts["instance"]}"\nca_file = "{facts["ca_file"]}"\n'
        f'registration_token_file = "registration-token"\n[upload]\nhttps_port = {facts["https_port"]}\n'
    )
    device.start()
    device.delivers()
    by_hand("hand-2")
    eventually(lambda: "hand-2" in str(IdentityReader(device.home.layout).read().hub), 15)
    device.delivers()
    assert [m.device_id for m in device.cloud.messages()] == ["demo:hand-1", "demo:hand-2"]
    assert device.cloud.waiting() == [], "nobody had to approve"


@pytest.mark.parametrize("mode", ["mtls", "dps"])
def test_a_certificate_waits_for_its_key_and_a_pair_that_cannot_serve_is_named(
    mode: str, folder: Path
) -> None:
    pair = Pair(folder)
    other = Pair(folder)
    settings = Settings(
        platform=PlatformSettings(instance=Address("platform.invalid", None)),
        identity=IdentitySettings(
            mode=IdentityMode(mode), certificate_file=pair.certificate, key_file=pair.key,
            dps_id_scope="0ne", dps_registration_id="dev-1",
        ),
    )  # fmt: skip
    known = registrar(registration_route(settings))
    assert known.missing() is None
    pair.put_certificate()
    assert known.missing() == f"{pair.key} is not the key of {pair.certificate}", "its key is yet to come"
    pair.put_key()
    assert known.missing() is None
    other.seal_key()
    assert "sealed with a passphrase" in str(known.missing())
    pair.key.write_text("-----BEGIN PRIVATE KEY-----")
    assert "no certificate and key in PEM" in str(known.missing())
    pair.key.unlink()
    assert "the file is not there" in str(known.missing())


def test_a_connection_string_that_is_not_there_yet_is_waited_for(device: Device) -> None:
    device.configure("connection-string", platform=False)
    device.start()
    status = device.home.layout.status_file("refresh")
    eventually(lambda: "file is not there" in str((read_status(status) or {}).get("reason")))
    device.connect_with("SharedAccessKey=")
    eventually(
        lambda: "no SharedAccessSignature, SharedAccessKey" in str((read_status(status) or {})["reason"])
    )
    device.connect_with(f"SharedAccessKey={device.device_key()}")
    device.delivers()


def test_a_connection_string_is_read_as_the_hub_writes_it_and_never_shown() -> None:
    known = parse("HostName=h.example;DeviceId=w:d;SharedAccessKey=c2VjcmV0Cg==")
    assert known.key == Secret("c2VjcmV0Cg==") and known.sas is None and not known.x509
    assert "c2Vj" not in repr(known)
    for bad in ("", "HostName=h;DeviceId=d", "DeviceId=d;x509=true", "HostName=h;SharedAccessKey=top-secret"):
        with pytest.raises(ValueError) as caught:
            parse(bad)
        assert "top-secret" not in str(caught.value)
    with pytest.raises(ValueError, match="base64"):
        sign("h", "d", Secret("not base64!"), 1)


def test_a_sas_is_signed_as_the_hub_checks_it() -> None:
    sas = sign("hub", "w:d", Secret("a2V5"), 1_800_000_000).reveal()
    assert sas.startswith("SharedAccessSignature sr=hub%2Fdevices%2Fw%3Ad&sig=")
    assert sas_expiry_s(sas) == 1_800_000_000


def test_a_sas_in_a_connection_string_is_handed_on_as_it_is(folder: Path) -> None:
    sas = "SharedAccessSignature sr=h&sig=c2ln&se=1800000000"
    assert parse(f"HostName=h;DeviceId=d;SharedAccessSignature={sas}").sas == Secret(sas)
