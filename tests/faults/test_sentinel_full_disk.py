"""The disk is full to the last block: hearts beat on, nobody is killed for it, and it passes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.status_file import beat_of
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.errors import Retryable
from runtime.layout import WORKERS
from tests.support.harness import Home, Process, eventually, kill_tree
from tests.support.supervised import HANG_AFTER_S, PROGRAMS, QUICK, Runtime, kill, switched_on


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 6 MB, where this machine lets us make one."""
    place = folder / "d"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_kills_nobody_and_even_a_worker_that_starts_on_it_beats(small_disk: Path) -> None:
    home = Home(small_disk / "h", QUICK + "\n[store]\nmin_free_bytes = 0\n")
    runtime = Runtime(home)
    try:
        before = {program: runtime.wait_for(program) for program in PROGRAMS}
        eventually(runtime.all_running, what="all stand for a while")
        _fill(small_disk / "rubbish")
        kill(before["refresh"])
        fresh = runtime.wait_for("refresh", other_than=before["refresh"])
        looks = home.layout.status_file("sentinel").stat().st_mtime_ns
        eventually(
            lambda: home.layout.status_file("sentinel").stat().st_mtime_ns > looks + 2 * HANG_AFTER_S * 10**9,
            40,
            "the sentinel looked for twice the patience that it has",
        )
        now = {worker: runtime.pid(worker) for worker in WORKERS}
        assert now == {worker: before[worker] for worker in WORKERS} | {"refresh": fresh}
        (small_disk / "rubbish").unlink()
        eventually(lambda: home.edgectl("send", "--stream", "s", "there is room again").returncode == 0, 30)
    finally:
        runtime.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as rubbish:
        try:
            while rubbish.write(bytes(4096)):
                pass
        except OSError:
            pass


NOWHERE_ELSE = """
for place in /tmp /var/tmp; do
    mount --rbind $place $place && mount -o remount,bind,ro $place || exit 42
done
exec "$@"
"""


def test_a_disk_without_a_byte_left_anywhere_keeps_nobody_from_starting(small_disk: Path) -> None:
    """supervisord looked for a temporary folder in vain, and ended: no room was ever made again."""
    home = Home(small_disk / "h", QUICK + "\n[store]\nmin_free_bytes = 0\n")
    _fill(small_disk / "rubbish")
    up = Process(
        "unshare", "-m", "sh", "-c", NOWHERE_ELSE, "sh",
        sys.executable, "-m", "runtime", "--home", str(home.folder), "up",
        log=small_disk.with_name("up.log"), cwd=small_disk, TMPDIR=str(small_disk),
    )  # fmt: skip
    try:
        supervisor = Supervisor(home.layout.supervisor_socket, timeout_s=15)
        pids = eventually(lambda: _pids(supervisor) if up.running() else {}, 40, "every program has started")
        for program, pid in pids.items():
            status = home.layout.status_file(program)
            eventually(lambda s=status, p=pid: beat_of(s, p), 40, f"{program} beats")
    finally:
        kill_tree(up.pid)
        up.close()


def _pids(supervisor: Supervisor) -> dict[str, int]:
    with contextlib.suppress(Retryable):
        found = {name: program.pid for name, program in switched_on(supervisor.programs()).items()}
        return found if all(found.values()) else {}
    return {}
