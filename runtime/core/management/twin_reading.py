"""The hub's messages about the twin, taken into the record: the answer to a GET, and patches of desired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from runtime.core.management.grants import OWN_SECTIONS
from runtime.core.management.twin import difference, merged, sharing
from runtime.core.management.twin_record import AlteredSection, DesiredPatch, TwinRecord
from runtime.core.management.twin_reports import with_desired
from runtime.core.management.twin_rules import Document, same


class AcknowledgedPatch(NamedTuple):
    """The last patch of a section that the hub acknowledged."""

    patch: Any
    times: int
    """Number of times in a row that it was the same."""


def patched(record: TwinRecord, event: DesiredPatch) -> TwinRecord | None:
    """The record with the next desired patch, or None where one before it is missing."""
    if not isinstance(event.patch, Mapping) or event.version != (record.desired_version or 0) + 1:
        return None
    return with_desired(record, merged(record.desired, _own(event.patch)), event.version)


Half = tuple[Document, int]


def halves(body: Any) -> tuple[Half, Half] | None:
    """Desired and reported with their versions, or None where the body is no twin."""
    found = []
    for name in ("desired", "reported"):
        half = body.get(name) if isinstance(body, Mapping) else None
        version = half.get("$version") if isinstance(half, Mapping) else None
        if not isinstance(half, Mapping) or type(version) is not int:
            return None
        found.append((_own(half), version))
    return found[0], found[1]


def _own(half: Mapping[str, Any]) -> Document:
    """A half, or a patch of it, without what the hub adds at the top level."""
    return {name: value for name, value in half.items() if name not in ("$version", "$metadata")}


def read(record: TwinRecord, device_id: str, desired: Half, reported: Half) -> TwinRecord:
    """The record after a GET."""
    another = record.device_id not in ("", device_id)
    began_again = another or desired[1] < (record.desired_version or 0)
    wanted = record.wanted
    if not record.device_id and "" not in record.touched:  # the first of a life: keep what another SDK said
        left_alone = {*record.touched, *OWN_SECTIONS}  # progress of commands that another life has begun
        adopted = {name: value for name, value in reported[0].items() if name not in left_alone}
        wanted = {**adopted, **wanted}
    read = replace(
        record,
        device_id=device_id,
        confirmed=sharing(reported[0], wanted),
        reported_version=reported[1],
        wanted=wanted,
        touched=frozenset(),
        refused={} if another else record.refused,
        altered={} if another else record.altered,
        restarts=record.restarts + began_again,
    )
    return with_desired(read, desired[0], desired[1])


def marked_altered(
    record: TwinRecord, acknowledged: Mapping[str, AcknowledgedPatch]
) -> tuple[TwinRecord, Mapping[str, AcknowledgedPatch]]:
    """Mark the sections that the hub acknowledged twice and shows differently."""
    open_ = difference(record.confirmed, record.wanted)
    still = {
        name: patch
        for name, patch in acknowledged.items()
        if name in open_ and same(patch.patch, open_[name])
    }
    marks = {
        name: AlteredSection(record.wanted.get(name), record.confirmed.get(name))
        for name, patch in still.items()
        if patch.times >= 2
    }
    return replace(record, altered={**record.altered, **marks}), still
