"""`make image`: the image built twice and booted as a machine, from power on to the first delivered message.

    python -m tests.machine.image [--image STEM] [--cuts N] [--seed N]

Needs root, mmdebstrap, squashfs-tools and user-mode-linux. User Mode Linux stands for a board: its kernel
starts the image's initramfs, with the modules it needs appended. The disk is a file, larger than the image.
Booted are: a new device, with the stand-in cloud beside it; the same one again; another one of the same
image; a slot on trial that confirms itself; slots that hang, or never become well, which have to come back.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.packaging.__main__ import main as packaging
from deploy.packaging.image import PARTITIONS, cpio, start_of
from deploy.packaging.lock import TOP
from tests.machine import plug
from tests.support.harness import Cloud, short_folder

LARGEST_SLOT_BYTES = 65_000_000
FIRST_STORED_S = 45.0
DISK_BYTES = 512 << 20
BOOT_S = 400.0
MODULES = ("kernel/fs/squashfs/squashfs.ko",)
TOOLS = ("linux.uml", "mmdebstrap", "mksquashfs", "unsquashfs", "debugfs")

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
TimeoutStartSec=380
"""
DOCUMENTED = {
    *("/state", "/boot", "/var/lib/edge-runtime", "/etc/edge-runtime", "/var/lib/systemd", "/etc/machine-id"),
    *("/run", "/tmp", "/var/tmp", "/var/log", "/dev", "/dev/shm"),
}
"""What is writable, by docs/deploy.md."""


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


class Verdicts:
    """One line for each thing that was tried."""

    def __init__(self) -> None:
        self.fine = self.failed = 0

    def check(self, what: str, *, holds: bool, seen: object = "") -> None:
        self.fine += holds
        self.failed += not holds
        print(f"{'fine' if holds else 'FAILED':6}  {what}{f' ({seen})' if seen != '' else ''}", flush=True)


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

    def choice(self) -> str:
        with self.boot_partition() as debugfs:
            return " ".join(debugfs("cat choice").split())

    def power_on(self, *arguments: str, units: dict[str, str] | None = None) -> subprocess.Popen[str]:
        initramfs = self.folder / "initramfs"
        trial = gzip.compress(cpio(trial_files(self.folder, units or {}), 0))
        initramfs.write_bytes((self.image.with_name(f"{self.image.name}.initramfs")).read_bytes() + trial)
        return plug.power_on(
            "linux.uml", self.folder, "mem=640M", f"initrd={initramfs}", "rdinit=/trial.init", "panic=1",
            f"ubd0={self.disk}", "systemd.show_status=0", "systemd.watchdog_sec=0",
            f"trial.python={sys.executable}", *arguments,
        )  # fmt: skip

    def boot(
        self,
        *arguments: str,
        units: dict[str, str] | None = None,
        until: str = "",
        patience_s: float = BOOT_S,
    ) -> Boot:
        """From power on to power off, or until a line on the console, where the plug is pulled."""
        boot, began_s = Boot(), time.monotonic()
        machine = self.power_on(*arguments, units=units)
        overdue = threading.Timer(patience_s, plug.pull, [machine])
        overdue.start()
        assert machine.stdout is not None
        for line in machine.stdout:
            boot.read(line.strip(), time.monotonic() - began_s)
            if re.search(until or "no slot can be started|Kernel panic", line):
                break
        overdue.cancel()
        plug.pull(machine)
        machine.wait()
        boot.at_s["off"] = time.monotonic() - began_s
        return boot


def trial_files(folder: Path, units: dict[str, str]) -> list[tuple[str, int, bytes]]:
    """What is appended to the initramfs: the modules of this kernel, and a service that reports."""
    modules = next(Path("/usr/lib/uml/modules").iterdir())
    service = TRIAL_SERVICE.format(top=TOP, folder=folder)
    files = {"trial.service": service, **units}
    wants = "trial/multi-user.target.wants"
    return [
        ("modules", 0o040755, b""),
        ("modules/MODULES", 0o100644, "".join(f"{Path(each).name}\n" for each in MODULES).encode()),
        *((f"modules/{Path(each).name}", 0o100644, (modules / each).read_bytes()) for each in MODULES),
        ("trial.init", 0o100755, TRIAL_INIT.encode()),
        ("trial", 0o040755, b""),
        (wants, 0o040755, b""),
        (f"{wants}/trial.service", 0o120777, b"../trial.service"),
        *((f"trial/{name}", 0o100644, text.encode()) for name, text in files.items()),
    ]


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def build_twice(verdicts: Verdicts) -> Path:
    """Build the image in two folders. Returns the common part of the names of its files."""
    stems = []
    for out in (TOP / "dist", TOP / "dist/again"):
        began_s = time.monotonic()
        if packaging(["--out", str(out), "image"]):
            raise SystemExit("the image cannot be built")
        newest = max(out.glob("edge-image_*.img"), key=lambda path: path.stat().st_mtime)
        stems.append(newest.with_suffix(""))
        print(f"built in {time.monotonic() - began_s:.0f} s: {newest}", flush=True)
    for suffix in ("squashfs", "img", "initramfs"):
        sums = [digest(stem.with_name(f"{stem.name}.{suffix}")) for stem in stems]
        verdicts.check(f"two builds have the same {suffix}", holds=sums[0] == sums[1], seen=sums[0][:16])
    shutil.rmtree(TOP / "dist/again")
    return stems[0]


