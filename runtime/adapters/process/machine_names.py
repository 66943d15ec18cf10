"""Names of the machine under a home, and the file `state/machine.json` that remembers them between starts.

The names are read without any right, also in the unit's sandbox, and leave this module hashed only: a
machine-id must not be shown (machine-id(5)). Nothing is written while they stay the same.

Where a start finds that the home was copied, `up` leaves a note for each database that has a name of its own
(`copy_note`). Its one writer gives it another name, and removes the note when that is on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.core.operations.machine_identity import MachineIdentity, Move, compare, from_json, merged
from runtime.errors import Retryable
from runtime.layout import Layout
from runtime.regular_file import read_regular

APPLICATION = b"edge-runtime/machine"
"""What the names are hashed for: another program's hash of the same name is another one."""
MOST_BYTES = 4_096
LATEST_WALL_S = 32_503_680_000.0
"""The year 3000: what is later was never written."""
_DISK_NAMES = ("device/cid", "wwid", "device/wwid", "device/serial", "serial", "dm/uuid", "md/uuid")
"""Below a disk in /sys/block: of a card, of NVMe and SCSI, of virtio, of mapped disks."""
_EMULATED = "QEMU"
"""In the number of an emulated disk to which none was given: all of them have the same."""
_PERMANENT = "0"
"""NET_ADDR_PERM of the kernel: the address was neither drawn nor set."""
_NAMED_FILESYSTEMS = ("ext2", "ext3", "ext4", "btrfs")
"""Filesystems whose `f_fsid` is made of their UUID; of others it is made of a device number."""


def machine_file(layout: Layout) -> Path:
    return layout.state / "machine.json"


def notice_move(layout: Layout, now: MachineIdentity, wall_s: float) -> Move:
    """Compare with the last start, and remember. Raises OSError where the state cannot be written.

    The notes are on disk before the names are: a start that is cut short finds the copy again.
    """
    record = read_machine(layout)
    before = from_json(record) if record else None
    move = compare(before, now)
    kept = merged(before, now, move)
    if move is Move.COPIED:
        for database in (layout.messages_db, layout.management_db):
            copy_note(database).touch(mode=0o600)
        _sync(layout.state)
        record = {"copied_wall_s": wall_s}
    if kept != before or move is Move.COPIED:
        _write(machine_file(layout), {**record, **kept.as_json()})
    return move


def copy_note(database: Path) -> Path:
    """The note that this database came from another machine, until it has a name of its own."""
    return database.with_name(f"{database.name}.copied")


def was_copied(database: Path) -> bool:
    """True if the database has to get a name of its own."""
    return copy_note(database).exists()


def named_apart(database: Path) -> None:
    """The database has a name of its own now. Where the note stays, it gets one more at the next start."""
    with contextlib.suppress(OSError):
        copy_note(database).unlink(missing_ok=True)


def copied_wall_s(layout: Layout) -> float | None:
    """When a start found that the home was copied, until an operator says what became of the first."""
    value = read_machine(layout).get("copied_wall_s")
    return float(value) if isinstance(value, int | float) and 0 <= value < LATEST_WALL_S else None


def forget_copy(layout: Layout) -> bool:
    """Forget that the home was copied: it was moved, or has an identity of its own now. False: it was not.
    Raises Retryable where the disk refuses.
    """
    record = read_machine(layout)
    if record.pop("copied_wall_s", None) is None:
        return False
    try:
        _write(machine_file(layout), record)
    except OSError as exc:
        raise Retryable(f"cannot write {machine_file(layout)}: {exc.strerror}") from exc
    return True


def read_machine(layout: Layout) -> dict[str, Any]:
    """The record of the last start; empty where there is none, or none that can be read."""
    try:
        read = json.loads(read_regular(machine_file(layout), MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _write(file: Path, record: dict[str, Any]) -> None:
    fresh = file.with_name(f"{file.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as written:
        json.dump(record, written)
        written.flush()
        os.fsync(written.fileno())
    fresh.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- reading the names ---


def read_names(folder: Path, root: Path = Path("/")) -> MachineIdentity:
    """The names of the machine, and of the disk under `folder`."""
    disk, filesystem = _storage(folder, root / "sys", root / "proc/self/mountinfo")
    return MachineIdentity(
        hashed(_text(root / "etc/machine-id")),
        frozenset(map(hashed, _cards(root / "sys/class/net"))),
        hashed(disk),
        hashed(filesystem),
    )


def hashed(name: str) -> str:
    """The name as it may be kept and shown; nothing of an unknown one."""
    return hmac.new(name.encode(), APPLICATION, hashlib.sha256).hexdigest()[:32] if name else ""


def _text(file: Path) -> str:
    """The content of a file of the kernel's or of /etc; empty where it cannot be read, or names nothing."""
    try:
        text = read_regular(file, MOST_BYTES).decode(errors="replace").strip("\0 \t\r\n")
    except OSError:
        return ""
    return "" if text in ("uninitialized", "none") or _EMULATED in text else text


def _cards(folder: Path) -> Iterator[str]:
    """Addresses of network cards that are hardware, as their maker gave them."""
    with contextlib.suppress(OSError):
        for card in sorted(folder.iterdir()):
            address = _text(card / "address")
            if (card / "device").exists() and _text(card / "addr_assign_type") == _PERMANENT and address:
                yield address


def _storage(folder: Path, sys: Path, mounts: Path) -> tuple[str, str]:
    """The disk's own number, and the filesystem's: either may be unknown."""
    try:
        device, fsid = folder.stat().st_dev, os.statvfs(folder).f_fsid
    except OSError:
        return "", ""
    kind, source = _mount(mounts, device)
    numbers = f"{os.major(device)}:{os.minor(device)}"
    block = sys / "dev/block" / numbers if os.major(device) else sys / "class/block" / Path(source).name
    filesystem = f"{kind}:{fsid:x}" if kind in _NAMED_FILESYSTEMS and fsid else ""
    return _disk(block), filesystem


def _mount(mounts: Path, device: int) -> tuple[str, str]:
    """Kind and source of the filesystem with this device number, by the kernel's table."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in mounts.read_text(errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            fields, kinds = before.split(), after.split()
            if len(fields) > 4 and len(kinds) > 1 and fields[2] == wanted:
                return kinds[0], kinds[1]
    return "", ""


def _disk(block: Path) -> str:
    """The number that a disk's maker gave it; a partition has that of its disk."""
    try:
        place = block.resolve(strict=True)
    except OSError:
        return ""
    disk = place.parent if (place / "partition").exists() else place
    return next(filter(None, (_text(disk / name) for name in _DISK_NAMES)), "")
