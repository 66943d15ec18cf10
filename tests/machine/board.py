"""A board for the image: User Mode Linux with a disk of its own, a console that is read, and a plug.

Its kernel starts the initramfs of the image; what the test brings (modules, a service that reports) is
appended to it as a second archive, and comes to life below /run. `/` of this machine is at /run/host in it.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.packaging.image import PARTITIONS, cpio, start_of
from deploy.packaging.lock import TOP
from deploy.packaging.targets import Target
from deploy.packaging.tree import Origin
from deploy.packaging.update import bundle_of_image
from tests.machine import plug

DISK_BYTES = 512 << 20
BOOT_S = 400.0
SHOWN = "shown"
"""File by which the machine learns that a person has seen the code on its console."""
NEWER = "99.0.0"
"""The version of a bundle, which holds the same image."""
MODULES = ("kernel/fs/squashfs/squashfs.ko",)

TRIAL_INIT = """#!/bin/busybox sh
busybox mkdir -p /run
busybox mount -t tmpfs -o mode=0755,nosuid,nodev run /run
busybox mkdir -p /run/host /run/systemd
busybox mount -t hostfs none /run/host
busybox cp -r /trial/. /run/systemd/system
exec /init
"""
TRIAL_SERVICE = """[Unit]
Description=Trial
After=basic.target

