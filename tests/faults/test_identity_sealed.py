"""A whole device whose tokens rest sealed: it delivers, and a key that is gone for a while costs nothing."""

from __future__ import annotations

import base64
import secrets

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.identity.vault import Vault
from runtime.adapters.process.status_file import read_status
from runtime.producer import Producer
from tests.support.harness import Cloud, Home, eventually


def test_a_device_whose_key_is_gone_for_a_while_stays_who_it_is_and_goes_on_delivering(
    cloud: Cloud, device: Home
) -> None:
    key_file = device.folder / "identity.key"
    key_file.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    key_file.chmod(0o600)
    device.write_config(cloud.config_toml(identity=f'encrypt = true\nencryption_key_file = "{key_file}"'))
    device.start_all()
    eventually(cloud.waiting)
    cloud.approve_all()
    reader = IdentityReader(device.layout, Vault(True, key_file))
    known = eventually(reader.hub_credentials)
    assert known is not None and known.sas is not None
    sas = known.sas.reveal()
    assert isinstance(sas, str) and sas.encode() not in device.layout.identity_db.read_bytes()

    def delivers(payload: bytes) -> None:
        with Producer(f"ipc://{device.layout.producer_socket}") as producer:
            producer.put(payload)
        eventually(lambda: payload in [m.payload for m in cloud.messages()], 30)

    def state() -> object:
        return (read_status(device.layout.status_file("refresh")) or {}).get("state")

    delivers(b"sealed")
    key = key_file.read_text()
    key_file.unlink()
    for worker in ("refresh", "provisioning"):
        device.workers[worker].kill()
        device.start_worker(worker)
    eventually(lambda: state() == "tokens locked: no key opens them")
    delivers(b"locked")
    assert cloud.waiting() == [], "nobody asks to be provisioned again"
    key_file.write_text(key)
    eventually(lambda: state() == "registered", 15, "the key that came back ends it without a restart")
    assert reader.hub_credentials() == known
