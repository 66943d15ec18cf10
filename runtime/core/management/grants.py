"""Grants: what a program may report, read, receive and serve.

The kernel says which user a program on the unix socket is, CURVE which key one on TCP has. Where no program
is named in the settings, the permission to open the socket is the permission to do everything but what is the
runtime's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.names import common, matches_any
from runtime.core.management.twin_rules import Path, pointer

OWN_SECTIONS = ("runtime", "commands")
"""Sections of the reported properties that the worker itself writes."""
BUILT_IN_METHODS = frozenset(
    ("ping", "status", "restart", "logs", "twin-refresh", "commands", "quarantine", "reboot", "link")
)


class ProgramPeer(NamedTuple):
    """The other end of a connection, as the kernel or CURVE vouches for it."""

    uid: int | None = None
    gid: int | None = None
    key: str = ""
    """Its CURVE public key; empty on the unix socket."""


@dataclass(frozen=True, slots=True)
class ProgramGrant:
    """A `[management.program.NAME]`: who it is, and what it may do."""

    name: str
    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    report: tuple[Path, ...] = ()
    desired: tuple[Path, ...] = ()
    commands: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    def is_for(self, peer: ProgramPeer) -> bool:
        return peer.uid in self.users or peer.gid in self.groups or peer.key in self.keys

    def shown(self) -> dict[str, list[str]]:
        """The grants in the words of the settings."""
        return {
            "report": [pointer(path) for path in self.report],
            "desired": [pointer(path) for path in self.desired],
            "commands": list(self.commands),
            "methods": list(self.methods),
            "leaves": list(self.leaves),
        }


EVERYTHING = ProgramGrant("", report=((),), desired=((),), commands=("*",), methods=("*",), leaves=("*",))
"""The grant of each program where the settings name none."""


def grant_of(programs: Sequence[ProgramGrant], peer: ProgramPeer) -> ProgramGrant:
    """The grant of a peer. Raises RequestRefused where programs are named and this is none of them."""
    if not programs:
        return EVERYTHING
    for program in programs:
        if program.is_for(peer):
            return program
    who = f"user {peer.uid}" if peer.uid is not None else "this key"
    raise _refused(f"no [management.program.NAME] is for {who}")


def check_operator(peer: ProgramPeer, runtime_uid: int) -> None:
    """Check that an operator's request may come from this peer. Raises RequestRefused."""
    if peer.key or peer.uid not in (0, runtime_uid):
        raise _refused("only root and the runtime's own user may do that, on this machine")


def _refused(words: str) -> RequestRefused:
    return RequestRefused(ManagementCode.NOT_GRANTED, words)


def _within(path: Path, granted: Iterable[Path]) -> bool:
    return any(path[: len(one)] == one for one in granted)


def check_report(grant: ProgramGrant, path: Path, value: Any = None) -> None:
    """Check that the program may change what it reports at `path`. Raises RequestRefused."""
    names = path[:1] or tuple(value if isinstance(value, dict) else ())
    if own := next((name for name in OWN_SECTIONS if name in names), None):
        raise _refused(f"/{own} is reported by the runtime itself")
    if not _within(path, grant.report):
        raise _refused(f"{pointer(path)} is not among what this program may report")


def check_desired(grant: ProgramGrant, path: Path) -> None:
    """Check that the program may read the desired properties at `path`. Raises RequestRefused."""
    if not _within(path, grant.desired):
        raise _refused(f"{pointer(path)} is not among the desired properties that this program may read")


def command_names(grant: ProgramGrant, asked: Sequence[str]) -> list[str]:
    """The names of commands that it asks for and may have. Raises RequestRefused where there are none."""
    return _granted("commands", grant.commands, asked)


def method_names(grant: ProgramGrant, asked: Sequence[str]) -> list[str]:
    """The methods that it offers and may serve. Raises RequestRefused where there are none."""
    if own := sorted(BUILT_IN_METHODS.intersection(asked)):
        raise _refused(f"{own[0]} is served by the runtime itself")
    return _granted("methods", grant.methods, asked)


def _granted(what: str, granted: Sequence[str], asked: Sequence[str]) -> list[str]:
    names = common(asked, granted)
    if not names:
        raise _refused(f"none of these {what} is granted to this program")
    return names


def check_leaf(grant: ProgramGrant, leaf: str) -> None:
    """Check that the program may speak for this leaf. Raises RequestRefused."""
    if leaf and not matches_any(grant.leaves, leaf):
        raise _refused(f"leaf {leaf} is not granted to this program")


def conflicts(programs: Sequence[ProgramGrant]) -> list[str]:
    """The faults of the grants together, a sentence each: the worker does not start with them."""
    found = [words for program in programs for words in _mistakes(program)]
    for one, other in combinations(programs, 2):
        both = f"programs {one.name} and {other.name}"
        found += [f"{both} may both report {pointer(path)}" for path in _overlap(one.report, other.report)]
        if {*one.users} & {*other.users} or {*one.keys} & {*other.keys} or {*one.groups} & {*other.groups}:
            found.append(f"{both} are for the same user, group or key")
    return found


def _mistakes(program: ProgramGrant) -> Iterator[str]:
    for path in program.report:
        if path and path[0] in OWN_SECTIONS:
            yield f"program {program.name} cannot report {pointer(path)}, which is the runtime's own"
    if not (program.users or program.groups or program.keys):
        yield f"program {program.name} needs a user, a group or a key"


def _overlap(some: Iterable[Path], others: Sequence[Path]) -> Iterator[Path]:
    for path in some:
        for other in others:
            if _within(path, [other]) or _within(other, [path]):
                yield max(path, other, key=len)
