"""A real kernel, a real file system, and a plug that is really pulled: power cuts with User Mode Linux.

Debian's package `user-mode-linux` boots a kernel as a process. In it ingest works on an ext4 of its own while
a producer sends; the console tells every acknowledgement. At a random moment the kernel is killed: what its
page cache had not written is gone, as after a power cut. The next boot tells what is on disk.
With a compiler at hand it starts on processors with AMX too (tests/machine/whole_xstate.c says how).

    python -m tests.machine.plug --cuts 35                         # nothing may be missing
    python -m tests.machine.plug --cuts 9 --synchronous NORMAL     # shows that it would notice

Without installing it: apt-get download user-mode-linux && dpkg -x user-mode-linux_*.deb X, and then
--kernel X/usr/bin/linux.uml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.harness import short_folder

TOP = Path(__file__).resolve().parents[2]
DISK_BYTES = 128 * 1024 * 1024
BOOT_S = 60.0
STARTS_NOT = "starts no program here (on a processor with AMX it needs cc)"
SHIM = Path(__file__).with_name("whole_xstate.c")
A_BOOT = 1_000_000
"""Numbers of one boot's messages lie apart from those of the next."""


@dataclass
class Boot:
    """What the console said from power on to power off."""

    integrity: str = "ok"
    stored: list[tuple[int, int]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    other: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "ACK" and rest.isdigit():
            self.acknowledged.append(int(rest))
        elif word == "STORED":
            self.stored = [(first, last) for first, last in json.loads(rest)]
        elif word == "INTEGRITY":
            self.integrity = rest
        elif word == "READY":
            self.ready.set()
        else:
            self.other.append(line)


class Machine:
    """A small machine with a disk."""

    def __init__(self, folder: Path, kernel: str, level: str) -> None:
        self._folder = folder
        self._disk = folder / "disk.img"
        self._init = folder / "init"
        self._kernel, self._level = kernel, level
        with self._disk.open("wb") as disk:
            disk.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", str(self._disk)], check=True)
        self._init.write_text(f"#!/bin/sh\ncd {TOP} && exec {sys.executable} -m tests.machine.plug_guest\n")
        self._init.chmod(0o755)

    def run(self, number: int, acknowledgements: int, *, look: bool = False) -> Boot:
        """Power on; pull the plug after so many acknowledgements (or once it has told what it found)."""
        boot = Boot()
        machine = power_on(
            self._kernel, self._folder, "mem=256M", "rw", f"init={self._init}", f"ubd0={self._disk}",
            f"PLUG_LEVEL={self._level}", f"PLUG_BASE={number * A_BOOT}",
            f"PLUG_LOOK={'yes' if look else 'no'}",
        )  # fmt: skip
        assert machine.stdout is not None
        overdue = threading.Timer(BOOT_S, pull, [machine])
        overdue.start()
        for line in machine.stdout:
            boot.hear(line)
            if len(boot.acknowledged) >= acknowledgements and boot.ready.is_set():
                break
        pull(machine)
        for line in machine.stdout:  # what the console had told before the cut was told
            boot.hear(line)
        overdue.cancel()
        machine.wait()
        if not boot.ready.is_set():
            raise SystemExit("the small machine does not come up:\n" + "".join(boot.other[-20:]))
        return boot


def starts(kernel: str) -> bool:
    """Whether such a kernel starts a program here."""
    with short_folder() as folder:
        init = folder / "init"
        init.write_text("#!/bin/sh\necho STARTS\nsleep 9\n")
        init.chmod(0o755)
        machine = power_on(kernel, folder, "mem=64M", "ro", f"init={init}", "panic=1")
        assert machine.stdout is not None
        overdue = threading.Timer(BOOT_S, pull, [machine])
        overdue.start()
        found = any(line.strip() == "STARTS" for line in machine.stdout)
        overdue.cancel()
        pull(machine)
        machine.wait()
        return found


def power_on(kernel: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """This machine's root is its root; its console is our pipe."""
    shim = folder / "whole_xstate.so"
    if not shim.exists() and (compiler := shutil.which("cc")):
        subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", "-o", str(shim), str(SHIM)], check=True)
    return subprocess.Popen(
        [kernel, "rootfstype=hostfs", "rootflags=/", "con0=null,fd:1", "con=null", "quiet", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        env={**os.environ, **({"LD_PRELOAD": str(shim)} if shim.exists() else {})},
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def pull(machine: subprocess.Popen[str]) -> None:
    """The kernel and its helpers are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(machine.pid, signal.SIGKILL)


def run(kernel: str, cuts: int, seed: int, level: str, folder: Path) -> int:
    """How many cuts lost something that was acknowledged, or left a database that is not in order."""
    chance = random.Random(seed)
    machine = Machine(folder, kernel, level)
    acknowledged: set[int] = set()
    bad = 0
    for number in range(1, cuts + 2):
        began_s = time.monotonic()
        last = number == cuts + 1
        boot = machine.run(number, 0 if last else chance.randrange(1, 400), look=last)
        missing = {n for n in acknowledged if not any(first <= n <= end for first, end in boot.stored)}
        if number > 1:
            bad += bool(missing) or boot.integrity != "ok"
            print(
                f"cut {number - 1:3}: {len(acknowledged)} acknowledged, {len(missing)} missing, integrity "
                f"{boot.integrity} ({time.monotonic() - began_s:.1f} s)",
                flush=True,
            )
        acknowledged = (acknowledged - missing) | set(boot.acknowledged)
    return bad


def main() -> int:
    """Exit status 0 if every cut was survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.plug", description=__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kernel", default=shutil.which("linux.uml") or shutil.which("linux"))
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL", "OFF"), default="FULL")
    arguments = parser.parse_args()
    if not arguments.kernel:
        print("user-mode-linux is not installed; see python -m tests.machine.plug --help", file=sys.stderr)
        return 2
    if not starts(arguments.kernel):
        print(f"{arguments.kernel} {STARTS_NOT}", file=sys.stderr)
        return 2
    with short_folder() as folder:
        bad = run(arguments.kernel, arguments.cuts, arguments.seed, arguments.synchronous, folder)
    print(f"{bad} of {arguments.cuts} cuts lost something acknowledged (synchronous={arguments.synchronous})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
