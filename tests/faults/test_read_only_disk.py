"""A disk that is read-only at boot, as the kernel mounts one that fails: nobody guesses, and it heals."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import StatusFile
from runtime.adapters.supervisor.internals import RunningSupervisord
from runtime.adapters.supervisor.plugin import TICKS_TO_KILL, SentinelWatch
from runtime.operations import overview
from runtime.operations.overview import FRESH_S
from runtime.producer import Producer, Unavailable
from tests.support.harness import Home, eventually, mount_ext4, short_folder
from tests.support.store_tools import ObedientClock
from tests.support.supervised import HANG_AFTER_S, PROGRAMS, QUICK, Runtime

DISK_BYTES = 64 * 1024 * 1024


@pytest.fixture
def ran(home: Home) -> Home:
    """A home that has been at work, and in which nobody runs."""
    runtime = Runtime(home)
    try:
        with Producer(home.config.producer_endpoint(), retry_for_s=40) as producer:
            producer.put("before")
        runtime.all_at_work()
        assert home.edgectl("down", timeout_s=60).returncode == 0
    finally:
        runtime.close()
    return home


@pytest.fixture
def failing_disk() -> Iterator[Home]:
    """A home on an ext4 of its own."""
    with short_folder() as folder:
        place = folder / "disk"
        place.mkdir()
        try:
            mount_ext4(folder / "image", place, DISK_BYTES)
            yield Home(place / "home", QUICK + "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


class ReadOnly:
    """A folder as the root of a mount, which may be written or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        if subprocess.run(["mount", "--bind", self._folder, self._folder], capture_output=True).returncode:
            pytest.skip("mounting needs root")
        self.mount("ro")

    def mount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how},bind", self._folder], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self._folder], check=False)


@pytest.fixture
def nothing_writable(ran: Home) -> Iterator[Home]:
    disk = ReadOnly(ran.folder)
    yield ran
    disk.close()


@pytest.fixture
def state_disk(ran: Home) -> Iterator[ReadOnly]:
    disk = ReadOnly(ran.layout.state)
    yield disk
    disk.close()


def test_up_says_in_one_sentence_that_it_cannot_write_and_doctor_what_helps(nothing_writable: Home) -> None:
    refused = nothing_writable.edgectl("up")
    assert refused.returncode == 2
    assert "read-only" in refused.stderr and refused.stderr.count("\n") == 1
    seen = nothing_writable.edgectl("doctor", timeout_s=60)
    assert "remount,rw" in seen.stdout
    assert "chown" not in seen.stdout, "rights are not what is wrong"
    assert "damaged" not in seen.stdout, "nor is a file"


def test_a_state_folder_that_is_read_only_at_boot_kills_nobody_and_is_used_once_it_is_not(
    ran: Home, state_disk: ReadOnly
) -> None:
    runtime = Runtime(ran)
    try:
        before = {program: runtime.wait_for(program) for program in PROGRAMS}
        status = ran.edgectl("status")
        assert status.returncode == 1 and "store: " in status.stdout
        state_disk.mount("rw")
        with Producer(ran.config.producer_endpoint(), retry_for_s=60) as producer:
            producer.put("after")
        eventually(lambda: {name: runtime.pid(name) for name in PROGRAMS} == before, 5, "the same processes")
    finally:
        runtime.close()


def test_a_disk_that_gives_up_under_a_living_runtime_kills_nobody_and_producers_hear_of_it(
    failing_disk: Home,
) -> None:
    """Nobody could beat, all were killed, none could be started again, and producers met silence."""
    home = failing_disk
    runtime = Runtime(home)
    try:
        runtime.all_at_work()
        before = {name: runtime.pid(name) for name in PROGRAMS}
        with Producer(home.config.producer_endpoint(), retry_for_s=HANG_AFTER_S + 1) as producer:
            producer.put("before")
            subprocess.run(["mount", "-o", "remount,abort", str(home.folder.parent)], check=True)
            for _ in range(2):
                with pytest.raises(Unavailable, match="Read-only"):
                    producer.put("refused")
        assert {name: runtime.pid(name) for name in PROGRAMS} == before, "the same processes"
        told = home.edgectl("status")
        assert told.returncode == 1 and "disk: read-only" in told.stdout
        assert "progress for" not in told.stdout
    finally:
        runtime.close()


def test_a_disk_that_is_read_only_for_the_looker_alone_is_not_called_so(home: Home) -> None:
    """To a monitor that may write nowhere (ProtectSystem=strict) a healthy runtime had lost its disk."""
    layout, clock = home.layout, ObedientClock()
    StatusFile(layout.status_file("ingest"), "ingest", clock).progress({})
    lock = Lock(layout.lock("ingest"))
    disk = ReadOnly(layout.run)
    try:
        assert not overview.observe(layout, clock)["disk"]["read_only"]
        clock.boot += FRESH_S
        assert overview.observe(layout, clock)["disk"]["read_only"]
    finally:
        disk.close()
        lock.release()


def test_a_sentinel_that_cannot_beat_is_killed_only_once_it_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/sentinel.status").touch()
    disk = ReadOnly(tmp_path / "run")
    sentinel = subprocess.Popen(["sleep", "60"])
    group = SimpleNamespace(processes={"sentinel": sentinel})
    options = SimpleNamespace(here=str(tmp_path), logger=SimpleNamespace(warn=lambda words: None))
    supervisord = SimpleNamespace(process_groups={"sentinel": group}, options=options)
    watch = SentinelWatch(RunningSupervisord(supervisord))
    try:
        sent: list[int] = []  # who was killed a moment ago still looks alive
        with monkeypatch.context() as patched:
            patched.setattr(watch, "_signal", lambda pid, number: sent.append(number))
            for _ in range(2 * TICKS_TO_KILL):
                watch(None)
        assert sent == []
        disk.mount("rw")
        for _ in range(TICKS_TO_KILL + 1):
            watch(None)
        assert sentinel.wait(5) < 0
    finally:
        disk.close()
        sentinel.kill()
        sentinel.wait()
