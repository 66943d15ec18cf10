"""How far an update has come: the journal's record, and the next step from any point of it. Pure.

Theory of operation
    The journal says what is wanted; links in a folder, or the slot choice, say what will start. `next_step`
    compares the two and names the one thing to do next. Every step may be done twice. So after a power cut,
    or the end of any process, the same call goes on where it was: nothing else is remembered.

        NONE ---> UNPACKING ---> READY ---> TRIAL ---> CONFIRMED ---> NONE
          ^           |            |          |
          '-----------'------------'      RETURNING ---> NONE

Invariants
    The version in use (`current`) is one that has confirmed itself; it changes by one rename, in CONFIRMED.
    A version on trial starts only while the journal says TRIAL, and for at most `TRIES` starts.
    The version before stays on disk until another one has confirmed itself after it.
    A one-way update has no trial: it was rehearsed on a copy of the store before, and CONFIRMED is its first
    phase that touches anything. After it, the version before could not open the store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from runtime.core.update.slots import TRIES, SlotChoice, begin_trial, came_back, clear_trial

PACKAGE = "package"
"""The name of the version that the Debian package itself brought: the one without a link."""


class UpdatePhase(StrEnum):
    """The phases of an update."""

    NONE = "none"
    UNPACKING = "unpacking"
    READY = "ready"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    RETURNING = "returning"


PHASES: dict[UpdatePhase, frozenset[UpdatePhase]] = {
    UpdatePhase.NONE: frozenset({UpdatePhase.UNPACKING, UpdatePhase.READY}),
    UpdatePhase.UNPACKING: frozenset({UpdatePhase.NONE, UpdatePhase.READY}),
    UpdatePhase.READY: frozenset({UpdatePhase.NONE, UpdatePhase.TRIAL, UpdatePhase.CONFIRMED}),
    UpdatePhase.TRIAL: frozenset({UpdatePhase.CONFIRMED, UpdatePhase.RETURNING}),
    UpdatePhase.CONFIRMED: frozenset({UpdatePhase.NONE}),
    UpdatePhase.RETURNING: frozenset({UpdatePhase.NONE}),
}
"""The phases that may follow each; any other change is a bug."""


class UpdateResult(StrEnum):
    """How the last update ended."""

    CONFIRMED = "confirmed"
    CAME_BACK = "came back"


@dataclass(frozen=True, slots=True)
class LastUpdate:
    """The last update that ended."""

    version: str
    result: UpdateResult
    reason: str = ""
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """The content of the journal."""

    phase: UpdatePhase = UpdatePhase.NONE
    version: str = ""
    before: str = ""
    """The version that it replaces."""
    slot: str = ""
    """The slot that holds it, where there are two."""
    one_way: bool = False
    tries: int = 0
    """Starts of its watch that the version on trial still gets."""
    begun: bool = False
    """The service was restarted after the phase began."""
    reason: str = ""
    previous: str = ""
    """The version to which a rollback goes; empty: there is none."""
    no_way_back: bool = False
    """The previous version could not open what the present one wrote."""
    last: LastUpdate | None = None

    def to(self, phase: UpdatePhase, **changes: Any) -> UpdateRecord:
        """The record in its next phase. Raises AssertionError where there is no such way."""
        assert phase in PHASES[self.phase], f"{self.phase} -> {phase}"
        return replace(self, phase=phase, begun=False, **changes)

    def dropped(self) -> UpdateRecord:
        """The record without an update that was not begun, or given up before the service saw it."""
        return UpdateRecord(previous=self.previous, no_way_back=self.no_way_back, last=self.last)

    def ended(self, result: UpdateResult, wall_s: float, reason: str = "") -> UpdateRecord:
        """The record after the end of the update."""
        confirmed = result is UpdateResult.CONFIRMED
        assert UpdatePhase.NONE in PHASES[self.phase], self.phase
        return UpdateRecord(
            previous=self.before if confirmed else self.previous,
            no_way_back=self.one_way if confirmed else self.no_way_back,
            last=LastUpdate(self.version, result, reason or self.reason, wall_s),
        )


@dataclass(frozen=True, slots=True)
class VersionsOnDisk:
    """What the folder of versions holds."""

    current: str
    """The version that the link in use names; PACKAGE without one."""
    trial: str = ""
    """The version that the link of the trial names; empty: there is none."""
    versions: frozenset[str] = frozenset()
    """Versions that lie there whole."""
    unfinished: bool = False
    """There is something of a version that was not unpacked to its end."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write the journal."""

    record: UpdateRecord


@dataclass(frozen=True, slots=True)
class RemoveUnfinished:
    """Remove what was not unpacked to its end."""


@dataclass(frozen=True, slots=True)
class RemoveVersion:
    """Remove a version that is not needed any more."""

    version: str


@dataclass(frozen=True, slots=True)
class StartTrial:
    """Let the link of the trial name this version; the service starts it from then on."""

    version: str


@dataclass(frozen=True, slots=True)
class EndTrial:
    """Remove the link of the trial: the service starts the version in use from then on."""


