"""`make image`: the image built twice and booted as a machine, from power on to the first delivered message.

    python -m tests.machine.image [--image STEM] [--cuts N]

Needs root, mmdebstrap, squashfs-tools, minisign and user-mode-linux, which stands for a board: its kernel
starts the image's initramfs, with the modules it needs appended. The disk is a file, larger than the image.
Booted are: a new device, with the stand-in cloud beside it; the same one again; another one of the same
image; a slot on trial that confirms itself; slots that hang, or never become well, which have to come back.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deploy.packaging.__main__ import main as packaging
from deploy.packaging.image import PARTITIONS, start_of
from deploy.packaging.lock import TOP
from tests.machine import image_cuts, plug
from tests.machine.board import BOOT_S, Boot, Device, end_in_order, signed_bundle
from tests.support.harness import Cloud, short_folder

LARGEST_SLOT_BYTES = 65_000_000
FIRST_STORED_S = 45.0
TOOLS = ("linux.uml", "mmdebstrap", "mksquashfs", "unsquashfs", "debugfs", "minisign")
DOCUMENTED = {
    *("/state", "/boot", "/var/lib/edge-runtime", "/etc/edge-runtime", "/var/lib/systemd", "/etc/machine-id"),
    *("/run", "/tmp", "/var/tmp", "/var/log", "/dev", "/dev/shm"),
}
"""What is writable, by docs/deploy.md."""


class Verdicts:
    """One line for each thing that was tried."""

    def __init__(self) -> None:
        self.fine = self.failed = 0

    def check(self, what: str, *, holds: bool, seen: object = "") -> None:
        self.fine += holds
        self.failed += not holds
        print(f"{'fine' if holds else 'FAILED':6}  {what}{f' ({seen})' if seen != '' else ''}", flush=True)


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


def give_configuration(device: Device, cloud: Cloud, key: str) -> None:
    """What a person puts beside the kernel: the address of the platform and the token."""
    tables = {
        "platform": f'instance = "{cloud.facts["instance"]}"\nca_file = "/etc/edge-runtime/ca.pem"\n'
        'provisioning_token_file = "/etc/edge-runtime/provisioning-token"',
        "ingest": 'group = "edge-producers"',
        "update": f'keys = ["{key}"]',
        "upload": f"https_port = {cloud.facts['https_port']}\nretry_max_s = 2",
        "provisioning": "poll_s = 0.2\nretry_max_s = 2",
    }
    files = {
        "edge.toml": "".join(f"[{table}]\n{lines}\n" for table, lines in tables.items()),
        "ca.pem": Path(cloud.facts["ca_file"]).read_text(),
        "provisioning-token": str(cloud.facts["provisioning_token"]),
    }
    device.configure(files)


def show(boot: Boot) -> None:
    """The end of a boot that did not do what it should."""
    print("\n".join(f"|   {line}" for line in boot.lines[-40:]), flush=True)


def check_first_boots(verdicts: Verdicts, device: Device) -> Boot:
    """A new device until its first message was delivered, and the same one after a restart."""
    first = device.boot("trial=cloud")
    stored_s, delivered_s = first.at_s.get("stored", 999.0), first.at_s.get("delivered", 999.0)
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    verdicts.check(
        "power on to the first stored message",
        holds=stored_s <= FIRST_STORED_S * load,
        seen=f"{stored_s:.1f} s, with {load:.1f} programs for each processor",
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
    print(f"        since the start of the kernel: {first.facts.get('starts', '')}", flush=True)
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


def hanging_slot(folder: Path, image: Path) -> Path:
    """A root whose first process says so and does nothing more."""
    archive = gzip.decompress(image.with_name(f"{image.name}.initramfs").read_bytes())
    name = archive.index(b"bin/busybox\0")
    size, content = int(archive[name - 56 : name - 48], 16), -(-(name + 12) // 4) * 4
    root = folder / "hanging"
    for each in ("bin", "sbin", "proc", "sys", "dev", "run"):
        (root / each).mkdir(parents=True)
    files = {
        "bin/busybox": archive[content : content + size],
        "sbin/init": b"#!/bin/busybox sh\necho EVENT hangs\nbusybox sleep 9999\n",
    }
    for path, data in files.items():
        (root / path).write_bytes(data)
        (root / path).chmod(0o755)
    slot = folder / "hanging.squashfs"
    subprocess.run(["mksquashfs", str(root), str(slot), "-no-progress"], check=True, capture_output=True)
    return slot


def check_hanging_slot(verdicts: Verdicts, device: Device, before: Boot) -> None:
    """A slot on trial that hangs uses up its tries, and the confirmed one is started again."""
    device.write("edge-slot-b", hanging_slot(device.folder, device.image))
    device.put_boot_file("choice", "active=a\ntrial=b\ntries=3\n")
    for left in (2, 1, 0):
        boot = device.boot(until="EVENT hangs|EVENT stored")
        choice = device.choice()
        verdicts.check(
            "a slot on trial that hangs is counted",
            holds="hangs" in boot.at_s and choice == f"active=a trial=b tries={left}",
            seen=choice,
        )
    check_came_back(verdicts, "a slot that hangs comes back", device, before)
    device.write("edge-slot-b", device.folder / "hanging" / "bin" / "busybox")
    device.put_boot_file("choice", "active=a\ntrial=b\ntries=3\n")
    check_came_back(verdicts, "a slot that cannot be mounted comes back at once", device, before)
    device.put_boot_file("choice", "active=")
    check_came_back(verdicts, "a damaged choice starts a", device, before)


def check_update(verdicts: Verdicts, device: Device, bundle: Path, before: Boot) -> None:
    """An update confirms itself in slot b; others are cut, or come back to the slot before."""
    applied = device.boot("trial=update", f"trial.bundle={bundle}")
    verdicts.check("edgectl update writes the other slot", holds="applied" in applied.at_s)
    confirmed = device.boot("trial=confirmed")
    verdicts.check(
        "the new slot is started, and confirms itself",
        holds=confirmed.facts.get("choice") == "active=b trial= tries=0",
        seen=confirmed.facts.get("choice"),
    )
    check_same(verdicts, "as the same device, with its messages", confirmed, before)
    if "applied" not in applied.at_s:
        show(applied)
        show(confirmed)
    apply_s = applied.at_s.get("applied", 60.0) - applied.at_s.get("stored", 0.0)
    check_cuts_of_systemd(verdicts, device, bundle, confirmed, apply_s)


def check_cuts_of_systemd(
    verdicts: Verdicts, device: Device, bundle: Path, before: Boot, apply_s: float
) -> None:
    """The plug is pulled under a live systemd: while an update is written, and during the next start."""
    chance, acknowledged = random.Random(1), int(before.facts.get("messages", 0))
    start_s = before.at_s.get("stored", 60.0)
    for cut_after, longest_s in (("EVENT stored", apply_s), ("", start_s), ("EVENT stored", 1.3 * apply_s)):
        cut_s = chance.uniform(0.2, 1.0) * longest_s
        cut = device.boot("trial=update", f"trial.bundle={bundle}", cut_after=cut_after, cut_s=cut_s)
        acknowledged += "stored" in cut.at_s
        print(f"        cut {cut_s:.1f} s after {cut_after or 'power on'}: {device.choice()}", flush=True)
    settled = device.boot("trial=confirmed")
    acknowledged += "stored" in settled.at_s
    names = ("machine-id", "store", "device")
    same = all(settled.facts.get(name) == before.facts.get(name) for name in names)
    stored = int(settled.facts.get("messages", 0))
    verdicts.check(
        "power cuts under systemd while it is updated: the same device, and no message is missing",
        holds=same and stored >= acknowledged and settled.facts.get("choice", "").endswith("trial= tries=0"),
        seen=f"{stored} messages of {acknowledged} acknowledged, {settled.facts.get('choice')}",
    )
    if not same or stored < acknowledged:
        show(settled)
    check_return_under_systemd(verdicts, device, bundle, settled)


def check_return_under_systemd(verdicts: Verdicts, device: Device, bundle: Path, before: Boot) -> None:
    """An update whose runtime never starts: the machine restarts by itself until the slot before is back."""
    active = before.facts.get("slot", "b")
    device.boot("trial=update", f"trial.bundle={bundle}")
    drop_ins = {
        "edge-runtime.service": f"[Service]\nExecStartPre=/bin/sh -c '[ $(cat /boot/booted) = {active} ]'\n"
    }
    began = time.monotonic()
    back = device.boot(drop_ins=drop_ins, patience_s=4 * BOOT_S)  # starts four times
    restarts = sum("was not confirmed" in line for line in back.lines)
    print(f"        {time.monotonic() - began:.0f} s for four starts", flush=True)
    verdicts.check(
        "a slot whose runtime never starts restarts until it comes back", holds=restarts == 3, seen=restarts
    )
    verdicts.check(
        "it comes back with its reason",
        holds=back.facts.get("slot") == active and "it crashes" in back.facts.get("update", ""),
        seen=back.facts.get("update"),
    )
    check_same(verdicts, "as the same device, with its messages", back, before)
    if back.facts.get("slot") != active:
        show(back)


def check_same(verdicts: Verdicts, what: str, boot: Boot, before: Boot) -> bool:
    """The device and its messages are there."""
    same = all(boot.facts.get(name) == before.facts.get(name) for name in ("machine-id", "store", "device"))
    kept = int(boot.facts.get("messages", 0)) > int(before.facts["messages"])
    verdicts.check(what, holds=same and kept, seen=f"{boot.facts.get('messages')} messages kept")
    return same and kept


def check_came_back(verdicts: Verdicts, what: str, device: Device, before: Boot) -> None:
    """Slot a is started, as the same device, with the messages of before and one more."""
    boot = device.boot()
    verdicts.check(what, holds=boot.facts.get("slot") == "a")
    if not check_same(verdicts, "as the same device, with its messages", boot, before):
        show(boot)


def main() -> int:
    """Exit status 0 if all was fine, 2 where it cannot be tried here."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.image", description=__doc__)
    parser.add_argument(
        "--image", type=Path, metavar="STEM", help="dist/edge-image_...: boot it, build nothing"
    )
    parser.add_argument(
        "--cuts", type=int, default=10, help="during updates, at random (default %(default)s)"
    )
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"cannot be tried here: needs root and {', '.join(missing or TOOLS)}", file=sys.stderr)
        return 2
    if not plug.starts("linux.uml"):
        print(f"cannot be tried here: user-mode-linux {plug.STARTS_NOT}", file=sys.stderr)
        return 2
    end_in_order()
    verdicts = Verdicts()
    image = arguments.image.absolute() if arguments.image else build_twice(verdicts)
    check_content(verdicts, image)
    with short_folder() as folder:
        device = Device(folder, "device", image)
        bundle, key = signed_bundle(folder, image)
        give_configuration(device, prepare_cloud(folder), key)
        booted = check_first_boots(verdicts, device)
        check_other_device(verdicts, Device(folder, "other", image), booted)
        check_hanging_slot(verdicts, device, booted)
        check_update(verdicts, device, bundle, booted)
    if arguments.cuts:
        cuts = ["--image", str(image), "--cuts", str(arguments.cuts)]
        verdicts.check("power cuts during updates", holds=image_cuts.main(cuts) == 0, seen=arguments.cuts)
    print(f"{verdicts.fine} of {verdicts.fine + verdicts.failed} trials of the image were fine")
    return 1 if verdicts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
