"""Changes of the twin's record: reports of programs, applied changes, and new desired properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.grants import OWN_SECTIONS
from runtime.core.management.replies import AnswerProgram, Kept, ManagementRefusal
from runtime.core.management.twin import ReportMode, changed, section_of, value_at
from runtime.core.management.twin_record import AppliedChange, ChangeApplied, ReportMade, TwinRecord
from runtime.core.management.twin_rules import Document, pointer, same, text_of

MAX_APPLIED = 256
"""Most paths whose application is remembered; the oldest word goes first."""

Applied = tuple[TwinRecord, AnswerProgram]


def apply_report(record: TwinRecord, report: ReportMade) -> Applied:
    """The record after a report, and the answer; the same record where nothing is to be written."""
    try:
        _check_if_change(record, report)
        wanted = changed(record.wanted, report.mode, report.path, report.value)
    except RequestRefused as refused:
        return record, AnswerProgram(report.asker, ManagementRefusal.of(refused))
    if not report.path:  # the whole of what programs report; the worker's own stays
        wanted = {**wanted, **{name: record.wanted[name] for name in OWN_SECTIONS if name in record.wanted}}
    if same(wanted, record.wanted) and text_of(wanted) == text_of(record.wanted):
        return record, AnswerProgram(report.asker, Kept(record.wanted_change(report.path)))
    record = _with_wanted(record, wanted)
    if not record.device_id:
        record = replace(record, touched=record.touched | {section_of(report.path)})
    return record, AnswerProgram(report.asker, Kept(record.change))


def _check_if_change(record: TwinRecord, report: ReportMade) -> None:
    last = record.wanted_change(report.path)
    if report.if_change is not None and report.if_change != last:
        raise RequestRefused(
            ManagementCode.CHANGE_MOVED,
            f"{pointer(report.path)} was changed by number {last}, not {report.if_change}: read it again",
        )


def _with_wanted(record: TwinRecord, wanted: Document) -> TwinRecord:
    change = record.change + 1
    changes, gone = _changes(record.wanted_changes, record.wanted, wanted, change)
    marks = {name: mark for name, mark in record.refused.items() if same(mark.value, wanted.get(name))}
    altered = {name: mark for name, mark in record.altered.items() if same(mark.wanted, wanted.get(name))}
    return replace(
        record,
        wanted=wanted,
        change=change,
        wanted_changes=changes,
        vanished=change if gone else record.vanished,
        refused=marks,
        altered=altered,
    )


def with_desired(record: TwinRecord, desired: Document, version: int) -> TwinRecord:
    """The record with these desired properties; a section that means the same as before is no change."""
    change = record.change + 1
    changes, gone = _changes(record.desired_changes, record.desired, desired, change)
    if changes == record.desired_changes and not gone:
        return replace(record, desired=desired, desired_version=version)
    return replace(
        record,
        desired=desired,
        desired_version=version,
        change=change,
        desired_changes=changes,
        vanished=change if gone else record.vanished,
        applied={path: word for path, word in record.applied.items() if value_at(desired, path) is not None},
    )


def _changes(
    known: Mapping[str, int], before: Document, now: Document, change: int
) -> tuple[Mapping[str, int], bool]:
    """The number of each section's last change, and True if a section is gone."""
    changes = {
        name: known.get(name, change) if name in before and same(before[name], value) else change
        for name, value in now.items()
    }
    return changes, not before.keys() <= now.keys()


def apply_change(record: TwinRecord, event: ChangeApplied) -> Applied:
    """The record after a program's word about a desired change, and the answer."""
    last = record.desired_change(event.path)
    if value_at(record.desired, event.path) is None:
        code, words = ManagementCode.NO_SUCH_PATH, f"nothing is desired at {pointer(event.path)}"
    elif event.change != last:
        code = ManagementCode.CHANGE_MOVED
        words = f"{pointer(event.path)} was changed by number {last}, not {event.change}: apply that one"
    else:
        word = AppliedChange(event.change, event.status, event.message)
        if record.applied.get(event.path) == word:
            return record, AnswerProgram(event.asker, Kept(event.change))
        try:
            record = _acknowledged(record, event) if event.acknowledge else record
        except RequestRefused as refused:
            return record, AnswerProgram(event.asker, ManagementRefusal.of(refused))
        others = [item for item in record.applied.items() if item[0] != event.path]
        applied = dict([*others[-(MAX_APPLIED - 1) :], (event.path, word)])
        return replace(record, applied=applied), AnswerProgram(event.asker, Kept(event.change))
    return record, AnswerProgram(event.asker, ManagementRefusal(code, words))


def _acknowledged(record: TwinRecord, event: ChangeApplied) -> TwinRecord:
    """The record with the acknowledgement that IoT Plug and Play defines for a writable property."""
    value = {
        "value": value_at(record.desired, event.path),
        "ac": event.status,
        "av": record.desired_version,
        "ad": event.message,
    }
    return _with_wanted(record, changed(record.wanted, ReportMode.SET, event.path, value))