@dataclass(frozen=True, slots=True)
class Use:
    """Let the link in use name this version."""

    version: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart the service, then write this record."""

    then: UpdateRecord


@dataclass(frozen=True, slots=True)
class Watch:
    """Wait until the version on trial confirms itself, or the time for it is over."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The update is over: write how it ended."""

    result: UpdateResult


Step: TypeAlias = (
    Save | RemoveUnfinished | RemoveVersion | StartTrial | EndTrial | Use | Restart | Watch | Finish
)


def next_step(record: UpdateRecord, disk: VersionsOnDisk) -> Step | None:
    """The next thing to do; None where nothing is."""
    match record.phase:
        case UpdatePhase.UNPACKING:
            return RemoveUnfinished() if disk.unfinished else Save(record.dropped())
        case UpdatePhase.READY:
            return Save(record.dropped())
        case UpdatePhase.TRIAL:
            return _in_trial(record, disk)
        case UpdatePhase.CONFIRMED:
            return _confirmed(record, disk)
        case UpdatePhase.RETURNING:
            if disk.trial:
                return EndTrial()
            return Finish(UpdateResult.CAME_BACK) if record.begun else Restart(replace(record, begun=True))
        case _:
            return _at_rest(record, disk)


def _in_trial(record: UpdateRecord, disk: VersionsOnDisk) -> Step:
    if record.version not in disk.versions and record.version != PACKAGE:
        return Save(
            record.to(UpdatePhase.RETURNING, reason=f"version {record.version} is gone from the disk")
        )
    if disk.trial != record.version:
        return StartTrial(record.version)
    return Watch() if record.begun else Restart(replace(record, begun=True))


def _confirmed(record: UpdateRecord, disk: VersionsOnDisk) -> Step:
    """The link in use first: without the link of the trial the service would start the version before."""
    if disk.current != record.version:
        return Use(record.version)
    if disk.trial:
        return EndTrial()
    if record.one_way and not record.begun:
        return Restart(replace(record, begun=True))
    return Finish(UpdateResult.CONFIRMED)


def _at_rest(record: UpdateRecord, disk: VersionsOnDisk) -> Step | None:
    """Remove what an update left. Without a journal the link of a trial counts for nothing.

    The version that was confirmed last stays where a person named another one by hand: it may be the only one
    that opens the store.
    """
    if disk.trial:
        return EndTrial()
    if disk.unfinished:
        return RemoveUnfinished()
    confirmed = record.last.version if record.last and record.last.result is UpdateResult.CONFIRMED else ""
    surplus = sorted(disk.versions - {disk.current, record.previous, confirmed})
    return RemoveVersion(surplus[0]) if surplus else None


def trouble_of(record: UpdateRecord) -> str:
    """The last update in a sentence where it came back; empty where it did not, or another one goes on."""
    last = record.last
    if last is None or last.result is not UpdateResult.CAME_BACK or record.phase is not UpdatePhase.NONE:
        return ""
    return f"the update to {last.version} came back: {last.reason}"


def waits_for_rehearsal(record: UpdateRecord, booted: str) -> bool:
    """True in a slot on trial whose version would change the store for ever: it has to be rehearsed first."""
    return record.phase is UpdatePhase.TRIAL and record.one_way and record.slot == booted


def tried(record: UpdateRecord) -> UpdateRecord:
    """Count one start of the watch: the device was switched on, or the watch itself was ended.

    The first is counted before the service is restarted: a power cut then has used one of them.
    """
    assert record.phase is UpdatePhase.TRIAL
    if record.tries <= 0:
        return record.to(
            UpdatePhase.RETURNING,
            reason=record.reason or f"not confirmed within {TRIES} starts of the device",
        )
    return replace(record, tries=record.tries - 1)


@dataclass(frozen=True, slots=True)
class SlotStep:
    """Write the slot choice, where there is one, and then the journal, where there is a record."""

    choice: SlotChoice | None = None
    record: UpdateRecord | None = None


def next_slot_step(record: UpdateRecord, choice: SlotChoice, booted: str, wall_s: float) -> SlotStep | None:
    """The same as `next_step` for two slots, where the machine is restarted by a person or a service."""
    if record.phase is UpdatePhase.NONE:
        stale = choice.trial and booted != choice.trial
        return SlotStep(choice=clear_trial(choice)) if stale else None
    if record.phase is not UpdatePhase.TRIAL:
        return SlotStep(record=record.dropped())
    if choice.active == record.slot:
        return SlotStep(record=record.to(UpdatePhase.CONFIRMED).ended(UpdateResult.CONFIRMED, wall_s))
    if came_back(choice, booted):
        reason = record.reason or f"not confirmed within {TRIES} starts"
        back = record.to(UpdatePhase.RETURNING).ended(UpdateResult.CAME_BACK, wall_s, reason)
        return SlotStep(record=back)
    if choice.trial != record.slot and booted != record.slot:
        return SlotStep(choice=begin_trial(choice, record.slot))
    return None
