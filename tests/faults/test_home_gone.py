"""The disk of a home goes away under a living runtime: nothing is made in the empty folder that is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.home_mount import (
    HomeGone,
    check_home,
    check_mounts,
    home_changed,
    remember_home,
)
from runtime.adapters.process.status_file import StatusFile
from runtime.errors import UsageError
from tests.support.harness import Home, eventually
from tests.support.supervised import WORKING, Runtime, kill


@pytest.fixture
def a_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, where this machine lets us make one."""
    place = folder / "h"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def test_no_second_runtime_is_made_in_the_folder_that_a_lost_mount_leaves(a_disk: Path, folder: Path) -> None:
    """Sockets, logs, the lock and a store without a message were there within seconds."""
    home = Home(a_disk)
    runtime = Runtime(home, WORKING)
    log = a_disk / "log/supervisord.log"
    try:
        runtime.all_at_work()
        pids = {worker: runtime.pid(worker) for worker in WORKING}
        with log.open() as said:  # the disk stays for as long as somebody has a file of it open
            subprocess.run(["umount", "-l", str(a_disk)], check=True)
            kill(pids["refresh"])
            eventually(lambda: "its mount is gone" in said.read(), 20, "supervisord has noticed")
            eventually(lambda: not any(map(_lives, pids.values())), 20, "its workers have ended")
            assert runtime.process.running(), "and it waits for the disk"
        assert list(a_disk.iterdir()) == []
    finally:
        runtime.close()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_ends_where_the_home_is_another_folder_and_a_state_made_again_is_none(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_HOME", "")
    remember_home(home.folder)
    check_home(home.folder)
    home.layout.state.rmdir()
    check_home(home.folder)  # a person removed it: that is made again
    status = StatusFile(home.layout.status_file("x"), "x")
    status.progress({}, now=True)
    home.folder.rename(home.folder.with_name("elsewhere"))
    home.folder.mkdir()
    assert home_changed(home.folder)
    with pytest.raises(HomeGone, match="did its mount go away"):
        status.progress({}, now=True)
    assert list(home.folder.iterdir()) == []
    os.environ["SUPERVISOR_HOME"] = ""
    check_home(home.folder)  # nobody supervises: a new home is a new home


@pytest.mark.parametrize("options", ["defaults", "nofail,x-systemd.device-timeout=5"])
@pytest.mark.parametrize("declared", ["", "/state", "/.."])
def test_a_home_on_a_declared_mount_point_that_is_not_mounted_is_refused(
    home: Home, declared: str, options: str
) -> None:
    point = Path(f"{home.folder}{declared}").resolve()
    fstab = home.folder.with_name("fstab")
    fstab.write_text(f"# comment\nproc /proc proc defaults 0 0\n/dev/sda9 {point} ext4 {options} 0 2\n")
    with pytest.raises(UsageError, match=f"{point} is a mount point by .*nothing is mounted there"):
        check_mounts(home.folder, fstab)
    fstab.write_text(f"/dev/sda9 {point} ext4 noauto 0 2\n/dev/sda1 / ext4 defaults 0 1\n")
    check_mounts(home.folder, fstab)
    check_mounts(home.folder, fstab.with_name("nowhere"))
