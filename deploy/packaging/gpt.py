"""A partition table (GPT) as bytes, by the UEFI specification 2.10, section 5. Pure.

The table stands twice, at both ends of the disk; a cut while one is written leaves the other.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

SECTOR_BYTES = 512
ENTRIES = 128
ENTRY_BYTES = 128
HEAD_BYTES = (2 + ENTRIES * ENTRY_BYTES // SECTOR_BYTES) * SECTOR_BYTES
"""At the beginning of the disk: the record for programs that know MBR only, the header, the entries."""
TAIL_BYTES = HEAD_BYTES - SECTOR_BYTES
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""Type of a partition for Linux."""


@dataclass(frozen=True)
class Partition:
    """Where one partition lies; both in bytes and full sectors."""

    name: str
    start_bytes: int
    size_bytes: int
    id: uuid.UUID


def tables(disk_bytes: int, disk_id: uuid.UUID, partitions: Iterable[Partition]) -> tuple[bytes, bytes]:
    """What stands at the beginning and what at the end of the disk."""
    last = disk_bytes // SECTOR_BYTES - 1
    entries = b"".join(_entry(partition) for partition in partitions).ljust(ENTRIES * ENTRY_BYTES, b"\0")
    at_end = last - len(entries) // SECTOR_BYTES
    head = _header(1, last, last, disk_id, 2, entries)
    tail = _header(last, 1, last, disk_id, at_end, entries)
    return _protective_record(last) + head + entries, entries + tail


def _entry(partition: Partition) -> bytes:
    first = partition.start_bytes // SECTOR_BYTES
    end = first + partition.size_bytes // SECTOR_BYTES - 1
    name = partition.name.encode("utf-16-le").ljust(72, b"\0")
    return LINUX.bytes_le + partition.id.bytes_le + struct.pack("<QQQ", first, end, 0) + name


def _header(own: int, other: int, last: int, disk_id: uuid.UUID, entries_at: int, entries: bytes) -> bytes:
    usable = HEAD_BYTES // SECTOR_BYTES, last - TAIL_BYTES // SECTOR_BYTES

    def fields(checksum: int) -> bytes:
        return struct.pack(
            "<8s4sIIIQQQQ16sQIII",
            b"EFI PART", b"\0\0\1\0", 92, checksum, 0, own, other, *usable, disk_id.bytes_le,
            entries_at, ENTRIES, ENTRY_BYTES, zlib.crc32(entries),
        )  # fmt: skip

    return fields(zlib.crc32(fields(0))).ljust(SECTOR_BYTES, b"\0")


def _protective_record(last: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"
