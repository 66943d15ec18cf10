"""A bootable Debian image with the service in it: two slots, a boot partition, and one for the state.

    edge-boot     ext4, 16 MiB    which slot is started; a board's kernel may stand here
    edge-slot-a   squashfs        the read-only root
    edge-slot-b                   empty: the first update goes here
    edge-state    all zero        formatted and grown to the end of the disk at the first boot

Debian's packages and ours are installed as on any machine, inside a root of its own; then goes what no
device uses, and all that would make two devices the same: machine-id, seeds, keys, names. Files of a board (
modules, network, logins) are laid over the root by `overlay`. There is no kernel in it, and no boot
loader. The initramfs chooses a slot where a boot loader cannot; a kernel's modules are appended to it as one
more cpio archive. docs/deploy.md says what a board needs.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.packaging import gpt, sbom
from deploy.packaging.debian_root import ROOT_S, mmdebstrap
from deploy.packaging.lock import TOP
from deploy.packaging.targets import Target
from deploy.packaging.tree import PREFIX, Origin
from deploy.packaging.wheels import BuildError, run

HERE = TOP / "deploy" / "image"
MIB = 1 << 20
PARTITIONS = {
    "edge-boot": 16 * MIB,
    "edge-slot-a": 128 * MIB,
    "edge-slot-b": 128 * MIB,
    "edge-state": 64 * MIB,
}
"""Sizes in the image. A slot has room for a root twice as large; the last one is grown."""
FIRST_BYTE = MIB
_TABLE_BYTES = MIB
"""The second copy of the partition table stands at the end of the disk."""
_SYSTEM = (
    *("systemd-sysv", "systemd-resolved", "systemd-timesyncd", "udev", "dbus", "kmod"),
    *("e2fsprogs", "fdisk", "iproute2", "ca-certificates", "netbase", "media-types", "python3"),
)
_UNITS = ("edge-console.service", "edge-confirm.service", "systemd-networkd.service")
"""What is started besides what Debian's packages start."""
_MASKED = (
    *("systemd-firstboot.service", "systemd-machine-id-commit.service", "getty@tty1.service"),
    *("systemd-networkd-wait-online.service", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("dpkg-db-backup.timer", "fstrim.timer", "systemd-pstore.service", "remote-fs.target"),
)
"""What asks on the console, or works on what a device of this kind does not have."""
_UNIQUE = (
    *("etc/hostname", "etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed"),
    *("var/lib/edge-runtime/*", "var/lib/systemd/*", "root/.*"),
)
"""What would make two devices the same."""
_UNUSED = (
    *("etc/*-", "etc/.pwd.lock", "etc/.resolv.conf.*", "var/log/*", "var/cache/*/*", "var/lib/apt"),
    *("var/lib/dpkg/*-old", "var/lib/dpkg/info/*.md5sums", "var/lib/systemd/deb-systemd-*", "var/backups/*"),
    *("usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug"),
    *("usr/share/gcc", "usr/share/gdb", "usr/share/bash-completion", "usr/share/zsh", "usr/share/perl5"),
    *("usr/share/doc-base", "usr/share/pixmaps", "usr/share/applications", "usr/share/common-licenses/GFDL*"),
    *("usr/lib/valgrind", "usr/lib/*/gconv", "usr/share/initramfs-tools", "usr/lib/udev/hwdb.d", "dev/*"),
    *("usr/bin/*perl*", "usr/share/perl", "usr/lib/*/perl", "usr/lib/*/perl-base", "usr/lib/*/libperl.*"),
    *("tmp/*", "run/*", "boot/*", "etc/cron.*", "etc/logrotate.d", "etc/rc?.d", "etc/init.d"),
    *(f"usr/lib/python3*/{name}" for name in ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test")),
    *(f"usr/lib/python3*/{name}" for name in ("tkinter", "turtledemo", "unittest", "venv")),
)
_OWNER = 701, 700
"""User and group of the state, by deploy/image/root/usr/lib/sysusers.d/edge-image.conf."""
INITRAMFS_TOOLS = (
    *("sh", "cat", "echo", "grep", "insmod", "mkdir", "mount", "mv", "printf", "reboot", "sed", "seq"),
    *("sleep", "switch_root", "sync", "tail", "tr", "umount"),
)
"""What its scripts call."""
_EDGECTL = f"""#!/bin/sh
# In an image the folder of the boot chooser is known, whatever edge.toml says.
export EDGE_UPDATE_BOOT_DIR="${{EDGE_UPDATE_BOOT_DIR-/boot}}"
exec {PREFIX}/bin/edgectl "$@"
"""
_NAMESPACE = uuid.UUID("0b4f2a2e-6f0d-4d38-9d1c-2a6c5d1f7f55")


@dataclass(frozen=True)
class Image:
    """The files of one image."""

    slot: Path
    """The root as a squashfs: what an update writes into a slot."""
    disk: Path
    initramfs: Path


def build(target: Target, package: Path, origin: Origin, out: Path, overlay: Path | None = None) -> Image:
    """Build the image for a target around its package, as root. Raises BuildError."""
    if os.geteuid() != 0:
        raise BuildError("an image is built by root: Debian's packages are installed into it")
    work = out / "image" / target.arch
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    work.mkdir(parents=True)
    make_root(target, package, root, origin)
    parts = [sbom.of_debian(root, fields) for fields in installed(root)]
    finish_root(root, target, overlay)
    stem = f"edge-image_{origin.version}_{target.arch}"
    image = Image(*(out / f"{stem}.{suffix}" for suffix in ("squashfs", "img", "initramfs")))
    squash(root, image.slot, origin.epoch_s)
    image.initramfs.write_bytes(make_initramfs(_busybox(work), origin.epoch_s))
    write_disk(image.slot, image.disk, work, origin)
    purl = f"pkg:generic/edge-image@{origin.version}?arch={target.arch}"
    (out / f"{stem}.cdx.json").write_text(sbom.document("edge-image", origin.version, purl, parts, origin))
    shutil.rmtree(work)
    return image


def make_root(target: Target, package: Path, root: Path, origin: Origin) -> None:
    """Install Debian's packages and ours; the users' numbers are the same in every version of the image."""
    hooks = (
        f'cp -r {HERE}/root/. "$1"/',
        'chroot "$1" systemd-sysusers edge-image.conf',
        f'cp {package} "$1/edge-runtime.deb"',
        'chroot "$1" dpkg --install /edge-runtime.deb',
        'rm "$1/edge-runtime.deb"',
        f'cd {root.parent} && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" '
        "apt-get -q -o APT::Sandbox::User=root download busybox-static",
    )
    needed = [each.split()[0] for each in target.depends()]
    kept_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "info", "doc")]
    mmdebstrap(
        "--variant=essential", f"--architectures={target.arch}",
        f"--include={','.join([*_SYSTEM, *needed])}", *kept_out,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--customize-hook={hook}" for hook in hooks), target.codename, str(root),
        epoch_s=origin.epoch_s,
    )  # fmt: skip


