"""Workers that cannot use identity.db stay, say why, and go on by themselves once it is mended."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.identity.token_files import fingerprint
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import read_status
from runtime.core.identity.enrolment import Enrolment, EnrolmentState, Wish
from runtime.core.identity.platform_answer import PlatformResult
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import Retryable
from runtime.operations.overview import observe
from runtime.workers import heartbeat as hearts
from runtime.workers.provisioning import ProvisioningLoop
from runtime.workers.refresh import RefreshLoop
from tests.support.harness import Home, eventually, heart, short_folder
from tests.support.scripted import Says, scripted

WORKERS = ("provisioning", "refresh")


def told(home: Home, worker: str) -> dict[str, Any]:
    return read_status(home.layout.status_file(worker)) or {}


def state(home: Home) -> set[object]:
    return {told(home, worker).get("state") for worker in WORKERS}


def test_workers_stay_through_an_identity_that_others_can_read_and_a_damaged_one_and_go_on_by_themselves(
    home: Home,
) -> None:
    database, calm = home.layout.identity_db, {"no platform configured", "a setting or a file is missing"}
    IdentityStore(home.layout)
    database.chmod(0o644)
    for worker in WORKERS:
        home.start_worker(worker)
    eventually(lambda: state(home) == {"waiting for a person"})
    for worker in WORKERS:
        assert told(home, worker)["trouble"] == f"{database} is open to others"
        assert told(home, worker)["reason"] == f"chmod 600 {database}"
    beats = [told(home, worker)["progress_boot_s"] for worker in WORKERS]
    eventually(lambda: all(told(home, w)["progress_boot_s"] > b for w, b in zip(WORKERS, beats, strict=True)))
    status = home.edgectl("status").stdout
    assert "identity: waiting for a person" in status and "chmod 600" in status
    database.chmod(0o600)
    eventually(lambda: state(home) == calm, 10)
    database.write_bytes(b"this is no database" * 1000)
    eventually((home.layout.state / "identity.db.damaged").exists, 15)
    eventually(lambda: state(home) == calm, 15)
    IdentityReader(home.layout).read()
    for worker in WORKERS:
        assert home.workers[worker].running(), "the same process"
        assert home.workers[worker].said().count("is open to others; chmod 600") == 1, "one line in the log"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MiB of our own."""
    with short_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "edge-test", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("only root may mount a tmpfs")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize("worker", WORKERS)
def test_on_a_full_disk_nothing_is_asked_that_could_not_be_kept(
    worker: str, small_disk: Path, folder: Path
) -> None:
    with scripted(folder) as server:
        server.answer = lambda asked: Says(503)
        home = Home(
            small_disk / "home",
            f'[platform]\ninstance = "{server.instance}"\nca_file = "{server.ca_file}"\n'
            'provisioning_token = "a-token-for-many"\n',
        )
        store, now = IdentityStore(home.layout), Moment(0, 0, "an earlier boot")
        if worker == "refresh":
            store.save_provisioned(
                Enrolment(EnrolmentState.PROVISIONED, "b"), PlatformResult(Secret("t"), None), now, 0.5
            )
        else:
            store.save_enrolment(Enrolment(basis=begun(home)))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as out, pytest.raises(OSError, match="No space"):
            while True:
                out.write(b"\0" * (4096 if out.tell() < 900_000 else 1))
        with closing(Hints(home.layout, worker)) as hints:
            at_work = (RefreshLoop if worker == "refresh" else ProvisioningLoop)(
                home.config, heart(home, worker), hints
            )
            turn = (lambda: at_work.turn(False)) if isinstance(at_work, RefreshLoop) else at_work.turn
            with pytest.raises(Retryable, match=r"identity\.db"):
                turn()
            assert server.asked == []
            filler.unlink()
            turn()
        assert len(server.asked) == 1
        with closing(sqlite3.connect(home.layout.identity_db)) as db:
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)


def begun(home: Home) -> str:
    """What provisioning notes first, so that on the full disk the next thing is to ask."""
    settings = home.config.settings.platform
    return Wish(str(settings.instance), fingerprint(settings.provisioning_token), None).basis()


def test_a_disk_that_takes_nothing_is_looked_at_again_twice_a_minute_and_named_meanwhile(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hearts.DISK_PAUSE_S == 30, "long enough to spare a platform, short beside the life of any SAS"
    monkeypatch.setattr(hearts, "DISK_PAUSE_S", 0.05)
    monkeypatch.setattr(hearts, "BEAT_S", 0.02)
    beating = heart(home, "refresh")
    beating.publish({"state": "registered"}, now=True)
    eventually(
        lambda: (beating.wait_out(Retryable("identity.db: full")), told(home, "refresh").get("trouble"))[1]
    )
    assert told(home, "refresh") | {"state": "registered", "trouble": "identity.db: full"} == told(
        home, "refresh"
    )


@pytest.mark.parametrize("worker", WORKERS)
def test_an_identity_that_cannot_be_written_is_an_alarm_while_everything_is_well_yet(
    worker: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked by somebody's shell, or on a disk gone bad: "healthy" until the day on which the SAS ended."""
    monkeypatch.setattr(hearts, "DISK_PAUSE_S", 0.05)
    monkeypatch.setattr(hearts, "BEAT_S", 0.02)
    lock, beating = Lock(home.layout.lock(worker)), heart(home, worker)
    beating.publish({"state": "registered"}, now=True)
    assert alarms(home) == []
    eventually(lambda: (beating.wait_out(Retryable("identity.db: locked")), alarms(home))[1])
    assert alarms(home) == [{"worker": worker, "text": "identity.db: locked"}]
    assert f"{worker}: identity.db: locked" in observe(home.layout, SystemClock())["reasons"]
    beating.publish({"state": "registered"}, now=True)
    assert alarms(home) == []
    lock.release()


def alarms(home: Home) -> object:
    return observe(home.layout, SystemClock())["alarms"]
