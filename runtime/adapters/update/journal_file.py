"""The journal of updates: one JSON file, replaced as a whole, readable by all.

It is root's, and beside the versions, not in the home: the service's user must not choose what root does. The
workers read it to report how the last update ended.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from runtime.adapters.update.durable_files import DurableFiles
from runtime.core.update.progress import LastUpdate, UpdatePhase, UpdateRecord, UpdateResult

NAME = "update.json"


def read_journal(folder: Path) -> UpdateRecord:
    """The record; one of no update where the file is missing or damaged."""
    try:
        values = json.loads((folder / NAME).read_text())
        return _parsed(values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return UpdateRecord()


def write_journal(folder: Path, record: UpdateRecord, files: DurableFiles) -> None:
    """Write the record; it is on disk when this returns."""
    text = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
    files.write(folder / NAME, text.encode())


def journal_facts(folder: Path) -> dict[str, Any]:
    """What is under way, and how the last update ended, for a program."""
    record = read_journal(folder)
    last = dataclasses.asdict(record.last) if record.last else None
    return {
        "phase": str(record.phase),
        "version": record.version or None,
        "tries": record.tries if record.phase is UpdatePhase.TRIAL else None,
        "previous": record.previous or None,
        "no_way_back": record.no_way_back,
        "last": {**last, "result": str(last["result"])} if last else None,
    }


def _parsed(values: dict[str, Any]) -> UpdateRecord:
    last = values.pop("last", None)
    names = {field.name for field in dataclasses.fields(UpdateRecord)}
    known = {name: value for name, value in values.items() if name in names}  # a newer version may know more
    plain = UpdateRecord()
    for name, value in known.items():
        if name != "phase" and type(value) is not type(getattr(plain, name)):
            raise ValueError(f"{name} of the journal is {value!r}")
    known["phase"] = UpdatePhase(known["phase"])
    if last is not None:
        known["last"] = LastUpdate(
            str(last["version"]), UpdateResult(last["result"]), str(last["reason"]), float(last["wall_s"])
        )
    return UpdateRecord(**known)