def check_content(verdicts: Verdicts, image: Path) -> None:
    """What is in the image, and what must not be."""
    slot = image.with_name(f"{image.name}.squashfs")
    size = slot.stat().st_size
    verdicts.check("a slot has 65 MB at most", holds=size <= LARGEST_SLOT_BYTES, seen=f"{size / 1e6:.1f} MB")
    listing = subprocess.run(
        ["unsquashfs", "-lls", str(slot)], capture_output=True, text=True, check=True
    ).stdout
    files = [line.split(None, 5) for line in listing.splitlines() if " squashfs-root" in line]
    unique = re.compile(
        r"/(ssh_host_.*|random-seed|state/.+|var/lib/edge-runtime/.+|var/lib/systemd/.+|boot/.+|dbus/machine-id)$"
    )
    found = [each[-1] for each in files if unique.search(each[-1])]
    verdicts.check("nothing in it makes two devices the same", holds=not found, seen=" ".join(found[:5]))
    sizes = {each[-1].removeprefix("squashfs-root"): each[2] for each in files}
    verdicts.check("its machine-id is empty", holds=sizes.get("/etc/machine-id") == "0")
    with Path(f"{image}.img").open("rb") as disk:
        disk.seek(start_of("edge-state"))
        blank = not any(disk.read(PARTITIONS["edge-state"]))
    verdicts.check("the state partition is blank", holds=blank)


def prepare_cloud(folder: Path) -> Cloud:
    """The stand-in's folder with its keys and its address, to be started in the machine."""
    cloud = Cloud(folder / "cloud")
    cloud.close()
    (folder / "address").write_text(cloud.facts["instance"].partition(":")[0])
    return cloud


def give_configuration(device: Device, cloud: Cloud) -> None:
    """What a person puts beside the kernel: the address of the platform and the token."""
    files = {
        "edge.toml": f'[platform]\ninstance = "{cloud.facts["instance"]}"\n'
        'ca_file = "/etc/edge-runtime/ca.pem"\n'
        'provisioning_token_file = "/etc/edge-runtime/provisioning-token"\n'
        f'[ingest]\ngroup = "edge-producers"\n[upload]\nhttps_port = {cloud.facts["https_port"]}\n'
        "retry_max_s = 2\n[provisioning]\npoll_s = 0.2\nretry_max_s = 2\n[refresh]\nretry_max_s = 2\n",
        "ca.pem": Path(cloud.facts["ca_file"]).read_text(),
        "provisioning-token": str(cloud.facts["provisioning_token"]),
    }
    with device.boot_partition() as debugfs:
        debugfs("mkdir edge-runtime")
        for name, content in files.items():
            source = device.folder / name
            source.write_text(content)
            debugfs(f"write {source} edge-runtime/{name}")


def show(boot: Boot) -> None:
    """The end of a boot that did not do what it should."""
    print("\n".join(f"|   {line}" for line in boot.lines[-40:]), flush=True)


def check_first_boots(verdicts: Verdicts, device: Device, cloud: Cloud) -> Boot:
    """A new device until its first message was delivered, and the same one after a restart."""
    give_configuration(device, cloud)
    first = device.boot("trial=cloud")
    stored_s, delivered_s = first.at_s.get("stored", 999.0), first.at_s.get("delivered", 999.0)
    verdicts.check(
        "power on to the first stored message", holds=stored_s <= FIRST_STORED_S, seen=f"{stored_s:.1f} s"
    )
    code = first.said(r"Verification code: (\S+)")
    verdicts.check("the console shows the verification code", holds=code is not None, seen=code)
    verdicts.check(
        "power on to the first delivered message", holds=delivered_s < 999.0, seen=f"{delivered_s:.1f} s"
    )
    writable = set(first.facts.get("writable", "nothing").split())
    verdicts.check(
        "only what is documented is writable", holds=writable <= DOCUMENTED, seen=writable - DOCUMENTED
    )
    kib = int(first.facts.get("state-kib", 0))
    verdicts.check(
        "the state partition was grown to the disk", holds=kib > 180_000, seen=f"{kib // 1024} MiB"
    )
    verdicts.check("no unit failed", holds=first.facts.get("failed") == "", seen=first.facts.get("failed"))
    if "delivered" not in first.at_s:
        show(first)
    second = device.boot()
    names = ("machine-id", "hostname", "store", "device")
    kept = all(first.facts.get(name) and first.facts.get(name) == second.facts.get(name) for name in names)
    verdicts.check("after a restart it is the same device", holds=kept, seen=second.facts.get("device"))
    if not kept:
        show(second)
    return second


def check_other_device(verdicts: Verdicts, other: Device, device: Boot) -> None:
    """Another device of the same image shares nothing that is unique."""
    boot = other.boot()
    for name in ("machine-id", "hostname", "store"):
        value = boot.facts.get(name)
        verdicts.check(
            f"another device has another {name}", holds=bool(value) and value != device.facts.get(name)
        )


def main() -> int:
    """Exit status 0 if all was fine, 2 where it cannot be tried here."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.image", description=__doc__)
    parser.add_argument(
        "--image", type=Path, metavar="STEM", help="dist/edge-image_...: boot it, build nothing"
    )
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"cannot be tried here: needs root and {', '.join(missing or TOOLS)}", file=sys.stderr)
        return 2
    if not plug.starts("linux.uml"):
        print(f"cannot be tried here: user-mode-linux {plug.STARTS_NOT}", file=sys.stderr)
        return 2
    verdicts = Verdicts()
    image = arguments.image.absolute() if arguments.image else build_twice(verdicts)
    check_content(verdicts, image)
    with short_folder() as folder:
        device = Device(folder, "device", image)
        booted = check_first_boots(verdicts, device, prepare_cloud(folder))
        check_other_device(verdicts, Device(folder, "other", image), booted)
    print(f"{verdicts.fine} of {verdicts.fine + verdicts.failed} trials of the image were fine")
    return 1 if verdicts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
