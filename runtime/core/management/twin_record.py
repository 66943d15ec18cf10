"""The twin as it stands on disk, and the events and actions of `twin_sync.py`: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runtime.core.management.replies import AnswerProgram
from runtime.core.management.twin import ReportMode, section_of, value_at
from runtime.core.management.twin_rules import Document, Path, same


class RefusedSection(NamedTuple):
    """A section that the hub refused; it is not sent again until the program reports another value."""

    value: Any
    """The refused value; None: its removal was refused."""
    reason: str


class AlteredSection(NamedTuple):
    """A section that the hub acknowledged twice and shows differently: it is not sent a third time."""

    wanted: Any
    held: Any
    """The value that the hub shows instead."""


class AppliedChange(NamedTuple):
    """A program's word that it applied a desired change."""

    change: int
    status: int
    message: str


@dataclass(frozen=True, slots=True)
class TwinRecord:
    """Both halves of the twin. Everything in it is on disk, in one commit."""

    device_id: str = ""
    """The device whose twin was read last; empty: none was ever read."""
    desired: Document = field(default_factory=dict)
    desired_version: int | None = None
    """The hub's `$version`. It begins again at 1 where a device is deleted and created again."""
    confirmed: Document = field(default_factory=dict)
    """The reported properties that the hub has, as far as it told."""
    reported_version: int | None = None
    wanted: Document = field(default_factory=dict)
    """The reported properties as the programs made them: the truth about the device."""
    touched: frozenset[str] = frozenset()
    """The sections that programs reported before the twin was first read; "" stands for all of them."""
    change: int = 0
    """Number of the last change of desired or wanted. Our own: it only grows."""
    desired_changes: Mapping[str, int] = field(default_factory=dict)
    wanted_changes: Mapping[str, int] = field(default_factory=dict)
    """Of each section the number of its last change. Those that are gone count by `vanished`."""
    vanished: int = 0
    """Number of the last change that removed a section from desired or wanted."""
    refused: Mapping[str, RefusedSection] = field(default_factory=dict)
    altered: Mapping[str, AlteredSection] = field(default_factory=dict)
    applied: Mapping[Path, AppliedChange] = field(default_factory=dict)
    restarts: int = 0
    """Number of times that the twin had begun again: a lower version, or another device."""

    def desired_change(self, path: Path) -> int:
        """Number of the last change of the desired section that `path` belongs to."""
        return _change(self.desired_changes, self.vanished, section_of(path))

    def changed_since(self, path: Path, after: int) -> bool:
        """True if a program that has seen change `after` is to look again: also where the database is an
        older copy of itself, which has not given that number yet."""
        return self.desired_change(path) > after or after > self.change

    def wanted_change(self, path: Path) -> int:
        """Number of the last change of the wanted section that `path` belongs to."""
        return _change(self.wanted_changes, self.vanished, section_of(path))

    def confirms(self, path: Path) -> bool:
        """True if the hub has at `path` what the programs want there."""
        return same(value_at(self.confirmed, path), value_at(self.wanted, path))

    def withheld(self) -> set[str]:
        """The sections that are not sent: refused or altered, with nothing new about them since."""
        refused = {name for name, mark in self.refused.items() if same(mark.value, self.wanted.get(name))}
        altered = {
            name
            for name, mark in self.altered.items()
            if same(mark.wanted, self.wanted.get(name)) and same(mark.held, self.confirmed.get(name))
        }
        return refused | altered


def _change(changes: Mapping[str, int], vanished: int, section: str) -> int:
    if not section:
        return max(vanished, *changes.values(), 0)
    return changes.get(section, vanished)


# --- events ---


@dataclass(frozen=True, slots=True)
class TwinLinkUp:
    """The hub granted the subscriptions: it can be asked."""

    device_id: str


@dataclass(frozen=True, slots=True)
class TwinLinkDown:
    """The connection is gone: no answer comes any more."""


@dataclass(frozen=True, slots=True)
class TwinResponse:
    """The hub's answer to a GET or a PATCH."""

    rid: str
    status: int
    body: Any = None
    """Of a GET the JSON value; anything else for a body that is none."""
    version: int | None = None
    """Of a PATCH the `$version` of the reported properties after it."""
    reason: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class DesiredPatch:
    """The hub's word of a change of the desired properties."""

    version: int
    patch: Any
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReportMade:
    """A program reports."""

    asker: object
    mode: ReportMode
    path: Path
    value: Any = None
    if_change: int | None = None
    """Only if this is still the number of the section's last change."""


@dataclass(frozen=True, slots=True)
class ChangeApplied:
    """A program has applied a desired change, or failed to."""

    asker: object
    path: Path
    change: int
    status: int
    message: str = ""
    acknowledge: bool = False
    """Report it at that path as IoT Plug and Play does: value, code, version, description."""


@dataclass(frozen=True, slots=True)
class TwinRefreshAsked:
    """An operator, or the cloud, wants the twin read again."""


@dataclass(frozen=True, slots=True)
class TwinTick:
    """Time has passed."""


TwinEvent = (
    TwinLinkUp
    | TwinLinkDown
    | TwinResponse
    | DesiredPatch
    | ReportMade
    | ChangeApplied
    | TwinRefreshAsked
    | TwinTick
)


# --- actions ---


@dataclass(frozen=True, slots=True)
class SaveTwin:
    """Commit the record. What follows in the list of actions waits for it."""

    record: TwinRecord


@dataclass(frozen=True, slots=True)
class AskTwin:
    """Publish a GET."""

    rid: str


@dataclass(frozen=True, slots=True)
class SendReported:
    """Publish a PATCH of the reported properties."""

    rid: str
    patch: Document


@dataclass(frozen=True, slots=True)
class WakeWatchers:
    """Desired or confirmed changed: look at the requests that wait for it."""


TwinAction = SaveTwin | AskTwin | SendReported | AnswerProgram | WakeWatchers
