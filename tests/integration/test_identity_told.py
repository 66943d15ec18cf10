"""What a person is told of an identity that is not what it seems: nothing wrong passes for registered."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.identity.values import IdentityRecord
from runtime.adapters.identity.vault import Vault
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import read_status
from runtime.cli.identity import describe, identity_table
from runtime.config import load
from runtime.core.identity.connection_string import sas_expiry_s
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import ConfigError
from runtime.operations.doctor import check_credentials
from runtime.operations.overview import observe
from runtime.workers.refresh import RefreshLoop
from tests.support.certificates import Pair
from tests.support.harness import Home, heart
from tests.support.scripted import Says, scripted

DAY_S = 86_400


class Device:
    """A device whose `refresh` is turned by hand."""

    def __init__(self, home: Home, hints: Hints) -> None:
        self.home, self._hints = home, hints
        self.pair = Pair(home.folder)
        self.connection = home.folder / "connection"

    def configure(self, identity: str, platform: str = "", more: str = "") -> None:
        self.home.write_config(
            f"[platform]\n{platform}\n[identity]\n{identity}\n"
            f'certificate_file = "{self.pair.certificate}"\nkey_file = "{self.pair.key}"\n{more}'
        )
        self._keeper = RefreshLoop(self.home.config, heart(self.home, "refresh"), self._hints)

    def connect_with(self, rest: str) -> None:
        self.connection.write_text(f"HostName=hub.example;DeviceId=w:d;{rest}\n")
        self.connection.chmod(0o600)
        self.configure(f'mode = "connection-string"\nconnection_string_file = "{self.connection}"')

    def turn(self) -> dict[str, Any]:
        """What refresh says after it has done what was due."""
        while self._keeper.turn(False) <= 0:
            pass
        return read_status(self.home.layout.status_file("refresh")) or {}

    def hub_refused(self) -> float:
        """One turn, beside the hub's word that it refuses the SAS."""
        return self._keeper.turn(True)

    def told(self) -> str:
        """`edgectl identity`, for a person."""
        return "\n".join(identity_table(describe(self.home.config)))


@pytest.fixture
def device(home: Home) -> Iterator[Device]:
    with closing(Hints(home.layout, "refresh")) as hints:
        yield Device(home, hints)


def sas(ends_in_s: float) -> str:
    ends_s = int(time.time() + ends_in_s)
    return f"SharedAccessSignature=SharedAccessSignature sr=hub.example&sig=c2ln&se={ends_s}"


@pytest.mark.parametrize(
    ("ends_in_s", "state", "line", "reason"),
    [
        (100 * DAY_S - 60, "registered", "99 d 23 h left", ""),
        (3 * DAY_S - 60, "registered", "2 d 23 h left", "the SAS in the connection string ends in 2 d 23 h"),
        (-2 * DAY_S - 60, "sas expired", "2 d 0 h ago", "the SAS in the connection string ended 2 d 0 h ago"),
    ],
)
def test_the_end_of_a_sas_that_only_a_person_can_replace_is_told_before_and_after(
    ends_in_s: float, state: str, line: str, reason: str, device: Device
) -> None:
    device.connect_with(sas(ends_in_s))
    said = device.turn()
    assert said["state"] == state and str(said["reason"]).startswith(reason)
    assert line in device.told() and "never expires" not in _row(device.told(), "sas ")
    with closing(_Living(device.home, "refresh", said)):
        alarms = observe(device.home.layout, SystemClock())["alarms"]
    assert [alarm["text"].startswith(reason) for alarm in alarms] == [True] * (state != "registered")
    before = said["generation"]
    assert device.turn()["generation"] == before, "nobody can renew it: it is not asked for again and again"


def _row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


class _Living:
    """This process in the place of a worker, whose lock it holds."""

    def __init__(self, home: Home, worker: str, said: dict[str, Any]) -> None:
        self._lock = Lock(home.layout.lock(worker))
        home.layout.status_file(worker).write_text(json.dumps(said))

    def close(self) -> None:
        self._lock.release()


@pytest.mark.parametrize(
    ("ends_in_s", "verdict"), [(100 * DAY_S, "ok"), (3 * DAY_S + 60, "warning"), (-3600, "error")]
)
def test_the_end_of_a_client_certificate_is_told_before_and_after(
    ends_in_s: float, verdict: str, device: Device
) -> None:
    device.pair = Pair(device.home.folder, datetime.fromtimestamp(time.time() + ends_in_s, UTC))
    device.connect_with("x509=true")
    said = device.turn()
    assert said["state"] == "registered", (
        "whether it still counts is for the hub to say, and not for our clock"
    )
    words = {
        "ok": "",
        "warning": "the client certificate ends in 3 d",
        "error": "the client certificate ended",
    }
    assert said["reason"].startswith(words[verdict]) and bool(said["reason"]) is (verdict != "ok")
    assert bool(said["alarm"]) is (verdict == "error")
    known = IdentityReader(device.home.layout).read()
    assert [check.verdict for check in check_credentials(device.home.config, known)] == [verdict]


