"""A disk that is read-only at boot, as the kernel mounts one that fails: nobody guesses, and it heals."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.producer import Producer
from tests.harness import Home, eventually
from tests.supervised import PROGRAMS, Runtime


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
