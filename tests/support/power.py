"""Power cuts without a plug: a recorded run of a worker, and the disks a cut could have left at any point.

strace records every write, sync and truncation of the files of interest, and the replies to the producer, in
one order. `Disk` replays them as a disk may: what was synced is there; of what was not, nothing, all, or any
sectors of 512 bytes.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SECTOR_BYTES = 512
CALLS = "pwrite64,write,sendto,fdatasync,fsync,ftruncate,rename,unlink"
Fate = Literal["dropped", "kept", "torn"]

_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_FILE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_QUOTED = re.compile(r'^"(?P<path>[^"]*)"')
_HEX = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Unlink:
    """The rollback journal of the first commits; SQLite syncs the folder when it first syncs the WAL."""

    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    path: str


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """An error, once. The kernel calls the pages clean that it could not write: reading finds them, the next
    sync does not write them, and nobody says so again."""

    path: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A reply to the producer begins to leave the process."""


Event = Write | Truncate | Unlink | Sync | SyncFailed | Acknowledged


def record(
    argv: list[str], trace: Path, environment: dict[str, str], log: Path, inject: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a program under strace, which may make some calls fail (`strace --inject`)."""
    return subprocess.Popen(
        [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-y",
            "-xx",
            "-s",
            "70000",
            "-e",
            f"trace={CALLS}",
            *(["-e", f"inject={inject}"] if inject else []),
            "-o",
            str(trace),
            *argv,
        ],
        env=environment,
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
    )


def read_trace(trace: Path, stem: str) -> Iterator[Event]:
    """What happened to the files whose name begins with `stem`, and every acknowledgement, in order."""
    begun: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            found = _LINE.match(line)
            if not found:
                continue
            pid, rest = found["pid"], found["rest"].rstrip("\n")
            resumed = _RESUMED.match(rest)
            if rest.endswith("<unfinished ...>"):
                begun[pid] = rest.removesuffix("<unfinished ...>").rstrip()
                if _is_reply(begun[pid]):
                    yield Acknowledged()  # from here on the producer may know
                continue
            if resumed:
                rest = begun.pop(pid, "") + resumed[2].lstrip()
                if _is_reply(rest):
                    continue  # told when it began
            elif _is_reply(rest):
                yield Acknowledged()
                continue
            event = _event(rest, stem)
            if event is not None:
                yield event


def _is_reply(call: str) -> bool:
    return call.startswith("sendto(") and b'"ok":true' in _bytes(call)


def _event(text: str, stem: str) -> Event | None:
    call = _CALL.match(text)
    failed = call is not None and int(call["result"]) < 0
    if call is None or (failed and "sync" not in call["name"]):
        return None
    file = _FILE.match(call["arguments"]) or _QUOTED.match(call["arguments"])
    path = _bytes(file["path"]).decode(errors="replace") if file else ""
    if not Path(path).name.startswith(stem) or path.endswith("-shm"):  # shm is memory: the next boot has none
        return None
    rest = call["arguments"][file.end() :] if file else ""
    match call["name"]:
        case "pwrite64":
            quoted, _, numbers = rest.rpartition('"')
            assert not numbers.startswith("..."), "strace shortened a write: raise its -s"
            return Write(path, int(numbers.split(",")[2]), _bytes(quoted.partition('"')[2]))
        case "ftruncate":
            return Truncate(path, int(rest.split(",")[1]))
        case "fdatasync" | "fsync":
            return SyncFailed(path) if failed else Sync(path)
        case "unlink":
            return Unlink(path)
    raise AssertionError(f"the model of the disk does not know what to do with: {text[:200]}")


def _bytes(text: str) -> bytes:
    """Strings of `strace -xx`; what is not escaped stands for itself."""
    if "\\x" not in text:
        return text.encode()
    return bytes.fromhex("".join(_HEX.findall(text)))


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


class Disk:
    """What is on disk for certain, and what is on its way."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def take(self, event: Event) -> None:
        match event:
            case Write(path) | Truncate(path):
                self._files.setdefault(path, _File()).pending.append(event)
            case Unlink(path):
                self._files.pop(path, None)
            case SyncFailed(path):
                self._files.setdefault(path, _File()).pending.clear()
            case Sync(path):
                file = self._files.setdefault(path, _File())
                for each in file.pending:
                    _apply(file.synced, each)
                file.pending.clear()

    def after_a_cut(self, fate: Fate, chance: random.Random) -> dict[str, bytes]:
        """The files as the next boot may find them."""
        return {name: bytes(self._image(file, fate, chance)) for name, file in self._files.items()}

    @staticmethod
    def _image(file: _File, fate: Fate, chance: random.Random) -> bytearray:
        image = bytearray(file.synced)
        if fate == "dropped":
            return image
        for each in file.pending:
            if fate == "kept":
                _apply(image, each)
            elif isinstance(each, Write):
                for sector in _sectors(each):
                    if chance.random() < 0.5:
                        _apply(image, sector)
            elif chance.random() < 0.5:
                _apply(image, each)
        return image


def _apply(image: bytearray, event: Write | Truncate) -> None:
    size = event.size if isinstance(event, Truncate) else event.offset + len(event.data)
    if len(image) < size:
        image.extend(bytes(size - len(image)))
    if isinstance(event, Truncate):
        del image[size:]
    else:
        image[event.offset : size] = event.data


def _sectors(write: Write) -> Iterable[Write]:
    """The parts of a write that a disk writes as one."""
    at = write.offset
    end = write.offset + len(write.data)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(write.path, at, write.data[at - write.offset : until - write.offset])
        at = until
