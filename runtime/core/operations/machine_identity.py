"""Machine identity: was this home copied to another machine since its last start? Pure.

Four names are compared, each hashed, each perhaps unknown: of the operating system (machine-id), of the board
(its network cards), of the disk (its serial number) and of the filesystem on it. None of them is enough: a
card that is copied block by block brings its machine-id and its filesystem along; an operating system that is
installed again has another machine-id on the same disk; a disk that is replaced has another number in the
same machine.

A copy keeps its device id and its tokens, for it may as well be the one that is left: a home that was moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

COPIED_WORDS = (
    "this home was copied from another machine or disk: its databases get names of their own; it keeps the "
    "device id, which the first one may use, too (edgectl doctor says what to do)"
)
REINSTALLED_WORDS = "another machine-id than at the last start, in the same machine: it is the same device"


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """Hashed names of the machine under a home; empty: unknown."""

    system: str = ""
    boards: frozenset[str] = frozenset()
    """One name for each network card."""
    disk: str = ""
    filesystem: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "boards": sorted(self.boards),
            "disk": self.disk,
            "filesystem": self.filesystem,
        }


class Move(StrEnum):
    """What happened to a home since its last start."""

    NONE = "none"
    FIRST = "first"
    """There was no start before, or none that remembered its machine."""
    REINSTALLED = "reinstalled"
    """The operating system is another one, on the same disk or board."""
    COPIED = "copied"
    """Another machine or another disk: the home may go on running where it was."""


def from_json(record: Mapping[str, Any]) -> MachineIdentity:
    """Read what `as_json` wrote; values of another type count as unknown."""
    names = {name: str(record.get(name) or "") for name in ("system", "disk", "filesystem")}
    boards = record.get("boards")
    known = frozenset(map(str, boards)) if isinstance(boards, list) else frozenset()
    return MachineIdentity(names["system"], known, names["disk"], names["filesystem"])


def compare(before: MachineIdentity | None, now: MachineIdentity) -> Move:
    """Decide by the first names that are known at both starts: disk, board, then filesystem or system."""
    if before is None:
        return Move.FIRST
    if _is_copied(before, now):
        return Move.COPIED
    return Move.REINSTALLED if _same(before.system, now.system) is False else Move.NONE


def _is_copied(before: MachineIdentity, now: MachineIdentity) -> bool:
    same_disk = _same(before.disk, now.disk)
    if same_disk:
        return False
    if before.boards and now.boards:
        return not before.boards & now.boards
    same_filesystem = _same(before.filesystem, now.filesystem)
    same_storage = same_filesystem if same_disk is None else same_disk
    if same_storage is None:
        return _same(before.system, now.system) is False
    return not same_storage


def _same(before: str, now: str) -> bool | None:
    """None where one of them is unknown."""
    return before == now if before and now else None


def merged(before: MachineIdentity | None, now: MachineIdentity, move: Move) -> MachineIdentity:
    """The names to remember: one that cannot be read now is kept from before, but not of another machine."""
    if before is None or move is Move.COPIED:
        return now
    return MachineIdentity(
        now.system or before.system,
        now.boards or before.boards,
        now.disk or before.disk,
        now.filesystem or before.filesystem,
    )
