"""`edgectl devcloud` and its subcommands, as a script uses them."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient

from tests.support import fork_server
from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, clean_environment, eventually, short_folder


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield running
        running.close()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ("devcloud", *arguments, "--dir", str(folder))
    return fork_server.run(words, clean_environment(), timeout_s=60)


def said(*arguments: str, cloud: Cloud) -> str:
    """What a command printed; it must have succeeded."""
    done = run(*arguments, folder=cloud.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_lists_approves_and_cancels(shared: Cloud) -> None:
    client = Client(shared)
    wanted, unwanted = client.init("dev-script"), client.init("dev-unwanted")
    listed = json.loads(said("ls", "--json", cloud=shared))
    assert {w["verificationCode"] for w in listed["waiting"]} >= {
        wanted["verificationCode"],
        unwanted["verificationCode"],
    }
    assert f"{wanted['verificationCode']}  dev-script" in said("ls", cloud=shared)
    code = wanted["verificationCode"]
    assert said("approve", code, "--device-id", "dev-renamed", cloud=shared).endswith("as dev-renamed\n")
    said("cancel", unwanted["verificationCode"], cloud=shared)
    assert client.complete(wanted).status_code == 200
    assert client.complete(unwanted).status_code == 410
    client.init("dev-all")
    assert "as dev-all" in said("approve", "--all", cloud=shared)


def test_a_script_makes_and_revokes_tokens(shared: Cloud) -> None:
    client = Client(shared)
    token = said("tokens", "create", "--mode", "DeviceEnforce", "--lifetime-s", "60", cloud=shared).strip()
    operation = client.init("dev-token", token)
    client.approve(operation)
    registration = client.complete(operation, token).json()
    assert client.register(registration["registrationToken"]).status_code == 200
    said("revoke", "--device", "dev-token", cloud=shared)
    assert client.register(registration["registrationToken"]).status_code == 401
    mine = next(
        t for t in json.loads(said("tokens", "--json", cloud=shared)) if t["deviceIdMode"] == "DeviceEnforce"
    )
    said("revoke", "--provisioning-token", mine["provisioningTokenId"], cloud=shared)
    assert client.device("POST", "/provisioning-operations/init", {}, token).status_code == 401
    by_hand = said("tokens", "registration", "dev-by-hand", cloud=shared).strip()
    assert client.register(by_hand).status_code == 200


def test_a_script_makes_it_misbehave_and_behave_again(shared: Cloud) -> None:
    assert json.loads(said("faults", "ack_delay_ms=50", "poison=bang", cloud=shared))["poison"] == "bang"
    assert json.loads(said("faults", "--reset", cloud=shared))["ack_delay_ms"] == 0
    assert said("drop", cloud=shared).startswith("dropped ")
    said("hub", "down", cloud=shared)
    said("hub", "up", cloud=shared)
    for line in said("messages", cloud=shared).splitlines():
        assert json.loads(line)["device"], "of other tests"
    assert said("page", cloud=shared).startswith(f"{shared.facts['admin_url']}/?token=")


def test_a_script_enrols_devices_at_dps(shared: Cloud) -> None:
    key = said("dps", "add", "script-dps", cloud=shared).strip()
    assert len(base64.b64decode(key, validate=True)) == 64
    assert said("dps", "add", "script-certs", "--group", "--certificate", cloud=shared) == ""
    said("dps", "disable", "script-dps", cloud=shared)
    listed = said("dps", cloud=shared)
    assert f"host {shared.facts['dps_host']}, id scope {shared.facts['dps_id_scope']}" in listed
    assert "individual script-dps  by key  disabled" in listed and key not in listed
    assert "group      script-certs  by certificate\n" in listed
    said("dps", "enable", "script-dps", cloud=shared)
    said("dps", "rm", "script-certs", cloud=shared)
    found = json.loads(said("dps", "--json", cloud=shared))
    assert [(one["name"], one["enabled"]) for one in found["enrolments"]] == [("script-dps", True)]
    again = run("dps", "add", "script-dps", folder=shared.folder)
    assert again.returncode == 2 and "already" in again.stderr


def test_a_device_without_a_platform_gets_a_connection_string_or_a_certificate(
    shared: Cloud, folder: Path
) -> None:
    ca = Path(shared.facts["ca_file"]).read_text()
    string = said("connection-string", "dev-string", cloud=shared).strip()
    device = IoTHubDeviceClient.create_from_connection_string(string, server_verification_cert=ca)
    device.connect()
    device.shutdown()
    said("certificate", "dev-cert", "--out", str(folder), cloud=shared)
    assert (folder / "dev-cert.key").stat().st_mode & 0o777 == 0o600
    pair = X509(str(folder / "dev-cert.pem"), str(folder / "dev-cert.key"))
    host = shared.facts["hub_host"]
    device = IoTHubDeviceClient.create_from_x509_certificate(
        pair, host, "demo:dev-cert", server_verification_cert=ca
    )
    device.connect()
    device.shutdown()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["approve"], "a verification code, or --all"),
        (["approve", "NONE-SUCH"], "does not exist"),
        (["revoke", "--device", "nobody"], "does not exist"),
        (["faults", "nonsense=1"], "unknown fault"),
        (["faults", "nonsense"], "NAME=JSON"),
        (["tokens", "create", "--mode", "Anyone"], "deviceIdMode"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(shared: Cloud, arguments: list[str], reason: str) -> None:
    done = run(*arguments, folder=shared.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_running_devcloud_the_remedy_is_said(folder: Path) -> None:
    done = run("ls", folder=folder)
    assert done.returncode == 2
    assert "edgectl devcloud --dir" in done.stderr


def test_a_second_devcloud_in_the_same_folder_does_not_start(shared: Cloud) -> None:
    done = run(folder=shared.folder)
    assert done.returncode == 2
    assert "already runs" in done.stderr
    assert (shared.folder / "devcloud.json").exists()  # the first one's facts stand


def test_an_address_that_is_taken_is_said_in_one_sentence(shared: Cloud, folder: Path) -> None:
    done = run("--address", shared.facts["hub_host"], folder=folder / "other")
    assert done.returncode == 2
    assert f"{shared.facts['hub_host']}:8883" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_takes_its_facts_away(folder: Path, number: signal.Signals) -> None:
    cloud = Cloud(folder / "cloud")
    try:
        asked_s = time.monotonic()
        cloud.process.signal(number)
        assert cloud.process.popen.wait(10) == 0
        assert time.monotonic() - asked_s < 5
        assert not (cloud.folder / "devcloud.json").exists()
        assert "Traceback" not in cloud.process.said()
    finally:
        cloud.close()


def test_messages_are_followed_as_they_arrive(shared: Cloud) -> None:
    command = [
        sys.executable,
        "-m",
        "runtime",
        "devcloud",
        "messages",
        "--follow",
        "--dir",
        str(shared.folder),
    ]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
    try:
        _send_one(shared)
        assert follower.stdout is not None
        message = json.loads(follower.stdout.readline())
        assert (message["device"], message["text"]) == ("demo:dev-follow", "21.5")
    finally:
        follower.kill()
        follower.wait()
    eventually(lambda: "offline    dev-follow" in said("ls", cloud=shared), 10)


def _send_one(cloud: Cloud) -> None:
    options: dict[str, Any] = {"server_verification_cert": Path(cloud.facts["ca_file"]).read_text()}
    client = IoTHubDeviceClient.create_from_sastoken(Client(cloud).sas("dev-follow"), **options)
    client.send_message("21.5")
    client.shutdown()


def test_a_missing_extra_is_said_with_the_remedy() -> None:
    script = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'starlette' else find(n, *a);"
        "from runtime.__main__ import main; sys.exit(main(['devcloud']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert done.returncode == 2
    assert "pip install '.[devcloud]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
