"""A person changes edge.toml while everything runs: who the device wishes to be, and its Provisioning Token.

Nobody reloads or restarts anything. With `hold_backlog_on_identity_change` the backlog waits for a word.
"""

from __future__ import annotations

import json
from typing import Any

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.status_file import read_status
from runtime.producer import Producer
from tests.support.harness import Cloud, Home, eventually

HOLD = "hold_backlog_on_identity_change = true"
MANY = 20


def send(device: Home, prefix: str) -> set[bytes]:
    """Acknowledged messages, and thereby a debt."""
    payloads = [f"{prefix}-{n}".encode() for n in range(MANY)]
    with Producer(f"ipc://{device.layout.producer_socket}") as producer:
        producer.put_many(payloads)
    return set(payloads)


def arrived(cloud: Cloud, device_id: str) -> set[bytes]:
    return {m.payload for m in cloud.messages() if m.device_id.endswith(f":{device_id}")}


def told(device: Home, worker: str) -> dict[str, Any]:
    return read_status(device.layout.status_file(worker)) or {}


def test_another_id_and_token_in_edge_toml_are_taken_by_themselves_and_a_held_backlog_waits_for_a_word(
    cloud: Cloud, device: Home
) -> None:
    device.write_config(cloud.config_toml(device='id = "first-1"', identity=HOLD))
    device.start_all()
    eventually(device.layout.producer_socket.exists)
    before = send(device, "before")
    eventually(cloud.waiting)
    cloud.approve_all()
    eventually(lambda: arrived(cloud, "first-1") == before)

    workspace = f"/workspaces/{cloud.facts['workspace']}"
    token = cloud.call("POST", f"{workspace}/provisioning-tokens/create", {})["provisioningToken"]
    toml = cloud.config_toml(device='id = "second-1"', identity=HOLD)
    file_line = next(line for line in toml.splitlines() if line.startswith("provisioning_token_file"))
    device.write_config(toml.replace(file_line, f'provisioning_token = "{token}"'))
    waiting = eventually(cloud.waiting, 15, "the device asks under its new wish")
    assert waiting[0]["requestedDeviceId"] == "second-1"
    cloud.approve_all()
    eventually(lambda: told(device, "refresh").get("state") == "another device id, held for an operator")

    held = send(device, "held")
    device.workers["upload"].kill()
    upload = device.start_worker("upload")
    eventually(lambda: told(device, "upload").get("pid") == upload.pid, what="a new upload is at work")
    status = json.loads(device.edgectl("status", "--json").stdout)
    assert "identity: another device id, held for an operator" in status["reasons"]
    assert (status["backlog"]["messages"], status["hub"]["in_flight"]) == (MANY, 0)
    assert "edgectl identity --accept" in device.edgectl("status").stdout
    assert arrived(cloud, "second-1") == set()

    device.edgectl("identity", "--accept")
    eventually(lambda: arrived(cloud, "second-1") == held, 20, "the word lets it out")
    assert arrived(cloud, "first-1") == before
    assert IdentityReader(device.layout).read().on_hold is False
    for name in ("provisioning", "refresh", "upload", "ingest"):
        assert token not in device.workers[name].said()