[Service]
Type=oneshot
ExecStart=/bin/sh /run/host{top}/tests/machine/image_guest.sh {folder}
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=900
"""


@dataclass
class Boot:
    """What the console showed from power on to power off."""

    facts: dict[str, str] = field(default_factory=dict)
    at_s: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def read(self, line: str, at_s: float) -> None:
        word, _, rest = line.partition(" ")
        if word == "EVENT":
            self.at_s[rest] = at_s
        elif word == "FACT":
            name, _, value = rest.partition(" ")
            self.facts[name] = value.strip()
        self.lines.append(f"{at_s:6.1f} {line}")

    def said(self, pattern: str) -> str | None:
        """The first line on the console that holds the pattern: its group, or all of the match."""
        matches = (re.search(pattern, line) for line in self.lines)
        return next((match[match.lastindex or 0] for match in matches if match), None)


class Device:
    """A machine with a disk that was written from the image."""

    def __init__(self, folder: Path, name: str, image: Path) -> None:
        self.folder, self.image = folder, image
        self.disk = folder / f"{name}.img"
        subprocess.run(["cp", "--sparse=always", f"{image}.img", str(self.disk)], check=True)
        with self.disk.open("r+b") as file:
            file.truncate(DISK_BYTES)

    def write(self, partition: str, source: Path) -> None:
        """Write a file into a partition, as an update does."""
        with self.disk.open("r+b") as disk, source.open("rb") as file:
            disk.seek(start_of(partition))
            shutil.copyfileobj(file, disk, 1 << 20)

    @contextmanager
    def boot_partition(self) -> Iterator[Callable[[str], str]]:
        """Commands of debugfs on the boot partition."""
        file = self.folder / "boot.ext4"
        with self.disk.open("rb") as disk, file.open("wb") as copy:
            disk.seek(start_of("edge-boot"))
            copy.write(disk.read(PARTITIONS["edge-boot"]))
        subprocess.run(["e2fsck", "-fp", str(file)], capture_output=True, check=False)

        def debugfs(command: str) -> str:
            done = subprocess.run(["debugfs", "-w", "-R", command, str(file)], capture_output=True, text=True)
            return done.stdout

        yield debugfs
        self.write("edge-boot", file)

    def put_boot_file(self, name: str, content: str) -> None:
        source = self.folder / "put"
        source.write_text(content)
        with self.boot_partition() as debugfs:
            debugfs(f"rm {name}")
            debugfs(f"write {source} {name}")

    def configure(self, files: dict[str, str]) -> None:
        """Put files beside the kernel, as a person does for one device."""
        with self.boot_partition() as debugfs:
            debugfs("mkdir edge-runtime")
            for name, content in files.items():
                source = self.folder / name
                source.write_text(content)
                debugfs(f"write {source} edge-runtime/{name}")

    def choice(self) -> str:
        with self.boot_partition() as debugfs:
            return " ".join(debugfs("cat choice").split())

    @contextmanager
    def powered(
        self, *arguments: str, drop_ins: dict[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """The machine, switched on; its plug is pulled at the end, whatever ends it."""
        initramfs = self.folder / "initramfs"
        trial = gzip.compress(cpio(trial_files(self.folder, drop_ins or {}), 0))
        initramfs.write_bytes((self.image.with_name(f"{self.image.name}.initramfs")).read_bytes() + trial)
        machine = plug.power_on(
            "linux.uml", self.folder, "mem=640M", f"initrd={initramfs}", "rdinit=/trial.init", "panic=1",
            f"ubd0={self.disk}", "systemd.show_status=0", "systemd.watchdog_sec=0",
            f"trial.python={sys.executable}", *arguments,
        )  # fmt: skip
        try:
            yield machine
        finally:
            plug.pull(machine)
            machine.wait()

    def boot(
        self,
        *arguments: str,
        drop_ins: dict[str, str] | None = None,
        until: str = "",
        patience_s: float = BOOT_S,
        cut_after: str = "",
        cut_s: float = 0.0,
    ) -> Boot:
        """From power on to power off, or until a line on the console, where the plug is pulled.

        `cut_after`: a line, so long after which it is pulled; empty: after power on. With 0 s it is not.
        """
        boot, began_s = Boot(), time.monotonic()
        with self.powered(*arguments, drop_ins=drop_ins) as machine:
            overdue = threading.Timer(patience_s, plug.pull, [machine])
            cut = threading.Timer(cut_s, plug.pull, [machine])
            overdue.start()
            assert machine.stdout is not None
            for line in machine.stdout:
                if cut_s and cut.ident is None and re.search(cut_after, line):
                    cut.start()
                boot.read(line.strip(), time.monotonic() - began_s)
                if "Verification code:" in line:
                    (self.folder / SHOWN).touch()
                if re.search(until or "no slot can be started|Kernel panic", line):
                    break
            overdue.cancel()
            cut.cancel()
        boot.at_s["off"] = time.monotonic() - began_s
        return boot


def end_in_order() -> None:
    """SIGTERM ends the program as Ctrl-C does: no machine goes on without it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def trial_files(folder: Path, drop_ins: dict[str, str]) -> list[tuple[str, int, bytes]]:
    """What is appended to the initramfs: the modules of this kernel, and a service that reports.

    `drop_ins` change units of the image, by their names.
    """
    modules = next(Path("/usr/lib/uml/modules").iterdir())
    service = TRIAL_SERVICE.format(top=TOP, folder=folder)
    wants = "trial/multi-user.target.wants"
    return [
        ("modules", 0o040755, b""),
        ("modules/MODULES", 0o100644, "".join(f"{Path(each).name}\n" for each in MODULES).encode()),
        *((f"modules/{Path(each).name}", 0o100644, (modules / each).read_bytes()) for each in MODULES),
        ("trial.init", 0o100755, TRIAL_INIT.encode()),
        ("trial", 0o040755, b""),
        (wants, 0o040755, b""),
        (f"{wants}/trial.service", 0o120777, b"../trial.service"),
        ("trial/trial.service", 0o100644, service.encode()),
        *((f"trial/{unit}.d", 0o040755, b"") for unit in drop_ins),
        *((f"trial/{unit}.d/trial.conf", 0o100644, text.encode()) for unit, text in drop_ins.items()),
    ]


def signed_bundle(folder: Path, image: Path) -> tuple[Path, str]:
    """A bundle of the image's slot as a newer version, and the key that signed it."""
    public, secret = folder / "key.pub", folder / "key.sec"
    subprocess.run(
        ["minisign", "-G", "-W", "-p", str(public), "-s", str(secret)], check=True, capture_output=True
    )
    os.environ["EDGE_UPDATE_KEY"] = str(secret)
    slot = image.with_name(f"{image.name}.squashfs")
    bundle = bundle_of_image(slot, Target("amd64", "12"), Origin(NEWER, "", 0, ""), folder)
    return bundle, public.read_text().splitlines()[1]
