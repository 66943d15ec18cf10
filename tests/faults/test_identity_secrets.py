"""No token gets into anything that the system writes or says, in good weather and in bad."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.status_file import read_status
from tests.support.harness import Cloud, Home, eventually

COMMANDS = ("status", "status --json", "identity", "identity --json", "config", "config --json", "provision")


def secrets_at_rest(device: Home) -> set[str]:
    """Every token that identity.db holds now; of a SAS also its signature, plain and encoded."""
    with closing(sqlite3.connect(device.layout.identity_db)) as db:
        texts = [text for (text,) in db.execute("SELECT text FROM tokens") if text]
    signatures = [text.split("sig=")[1].split("&")[0] for text in texts if "sig=" in text]
    return {*texts, *signatures, *map(unquote, signatures)}


def everything_written(device: Home) -> dict[str, bytes]:
    """Every file of the home but identity.db, and what the processes show of themselves."""
    files = [p for p in device.folder.rglob("*") if p.is_file() and "identity.db" not in p.name]
    shown = [Path(f"/proc/{worker.pid}/cmdline") for worker in device.workers.values() if worker.running()]
    return contents(files + shown)


def contents(paths: Iterable[Path]) -> dict[str, bytes]:
    """Of those that are still there: SQLite removes its journal, workers replace their status."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            found[str(path)] = path.read_bytes()
    return found


def test_no_token_is_in_any_log_status_answer_or_process_list(cloud: Cloud, device: Home) -> None:
    known = {cloud.facts["provisioning_token"]}
    cloud.faults(sas_lifetime_s=12, registration_token_lifetime_s=12)
    device.write_config(cloud.config_toml(log='level = "DEBUG"'))
    device.start_all(fresh=True)
    eventually(cloud.waiting)
    cloud.approve_all()
    eventually(IdentityReader(device.layout).hub_credentials)
    known |= secrets_at_rest(device)
    assert device.edgectl("send", "hello", timeout_s=20).returncode == 0
    eventually(cloud.messages)
    device_id = IdentityReader(device.layout).read().hub
    assert device_id is not None
    bare = device_id.device_id.partition(":")[2]

    def renewed() -> bool:
        found = secrets_at_rest(device)
        fresh = bool(found - known)
        known.update(found)
        return fresh

    eventually(renewed, 20, "a token is renewed")
    # The storm: the platform fails, the hub refuses, both kinds of token are revoked.
    cloud.faults(http={"PUT /devices/register": {"status": 503, "body": "try later", "times": 2}})
    for what in ("registration-token", "sas"):
        cloud.call("POST", "/admin/tokens", {"what": what, "device": bare})
    eventually(cloud.waiting, 30, "the device asks to be provisioned again")
    known |= secrets_at_rest(device)
    said = {command: device.edgectl(*command.split()) for command in (*COMMANDS, "doctor")}
    written = {
        **everything_written(device),
        **{name: (done.stdout + done.stderr).encode() for name, done in said.items()},
    }
    refresh = device.workers["refresh"]
    refresh.kill()
    assert read_status(device.layout.status_file("refresh")) is not None
    assert len(known) >= 6, "there was something to be found"
    assert any(name.endswith("refresh.log") and content for name, content in written.items())
    for name, content in written.items():
        for secret in known:
            assert secret.encode() not in content, f"a token is in {name}"


def test_a_token_from_the_environment_is_in_no_file_and_no_command_line(cloud: Cloud, home: Home) -> None:
    token = cloud.facts["provisioning_token"]
    home.write_config(
        f'[platform]\ninstance = "{cloud.facts["instance"]}"\nca_file = "{cloud.facts["ca_file"]}"\n'
    )
    home.start_worker("provisioning", fresh=True, EDGE_PLATFORM_PROVISIONING_TOKEN=token)
    eventually(cloud.waiting)
    for name, content in everything_written(home).items():
        assert token.encode() not in content, name
    databases = contents(home.layout.state.glob("identity.db*"))
    assert databases
    for name, content in databases.items():
        assert token.encode() not in content, f"a Provisioning Token is not ours to keep: {name}"


def test_a_registration_token_made_by_hand_may_be_a_systemd_credential_or_a_variable(
    home: Home, folder: Path
) -> None:
    home.write_config('[platform]\ninstance = "platform.invalid"\n')
    (folder / "registration-token").write_text("by-hand-1\n")
    home.start_worker("provisioning", fresh=True, CREDENTIALS_DIRECTORY=str(folder))
    reader = IdentityReader(home.layout)

    def held() -> str | None:
        found = reader.read().registration
        return found.secret.reveal() if found and found.secret else None

    eventually(lambda: held() == "by-hand-1")
    home.stop()
    home.start_worker("provisioning", fresh=True, EDGE_PLATFORM_REGISTRATION_TOKEN="by-hand-2")
    eventually(lambda: held() == "by-hand-2")
    assert b"by-hand" not in b"".join(everything_written(home).values())


def test_a_systemd_credential_is_enough(cloud: Cloud, home: Home, folder: Path) -> None:
    (folder / "credentials").mkdir()
    (folder / "credentials" / "provisioning-token").write_text(cloud.facts["provisioning_token"] + "\n")
    home.write_config(
        f'[platform]\ninstance = "{cloud.facts["instance"]}"\nca_file = "{cloud.facts["ca_file"]}"\n'
    )
    home.start_worker("provisioning", fresh=True, CREDENTIALS_DIRECTORY=str(folder / "credentials"))
    eventually(cloud.waiting)