@pytest.mark.parametrize("gone", ["key", "certificate"])
def test_a_client_certificate_that_is_gone_does_not_pass_for_registered(gone: str, device: Device) -> None:
    device.connect_with("x509=true")
    assert device.turn()["state"] == "registered"
    getattr(device.pair, gone).unlink()
    said = device.turn()
    assert said["state"] == "a setting or a file is missing"
    assert said["reason"] == f"identity.{gone}_file is not set, or the file is not there"
    with closing(_Living(device.home, "refresh", said)):
        assert _row(device.told(), "state").split(maxsplit=1)[1] == said["state"]
        assert f"identity.{gone}_file" in _row(device.told(), "reason")
    getattr(device.pair, f"put_{gone}")()
    assert device.turn()["state"] == "registered"


def test_the_same_certificate_at_another_path_is_what_the_hub_is_shown_from_then_on(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the last registration was kept: once the old file went, upload could not connect."""
    monkeypatch.setattr("runtime.core.identity.renewal.MIN_GAP_S", 0.0)
    device.connect_with("x509=true")
    before = device.turn()["generation"]
    for path in (device.pair.certificate, device.pair.key):
        path.rename(path.with_name(f"moved-{path.name}"))
    device.pair.certificate = device.home.folder / "moved-client.pem"
    device.pair.key = device.home.folder / "moved-client.key"
    device.connect_with("x509=true")
    device.turn()
    known = IdentityReader(device.home.layout).hub_credentials()
    assert known is not None and known.certificate == device.pair.certificate
    assert known.generation > before


@pytest.mark.parametrize("behind_s", [2 * DAY_S, 300 * DAY_S, -3 * DAY_S, 20])
def test_a_device_that_signs_learns_the_hub_s_time_once_the_hub_refused_and_says_so(
    behind_s: int, device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two days behind, the SAS that we sign is over at birth: it never delivered, and the key was blamed."""
    monkeypatch.setattr("runtime.core.identity.renewal.MIN_GAP_S", 0.0)
    monkeypatch.setattr("runtime.workers.refresh.STALE_REFUSAL_S", -1.0)
    hub_s = time.time() + behind_s
    with scripted(folder) as hub:
        hub.answer = lambda asked: Says(404, {}, {"Date": formatdate(hub_s, usegmt=True)})
        host, _, port = hub.instance.partition(":")
        device.connection.write_text(f"HostName={host};DeviceId=d;SharedAccessKey=a2V5\n")
        device.connection.chmod(0o600)
        device.configure(
            f'mode = "connection-string"\nconnection_string_file = "{device.connection}"',
            more=f'[upload]\nhttps_port = {port}\nca_file = "{hub.ca_file}"\n',
        )
        device.turn()
        assert hub.asked == [], "nobody is asked before the hub refuses"
        assert abs(_ends_s(device) - time.time() - DAY_S) < 60
        while device.hub_refused() <= 0:
            pass
        assert [one.method for one in hub.asked] == ["GET"]
        assert "Authorization" not in hub.asked[0].headers, "no secret is shown for it"
    wrong = abs(behind_s) > 300
    assert abs(_ends_s(device) - (hub_s if wrong else time.time()) - DAY_S) < 60
    said = device.turn()
    time.sleep(1.1)  # a status is a second old at most
    said = device.turn()
    where = "behind" if behind_s > 0 else "ahead of"
    assert ("the clock of this device is" in said["reason"]) is wrong
    assert not wrong or f"{where} the server's: set it" in said["reason"]


def _ends_s(device: Device) -> float:
    """When the SAS in force ends, by its own text."""
    known = IdentityReader(device.home.layout).hub_credentials()
    assert known is not None and known.sas is not None
    return sas_expiry_s(known.sas.reveal()) or 0.0


def test_a_skew_counts_no_more_once_the_clock_is_set_or_the_machine_has_booted(home: Home) -> None:
    store, now = IdentityStore(home.layout), Moment(1e9, 1000.0, "boot")
    store.save_skew(2.0 * DAY_S, now)
    known = store.read()
    assert known.skew(Moment(1e9 + 500, 1500.0, "boot")) == 2 * DAY_S
    assert known.skew(Moment(1e9 + 500 + 2 * DAY_S, 1500.0, "boot")) is None, "it was set"
    assert known.skew(Moment(1e9 + 500, 500.0, "another boot")) is None


def test_a_platform_that_refuses_a_client_certificate_is_not_said_to_refuse_a_token(device: Device) -> None:
    with scripted(device.home.folder) as server:
        server.answer = lambda asked: Says(401, {"title": "Unauthorized"})
        device.configure('mode = "mtls"', f'instance = "{server.instance}"\nca_file = "{server.ca_file}"')
        said = device.turn()
    assert (said["state"], said["trouble"]) == ("certificate refused", "refused")
    assert "certificate refused" in device.told() and "token refused" not in device.told()


def test_a_device_with_a_certificate_hears_that_it_was_moved_to_another_hub(device: Device) -> None:
    """Where nothing has to be renewed nothing was asked any more: it called a hub that was gone for good."""
    with scripted(device.home.folder) as server:
        device.configure('mode = "mtls"', f'instance = "{server.instance}"\nca_file = "{server.ca_file}"')

        def days_later(hub: str) -> int:
            told = {"connectionString": f"HostName={hub};DeviceId=w:d;x509=true"}
            server.answer = lambda asked: Says(200, told)
            with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
                db.execute("UPDATE tokens SET age_s = 86400, boot_s = boot_s - 10 WHERE kind = 'sas'")
            device.turn()
            known = IdentityReader(device.home.layout).hub_credentials()
            assert known is not None and known.hub_host == hub
            return known.generation

        first = days_later("hub-1")
        assert days_later("hub-1") == first, "nothing has changed: no reconnect"
        assert days_later("hub-2") > first
        server.answer = lambda asked: Says(503)
        with closing(sqlite3.connect(device.home.layout.identity_db)) as db, db:
            db.execute("UPDATE tokens SET age_s = 900000, boot_s = boot_s - 10 WHERE kind = 'sas'")
        assert device.turn()["state"] == "registered", "a certificate does not end with what was asked"
    assert len(server.asked) == 4


def test_tokens_that_no_key_opens_do_not_pass_for_registered_in_edgectl_identity(device: Device) -> None:
    key = device.home.folder / "identity.key"
    key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    key.chmod(0o600)
    store, now = IdentityStore(device.home.layout, Vault(True, key)), read_moment(SystemClock())
    store.save_provisioned(
        Enrolment(EnrolmentState.PROVISIONED, "b", at=now),
        PlatformResult(Secret("the-token"), None),
        now,
        0.5,
    )
    store.save_registered(1, Registration("hub", "w:d", 3600.0, Secret("the-sas")), now, 0.5)
    device.configure(f'encrypt = true\nencryption_key_file = "{key}"')
    assert _row(device.told(), "state").endswith("registered")
    key.unlink()
    assert "tokens locked" in _row(device.told(), "state")
    assert "the key that seals the tokens is not there" in _row(device.told(), "reason")


@pytest.mark.parametrize("foreign", ["GatewayHostName=edge.example", "ModuleId=m"])
def test_a_gateway_or_a_module_in_a_connection_string_is_refused_and_not_passed_over(
    foreign: str, device: Device
) -> None:
    rule = "must be a device's own, straight to the hub: without GatewayHostName and ModuleId"
    device.connect_with(f"SharedAccessKey=c2VjcmV0Cg==;{foreign}")
    said = device.turn()
    assert said["state"] == "a setting or a file is missing" and rule in said["reason"]
    assert IdentityReader(device.home.layout).hub_credentials() is None
    assert [
        check.verdict for check in check_credentials(device.home.config, IdentityRecord(Enrolment()))
    ] == ["warning"]
    text = f"HostName=h;DeviceId=d;{foreign};SharedAccessKey=c2VjcmV0Cg=="
    with pytest.raises(ConfigError, match="without GatewayHostName and ModuleId") as caught:
        load({"EDGE_IDENTITY_CONNECTION_STRING": text}, home=device.home.folder)
    assert "c2VjcmV0" not in str(caught.value)
    load({"EDGE_IDENTITY_CONNECTION_STRING": text.replace(foreign, "x=1")}, home=device.home.folder)


@pytest.mark.parametrize(
    ("ends_in_s", "verdict"), [(-60, "error"), (3 * DAY_S, "warning"), (100 * DAY_S, "ok")]
)
def test_the_doctor_knows_the_end_of_a_sas_in_a_connection_string(
    ends_in_s: float, verdict: str, device: Device
) -> None:
    device.connect_with(sas(ends_in_s))
    device.turn()
    known = IdentityReader(device.home.layout).read()
    assert [check.verdict for check in check_credentials(device.home.config, known)] == [verdict]


def test_a_pipe_in_the_place_of_a_certificate_is_named_and_holds_no_worker_up(device: Device) -> None:
    """`refresh` waited in it for ever: it was killed as hung, and again, until all started afresh."""
    pipe = device.home.folder / "pipe.pem"
    os.mkfifo(pipe)
    device.pair.certificate.unlink()
    device.pair.certificate.symlink_to(pipe)
    told: list[dict[str, Any]] = []

    def turn() -> None:
        device.configure('mode = "mtls"', 'instance = "platform.example"')
        told.append(device.turn())

    worker = threading.Thread(target=turn, daemon=True)
    worker.start()
    worker.join(10)
    assert [said["state"] for said in told] == ["a setting or a file is missing"]
