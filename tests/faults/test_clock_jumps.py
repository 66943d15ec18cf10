"""Real workers whose wall clock lies: 1970 after boot, ten years ahead, ten years behind, set while they run.

libfaketime stands between them and the wall clock. Their boot clock stays true, as a kernel's does.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.status_file import read_status
from runtime.layout import WORKERS
from runtime.producer import Producer
from tests.support.harness import Cloud, Home, eventually, require_tool

SAS_S, TOKEN_S = 10.0, 15.0
TEN_YEARS = 3652


class Clock:
    """The wall clock of every process that is started with its `environment`."""

    def __init__(self, file: Path) -> None:
        require_tool("faketime")
        self._file = file
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        self.environment: dict[str, Any] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nor the boot clock
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # nor waits for the interpreter's lock
            "NO_FAKE_STAT": "1",
        }

    def set(self, fake: str) -> None:
        """As libfaketime says it: `+0` is the true time, `-10d` ten days behind, `@...` a date."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(fake + "\n")
        fresh.replace(self._file)


class Running:
    """A device at work under that clock."""

    def __init__(self, cloud: Cloud, device: Home, clock: Clock) -> None:
        self.cloud, self.device, self.clock = cloud, device, clock
        self.reader = IdentityReader(device.layout)
        self.sent = 0

    def start(self) -> None:
        for worker in WORKERS:
            self.device.start_worker(worker, **self.clock.environment)
        eventually(self.device.layout.producer_socket.exists)

    def send(self, count: int = 5) -> None:
        with Producer(f"ipc://{self.device.layout.producer_socket}") as producer:
            producer.put_many([str(self.sent + n).encode() for n in range(count)])
        self.sent += count

    def arrived(self) -> bool:
        return {int(m.payload) for m in self.cloud.messages()} == set(range(self.sent))

    def told(self, worker: str) -> dict[str, object]:
        return read_status(self.device.layout.status_file(worker)) or {}

    def generation(self) -> int:
        found = self.reader.hub_credentials()
        return found.generation if found else 0

    def connections(self) -> list[tuple[int, str]]:
        path = f"file:{self.cloud.folder / 'devcloud.db'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=10)) as db:
            return db.execute(
                "SELECT code, coalesce(end_reason, '') FROM connections ORDER BY seq"
            ).fetchall()


@pytest.fixture
def running(cloud: Cloud, device: Home, folder: Path) -> Iterator[Running]:
    device.write_config(cloud.config_toml(provisioning="", refresh=""))
    yield Running(cloud, device, Clock(folder / "clock"))


def test_the_fake_clock_is_the_wall_clock_only(folder: Path) -> None:
    clock = Clock(folder / "clock")
    clock.set("@1970-01-01 00:00:20")
    code = "import time; print(time.time() < 1e6, time.clock_gettime(time.CLOCK_BOOTTIME))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **clock.environment}
    ).stdout.split()
    import time

    assert said[0] == "True" and abs(float(said[1]) - time.clock_gettime(time.CLOCK_BOOTTIME)) < 20


def test_a_device_that_boots_in_1970_stores_meanwhile_is_registered_once_its_clock_is_set_and_stays_who_it_is(
    running: Running,
) -> None:
    running.clock.set("@1970-01-01 00:00:20")
    running.start()
    running.send()
    eventually(lambda: running.told("provisioning").get("trouble") == "no certificate counts by our clock")
    assert "not yet valid" in str(running.told("provisioning")["reason"])
    assert running.cloud.waiting() == []
    running.clock.set("+0")
    eventually(running.cloud.waiting, 10, "it asks as soon as its clock is set")
    running.cloud.approve_all()
    eventually(running.arrived, 30)
    running.device.stop()
    running.clock.set("@1970-01-01 00:00:20")
    running.start()
    running.send()
    eventually(lambda: running.told("upload").get("device"), what="it knows who it is")
    running.clock.set("+0")
    eventually(running.arrived, 30)
    assert running.cloud.waiting() == [], "and asks nobody to approve it again"
    assert {code for code, _ in running.connections()} == {0}


def test_a_clock_that_jumps_ten_years_either_way_while_tokens_live_for_seconds_costs_nothing(
    running: Running,
) -> None:
    running.cloud.faults(sas_lifetime_s=SAS_S, registration_token_lifetime_s=TOKEN_S)
    running.clock.set("+0")
    running.start()
    eventually(running.cloud.waiting)
    running.cloud.approve_all()
    eventually(running.generation)
    for jump in (f"+{TEN_YEARS}d", f"-{TEN_YEARS}d"):
        running.clock.set(jump)
        before = running.generation()
        running.send()
        eventually(lambda known=before: running.generation() > known, SAS_S, f"renewed in time at {jump}")
        running.send()
        eventually(running.arrived, 20)
    running.clock.set("+0")
    running.send()
    eventually(running.arrived, 20)
    assert running.told("refresh")["state"] == "registered"
    assert {code for code, _ in running.connections()} == {0}, "no CONNECT was refused"
    assert not [why for _, why in running.connections() if "expir" in why.lower()], "no SAS ran out in use"


def test_a_device_with_a_key_of_its_own_delivers_though_its_clock_is_two_days_behind(
    running: Running,
) -> None:
    """Each SAS that it signed was over at birth: it never delivered, and its key was blamed."""
    cloud, device, facts = running.cloud, running.device, running.cloud.facts
    path = f"/workspaces/{facts['workspace']}/devices/certificates/create"
    cloud.call("POST", path, {"deviceId": "keyed-1"})
    with closing(sqlite3.connect(f"file:{cloud.folder / 'devcloud.db'}?mode=ro", uri=True)) as db:
        key = db.execute("SELECT key FROM devices WHERE id = 'keyed-1'").fetchone()[0]
    who = f"HostName={facts['hub_host']};DeviceId={facts['workspace']}:keyed-1"
    device.write_config(
        f'[platform]\nca_file = "{facts["ca_file"]}"\n[identity]\nmode = "connection-string"\n'
        f'connection_string = "{who};SharedAccessKey={key}"\n'
        f"[upload]\nhttps_port = {facts['https_port']}\nretry_max_s = 1\n[refresh]\nretry_max_s = 1\n"
    )
    running.clock.set("-2d")
    running.start()
    running.send()
    eventually(running.arrived, 40)
    eventually(
        lambda: "2 d 0 h behind the server's: set it" in str(running.told("refresh").get("reason")),
        what="the clock is named",
    )
