"""The whole runtime as a device runs it, under supervisord and connected to the stand-in hub; and what its
processes use, by the kernel's own count.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.adapters.process.process import written_bytes
from runtime.adapters.process.status_file import read_status
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.bench.upload import Rig, wait_for
from runtime.errors import EdgeError

START_S = 60.0
SETTLE_S = 8.0
"""Whatever a start leaves to do is done after this time."""


class ResourceUse(NamedTuple):
    """What processes have used so far."""

    cpu_s: float
    wake_ups: int
    written_bytes: int


@contextlib.contextmanager
def whole(rig: Rig) -> Iterator[list[int]]:
    """The runtime in the rig's home, with its hub up; yields its processes, supervisord first."""
    up = rig.run(sys.executable, "-m", "runtime", "--home", str(rig.layout.home), "up")
    try:
        wait_for(lambda: (read_status(rig.layout.status_file("upload")) or {}).get("state") == "up", START_S)
        wait_for(lambda: len(_processes(rig)) >= 5, START_S)
        time.sleep(SETTLE_S)
        yield [up.pid, *_processes(rig)]
    finally:
        up.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            up.wait(START_S)


def _processes(rig: Rig) -> list[int]:
    try:
        programs = Supervisor(rig.layout.supervisor_socket).programs()
    except EdgeError:
        return []
    return [program.pid for program in programs.values() if program.state == "RUNNING"]


def used(processes: list[int]) -> ResourceUse:
    """What these processes have used, all their threads together."""
    threads = [path for pid in processes for path in Path(f"/proc/{pid}/task").iterdir()]
    cpu_ns = sum(int((path / "schedstat").read_text().split()[0]) for path in threads)
    return ResourceUse(
        cpu_ns / 1e9,
        sum(_field(path / "status", "voluntary_ctxt_switches") for path in threads),
        sum(written_bytes(pid) or 0 for pid in processes),
    )


def shared_out_bytes(processes: list[int]) -> int:
    """Memory of these processes, each shared page divided among those that share it (PSS)."""
    return 1024 * sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in processes)


def _field(path: Path, name: str) -> int:
    """A number in a file of lines `name: number unit`."""
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def flush_file_system(place: Path) -> None:
    """Have the kernel write what it holds back: it counts for who caused it, not for the next."""
    subprocess.run(["sync", "-f", str(place)], check=False)