def installed(root: Path) -> Iterator[dict[str, str]]:
    """The packages in a root, by dpkg's list."""
    for text in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.+)$", text, re.MULTILINE))
        if fields:
            yield fields


def finish_root(root: Path, target: Target, overlay: Path | None) -> None:
    """Remove what no device uses and what two must not share, and start what an image starts."""
    for pattern in (*_UNIQUE, *_UNUSED):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_file() and path.name not in ("copyright", "sbom.cdx.json"):
            path.unlink()
    units = root / "etc/systemd/system"
    for unit in _UNITS:
        _link(units / "multi-user.target.wants" / unit, f"/lib/systemd/system/{unit}")
    for unit in _MASKED:
        _link(units / unit, "/dev/null")
    _link(root / "etc/systemd/system-generators/systemd-getty-generator", "/dev/null")
    _link(root / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    _link(root / "etc/hostname", "../run/hostname")
    _link(root / "usr/sbin/init", "../lib/edge-image/init")
    (root / "etc/machine-id").write_text("")
    command = root / "usr/bin/edgectl"
    command.unlink()
    command.write_text(_EDGECTL)
    command.chmod(0o755)
    for folder in ("state", "boot", "etc/edge-runtime", "var/lib/edge-runtime", "var/lib/systemd", "var/tmp"):
        (root / folder).mkdir(exist_ok=True)
    os.chown(root / "var/lib/edge-runtime", *_OWNER)
    if overlay is not None:
        shutil.copytree(overlay, root, symlinks=True, dirs_exist_ok=True)
    compile_modules(root, target)


def _link(path: Path, to: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def compile_modules(root: Path, target: Target) -> None:
    """Make all bytecode again, not compared with its source: nothing can write it later."""
    for folder in list(root.glob("usr/**/__pycache__")):
        shutil.rmtree(folder)
    folders = [f"/usr/lib/python{target.python}", str(PREFIX / "lib")]
    command = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", *folders]
    fixed = {"PYTHONHASHSEED": "0"}
    run("chroot", str(root), "/usr/bin/python3", "-I", *command, environment=fixed, patience_s=ROOT_S)


def squash(root: Path, file: Path, epoch_s: int) -> None:
    """Pack a root: the same bytes for the same content. Later times than the commit's become its time."""
    file.unlink(missing_ok=True)
    options = ["-noappend", "-no-progress", "-no-xattrs", "-comp", "zstd", "-Xcompression-level", "15"]
    run("mksquashfs", str(root), str(file), *options,
        environment={"SOURCE_DATE_EPOCH": str(epoch_s)})  # fmt: skip


def _busybox(work: Path) -> bytes:
    package = next(work.glob("busybox-static_*.deb"))
    run("dpkg-deb", "--extract", str(package), str(work / "busybox"))
    return (work / "busybox/bin/busybox").read_bytes()


def make_initramfs(busybox: bytes, epoch_s: int) -> bytes:
    """The initramfs: the chooser, and one program that is every tool it calls."""
    entries = [
        ("bin", 0o040755, b""),
        ("bin/busybox", 0o100755, busybox),
        *((f"bin/{tool}", 0o120777, b"busybox") for tool in INITRAMFS_TOOLS),
        ("chooser", 0o100755, (HERE / "chooser").read_bytes()),
        ("dev", 0o040755, b""),
        ("init", 0o100755, (HERE / "initramfs").read_bytes()),
    ]
    return gzip.compress(cpio(entries, epoch_s), 9, mtime=0)


def cpio(entries: list[tuple[str, int, bytes]], epoch_s: int) -> bytes:
    """An archive as the kernel unpacks it (`newc`): name, mode and content of each, folders first."""
    packed = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        sizes = (len(content), 0, 0, 0, 0, len(name) + 1, 0)
        numbers = (number, mode, 0, 0, 1, epoch_s, *sizes)
        packed += b"070701" + "".join(f"{each:08x}" for each in numbers).encode() + name.encode() + b"\0"
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def write_disk(slot: Path, disk: Path, work: Path, origin: Origin) -> None:
    """Write the whole disk: partition table, an empty boot partition, and slot a."""
    if slot.stat().st_size > PARTITIONS["edge-slot-a"]:
        raise BuildError(f"{slot.name} has {slot.stat().st_size / MIB:.0f} MiB, and a slot holds 128")
    boot = work / "boot.ext4"
    with boot.open("wb") as file:
        file.truncate(PARTITIONS["edge-boot"])
    identity = str(uuid.uuid5(_NAMESPACE, "edge-boot"))
    run("mkfs.ext4", "-q", "-F", "-L", "edge-boot", "-U", identity, "-E", f"hash_seed={identity}", str(boot),
        environment={"E2FSPROGS_FAKE_TIME": str(origin.epoch_s)})  # fmt: skip
    disk_bytes = FIRST_BYTE + sum(PARTITIONS.values()) + _TABLE_BYTES
    partitions = [
        gpt.Partition(name, start_of(name), size, uuid.uuid5(_NAMESPACE, name))
        for name, size in PARTITIONS.items()
    ]
    head, tail = gpt.tables(disk_bytes, uuid.uuid5(_NAMESPACE, "disk"), partitions)
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(disk_bytes)
        file.write(head)
        file.seek(disk_bytes - len(tail))
        file.write(tail)
    for name, source in (("edge-boot", boot), ("edge-slot-a", slot)):
        where = f"seek={start_of(name)}"
        options = ["conv=notrunc,sparse", "oflag=seek_bytes", "bs=1M", "status=none"]
        run("dd", f"if={source}", f"of={disk}", where, *options)


def start_of(name: str) -> int:
    """The first byte of a partition."""
    names = list(PARTITIONS)
    return FIRST_BYTE + sum(PARTITIONS[each] for each in names[: names.index(name)])
