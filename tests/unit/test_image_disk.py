"""The bytes of the image: its partition table and the archive of its initramfs."""

from __future__ import annotations

import gzip
import struct
import uuid
import zlib

from deploy.packaging import gpt
from deploy.packaging.image import (
    FIRST_BYTE,
    HERE,
    PARTITIONS,
    cpio,
    make_initramfs,
    start_of,
)

DISK_BYTES = FIRST_BYTE + sum(PARTITIONS.values()) + FIRST_BYTE
DISK_ID = uuid.UUID(int=7)
HEADER = struct.Struct("<8s4sIIIQQQQ16sQIII")


def disk() -> bytearray:
    """A disk with the image's partitions; what is in them is left out."""
    parts = [gpt.Partition(n, start_of(n), size, uuid.uuid4()) for n, size in PARTITIONS.items()]
    head, tail = gpt.tables(DISK_BYTES, DISK_ID, parts)
    content = bytearray(DISK_BYTES)
    content[: len(head)] = head
    content[-len(tail) :] = tail
    return content


def names_and_places(content: bytes, sector: int) -> dict[str, tuple[int, int]]:
    """What a kernel reads of the header in a sector: both checksums have to be right."""
    raw = content[sector * 512 : sector * 512 + 92]
    fields = HEADER.unpack(raw)
    assert fields[0] == b"EFI PART" and fields[5] == sector and fields[2] == len(raw)
    assert zlib.crc32(raw[:16] + b"\0\0\0\0" + raw[20:]) == fields[3]
    entries = content[fields[10] * 512 :][: fields[11] * fields[12]]
    assert zlib.crc32(entries) == fields[13]
    found = {}
    for start in range(0, len(entries), gpt.ENTRY_BYTES):
        entry = bytes(entries[start : start + gpt.ENTRY_BYTES])
        if any(entry):
            first, last = struct.unpack_from("<QQ", entry, 32)
            assert fields[7] <= first <= last <= fields[8]
            found[entry[56:].decode("utf-16-le").rstrip("\0")] = (first * 512, (last - first + 1) * 512)
    return found


def test_both_copies_of_the_table_name_the_same_partitions() -> None:
    content = bytes(disk())
    expected = {name: (start_of(name), size) for name, size in PARTITIONS.items()}
    assert names_and_places(content, 1) == names_and_places(content, DISK_BYTES // 512 - 1) == expected


def test_partitions_follow_each_other_and_leave_room_for_both_tables() -> None:
    end = FIRST_BYTE
    for name, size in PARTITIONS.items():
        assert start_of(name) == end and end % (1 << 20) == 0
        end += size
    assert FIRST_BYTE >= gpt.HEAD_BYTES and DISK_BYTES - end >= gpt.TAIL_BYTES


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        start = -(-(at + 110 + fields[11]) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], archive[start : start + fields[6]]
        at = -(-(start + fields[6]) // 4) * 4


def test_an_archive_gives_back_what_was_put_in() -> None:
    entries = [
        ("d", 0o040755, b""),
        ("d/one", 0o100644, b"1"),
        ("d/four", 0o100755, b"1234"),
        ("l", 0o120777, b"d"),
    ]
    assert unpacked(cpio(entries, 0)) == {name: (mode, content) for name, mode, content in entries}


def test_two_archives_of_the_same_content_are_the_same_bytes() -> None:
    assert make_initramfs(b"busybox", 12) == make_initramfs(b"busybox", 12)


def test_the_initramfs_holds_what_the_kernel_starts() -> None:
    files = unpacked(gzip.decompress(make_initramfs(b"busybox", 0)))
    assert files["bin/sh"] == (0o120777, b"busybox") and files["bin/busybox"] == (0o100755, b"busybox")
    assert files["init"] == (0o100755, (HERE / "initramfs").read_bytes())
    assert files["chooser"] == (0o100755, (HERE / "chooser").read_bytes())
