"""`edgectl bundle`: one archive of a device in any state, without a payload and without a secret."""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.crash import describe, record_crash
from runtime.adapters.store.database_facts import database_facts
from runtime.adapters.store.writer import MessageStore
from runtime.config import load
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.platform_answer import PlatformResult
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.core.settlement import Settled
from runtime.errors import ConfigError, UsageError
from runtime.operations.bundle import LOGS, Bundle, BundleRequest, collect, write_file
from tests.support.harness import Home, mount_ext4
from tests.support.store_tools import ObedientClock, keep, put

STREAM = "Line4-Temperature-Sensor-Of-Press-0815"
"""It looks as random as a token, and stays."""


class Canaries:
    """Secrets and payloads, each of which would be found wherever it came out."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def __call__(self, name: str, text: str = "") -> str:
        self.planted[name] = text or f"canary-{name.replace(' ', '-')}-q%x=/pw+".replace("'", "")
        return self.planted[name]

    def found_in(self, contents: str) -> list[str]:
        return [name for name, text in self.planted.items() if any(form in contents for form in _forms(text))]


def _forms(text: str) -> list[str]:
    quoted = quote(text, safe="")
    return [
        text,
        quoted,
        quote(quoted, safe=""),
        base64.b64encode(text.encode()).decode(),
        text.split("%")[0],
    ]


def request(home: Home, environ: dict[str, str] | None = None, **changed: Any) -> BundleRequest:
    environ = environ or {}
    try:
        config, trouble = load(environ, home=home.folder), ""
    except ConfigError as exc:
        config, trouble = None, str(exc)
    return BundleRequest(home.layout, config, trouble, environ, **{"since_s": 0.0, **changed})


def bundle_of(wanted: BundleRequest) -> Bundle:
    return collect(wanted, SystemClock(), lambda sentence: None)


def contents(bundle: Bundle) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as tar:
        return {
            member.name.removeprefix("edge-bundle/"): tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in tar.getmembers()
        }


@pytest.fixture
def planted(home: Home) -> Iterator[tuple[Canaries, dict[str, str]]]:
    """A device that has a secret or a payload in every place where there can be one."""
    canary, layout = Canaries(), home.layout
    files = {
        name: home.folder / f"{name}.secret"
        for name in ("registration_token", "dps_key", "key", "encryption_key")
    }
    for name, path in files.items():
        path.write_text(f"{canary(name)}\n")
        path.chmod(0o600)
    files["connection_string"] = home.folder / "connection_string.secret"
    files["connection_string"].write_text(f"HostName=h;DeviceId=d;SharedAccessKey={canary('device key')}")
    drop = home.folder / "drop"
    drop.mkdir()
    (drop / "picture.jpg").write_text(canary("a file in the drop folder"))
    home.write_config(
        f"""
        [platform]
        provisioning_token = '{canary("provisioning token")}'
        registration_token_file = "{files["registration_token"]}"
        proxy = "http://user:{canary("proxy password", "pw-A7x")}@127.0.0.1:9"
        [identity]
        connection_string_file = "{files["connection_string"]}"
        dps_key_file = "{files["dps_key"]}"
        key_file = "{files["key"]}"
        encryption_key_file = "{files["encryption_key"]}"
        [ingest]
        drop_folder = "{drop}"
        """
    )
    (layout.state / "accepted.toml").write_text(
        f'platform.registration_token = "{canary("a setting of before")}"\n'
    )
    _plant_in_databases(home, canary)
    _plant_in_reports(home, canary)
    environ = {
        "HTTPS_PROXY": f"http://u:{canary('password in the environment', 'pq-B8y')}@proxy:3128",
        "EDGE_IDENTITY_DPS_KEY": canary("key in the environment"),
        "NO_PROXY": "127.0.0.1",
    }
    yield canary, environ


def _plant_in_databases(home: Home, canary: Canaries) -> None:
    layout, now = home.layout, Moment(time.time(), 100.0, "boot")
    identity = IdentityStore(layout)
    pending = Enrolment(EnrolmentState.PENDING, "b", "op", canary("verification code", "WXYZ-4711"))
    identity.save_enrolment(pending)
    grant = PlatformResult.__new__(PlatformResult)  # only its token and lifetime are read
    object.__setattr__(grant, "token", Secret(canary("registration token at rest")))
    object.__setattr__(grant, "lifetime_s", 3600.0)
    identity.save_provisioned(pending, grant, now, 0.5, host="h")
    store = MessageStore(layout.messages_db, ObedientClock())
    properties = {"colour": canary("a property")}
    payloads = [canary("a payload").encode(), canary("a payload in quarantine").encode()]
    keep(store, put(payloads, producer="press-7", stream=STREAM, properties=properties))
    store.commit(None, Settled(quarantined=[(2, canary("the reason of a quarantine"))]))
    store.close()
    with closing(sqlite3.connect(layout.management_db)) as db:
        db.execute("CREATE TABLE commands (payload TEXT)")
        db.execute("INSERT INTO commands VALUES (?)", (canary("payload of a command"),))
        db.commit()
    layout.remote_config.write_text(json.dumps({"upload.proxy": canary("a proxy that the cloud desires")}))
    layout.spool.mkdir(exist_ok=True)
    (layout.spool / ("a" * 40)).write_text(canary("a spooled file"))


def _plant_in_reports(home: Home, canary: Canaries) -> None:
    """Logs, status files and crash reports, in which a library wrote what it should not have."""
    layout, known = home.layout, canary.planted
    sas = f"SharedAccessSignature sr=h&sig={canary('signature of a SAS')}&se=1"
    lines = [
        f"400 for https://blobs/c/b?sv=1&sig={canary('signature of a blob')}&se=2",
        f"the header Authorization: DeviceToken {canary('token in a header')} was refused",
        f"password={canary('password in a log')} for {STREAM}",
        f"cannot decode {canary('payload in a log').encode()!r} of message 7",
        f"proxy http://user:{known['proxy password']}@127.0.0.1:9 failed",
        f"once more {quote(known['registration_token'], safe='')}",
        f"a token of last year: {canary('random', 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9')}",
        sas,
    ]
    written = [
        json.dumps(
            {"time": f"2026-01-31T12:00:0{n}+00:00", "level": "WARNING", "message": line, "stream": STREAM}
        )
        for n, line in enumerate(lines)
    ]
    (layout.log / "upload.log").write_text("\n".join([*written, f"Traceback: {sas}"]) + "\n")
    (layout.log / "upload.log.1").write_text(written[2] + "\n")
    (layout.run / "upload.status").write_text(
        json.dumps({"trouble": sas, "state": "down", "last_loss": lines[0]})
    )
    (layout.run / "metrics.prom").write_text(f'edge_x{{reason="{lines[2]}"}} 1\n')
    try:
        message = {
            "payload": canary("payload in a crash").encode(),
            "properties": {"p": canary("a crash's property")},
        }
        raise ValueError(f"bad {message!r}")
    except ValueError as exc:
        record_crash(layout, describe("upload", exc, exc.__traceback__))


def test_no_canary_comes_out_and_the_names_of_streams_stay(
    home: Home, planted: tuple[Canaries, dict[str, str]]
) -> None:
    canary, environ = planted
    began_s = time.monotonic()
    bundle = bundle_of(request(home, environ))
    assert time.monotonic() - began_s < 10
    parts = contents(bundle)
    assert {name: hits for name, part in parts.items() if (hits := canary.found_in(part))} == {}
    assert len(canary.planted) >= 24
    assert STREAM in parts["databases.json"] and STREAM in parts[LOGS]
    assert json.loads(parts["databases.json"])["management.db"]["tables"]["commands"]["rows"] == 1
    assert json.loads(parts["ledger.json"])["closes"] and STREAM in parts["ledger.json"]
    assert set(bundle.manifest["missing"]) <= {"doctor.json"}, "it measures the disk: a busy one takes long"
    everything = "".join(parts.values())
    for told in ("400 for https://blobs", "was refused", "ValueError", "platform.provisioning_token"):
        assert told in everything, "it is no bundle of asterisks"


def test_the_canaries_are_where_the_bundle_reads(
    home: Home, planted: tuple[Canaries, dict[str, str]]
) -> None:
    """A canary that stood nowhere would prove nothing."""
    canary, environ = planted
    read = "".join(
        path.read_bytes().decode(errors="replace")
        for path in home.folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    standing = canary.found_in(read + "".join(environ.values()))
    assert set(standing) == set(canary.planted)


def test_with_everything_damaged_or_missing_there_is_a_bundle(home: Home) -> None:
    for path in (home.layout.messages_db, home.layout.identity_db):
        path.write_bytes(b"SQLite format 3\0" + os.urandom(9000))
        path.chmod(0o600)
    home.write_config("[upload\nwindow = what")
    (home.layout.log / "crashes.jsonl").write_text("torn\n")
    (home.layout.run / "ingest.status").write_bytes(b"\xff\xfe")
    (home.layout.log / "ingest.log").mkdir()
    parts = contents(bundle_of(request(home)))
    assert "file is not a database" in parts["databases.json"]
    assert "trouble" in json.loads(parts["ledger.json"])
    assert json.loads(parts["status.json"])["verdict"] == "down"
    assert json.loads(parts["doctor.json"])[0]["verdict"] == "error"
    assert "edge.toml" in parts["configuration.json"]


def test_a_home_that_is_not_there_gives_a_bundle_too(tmp_path: Path) -> None:
    absent = Home.__new__(Home)
    from runtime.layout import Layout

    absent.folder, absent.layout = tmp_path / "none", Layout(tmp_path / "none")
    bundle = bundle_of(request(absent))
    assert LOGS in bundle.manifest["missing"]
    assert "manifest.json" in contents(bundle)


def test_the_newest_log_lines_stay_where_not_all_fit(home: Home) -> None:
    rows = [
        json.dumps(
            {
                "time": f"2026-01-31T12:{n // 60 % 60:02}:{n % 60:02}+00:00",
                "level": "INFO",
                "message": os.urandom(40).hex(),
            }
        )
        for n in range(3000)
    ]
    (home.layout.log / "upload.log.1").write_text("\n".join(rows[:1500]) + "\n")
    (home.layout.log / "upload.log").write_text("\n".join(rows[1500:]) + "\n")
    bundle = bundle_of(request(home, max_bytes=100_000))
    assert len(bundle.archive) <= 100_000
    kept = [json.loads(line)["message"] for line in contents(bundle)[LOGS].splitlines()]
    assert 0 < len(kept) < 3000
    assert kept == [json.loads(row)["message"] for row in rows[-len(kept) :]]
    assert any("were cut" in remark for remark in bundle.remarks)
    whole = bundle_of(request(home))
    assert whole.manifest["logs"]["lines"] == 3000 and whole.manifest["logs"]["cut_before"] is None
    late = bundle_of(request(home, since_s=time.time() + 60))
    assert late.manifest["logs"]["lines"] == 0


def test_members_come_in_the_same_order_each_time_and_for_their_owner_alone(home: Home) -> None:
    archives = [bundle_of(request(home)).archive for _ in range(2)]
    listed = []
    for archive in archives:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            assert {member.mode for member in tar.getmembers()} == {0o600}
            listed.append(tar.getnames())
    assert listed[0] == listed[1]
    assert listed[0][0].endswith("manifest.json") and listed[0][-1].endswith(LOGS)


def test_a_file_is_whole_private_and_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    write_file(target, b"one", force=False)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="--force replaces it"):
        write_file(target, b"two", force=False)
    assert target.read_bytes() == b"one"
    write_file(target, b"two", force=True)
    assert target.read_bytes() == b"two"
    with pytest.raises(UsageError, match="edgectl bundle - > FILE"):
        write_file(tmp_path / "absent" / "b.tar.gz", b"x", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz"]


def test_nothing_is_left_of_a_file_whose_writing_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "b.tar.gz", b"one", force=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_to_a_file_or_to_a_pipe(home: Home) -> None:
    target = home.folder / "b.tar.gz"
    answer = home.edgectl("bundle", str(target))
    assert answer.returncode == 0 and answer.stdout.startswith(f"{target}: ")
    assert answer.stderr == "", "progress is for a terminal"
    with tarfile.open(target) as tar:
        assert "edge-bundle/status.json" in tar.getnames()
    again = home.edgectl("bundle", str(target))
    assert again.returncode == 2 and "--force replaces it" in again.stderr
    small = home.edgectl("bundle", "-", "--max-size", "1KiB")
    assert small.returncode == 2 and "at least 64 KiB" in small.stderr


def test_on_a_read_only_disk_the_counters_are_read_without_the_wal(home: Home, folder: Path) -> None:
    """Where the runtime was not closed in order, and the disk is read-only since."""
    disk = folder / "disk"
    disk.mkdir()
    mount_ext4(folder / "image", disk, 16_000_000)
    try:
        store = MessageStore(disk / "messages.db", ObedientClock())
        keep(store, put([b"x"], stream=STREAM))
        store.close()
        (disk / "messages.db-wal").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        facts = database_facts(disk / "messages.db", 1.0)
        assert facts["opened"] == "immutable=1" and "unable to open" in facts["trouble"]
        assert facts["tables"]["levels"]["counters"][0]["stored"] == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)
