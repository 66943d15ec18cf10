"""The rows of management.db: the twin's record, commands and kept answers, as JSON beside their payloads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runtime.core.management.call_record import KeptAnswer
from runtime.core.management.command_record import CommandRow, CommandState, Lease, Retry
from runtime.core.management.strict_json import encode_json
from runtime.core.management.twin_record import AlteredSection, AppliedChange, RefusedSection, TwinRecord
from runtime.core.moment import Moment

TWIN_DOCUMENTS = ("desired", "confirmed", "wanted")
"""Each has a row of its own: a report changes one of them."""


def text_of_json(value: Any) -> str:
    """Compact JSON in ASCII: what is no valid Unicode comes back as it was."""
    return json.dumps(value, separators=(",", ":"))


def content_of(properties: Mapping[str, str], payload: bytes) -> str:
    """What tells two commands apart that a sender gave one message id: digest of properties and payload."""
    digest = hashlib.sha256(encode_json(sorted(properties.items())) + b"\0" + payload)
    return digest.hexdigest()


def moment_to_json(moment: Moment | None) -> list[Any] | None:
    return None if moment is None else [moment.wall_s, moment.boot_s, moment.boot_id]


def moment_from_json(value: Any) -> Moment | None:
    return None if value is None else Moment(float(value[0]), float(value[1]), str(value[2]))


# --- twin ---


def twin_marks(record: TwinRecord) -> str:
    """All of the record but the documents."""
    marks = {
        "device_id": record.device_id,
        "desired_version": record.desired_version,
        "reported_version": record.reported_version,
        "touched": sorted(record.touched),
        "change": record.change,
        "desired_changes": dict(record.desired_changes),
        "wanted_changes": dict(record.wanted_changes),
        "vanished": record.vanished,
        "refused": {name: list(mark) for name, mark in record.refused.items()},
        "altered": {name: list(mark) for name, mark in record.altered.items()},
        "applied": [[list(path), *word] for path, word in record.applied.items()],
        "restarts": record.restarts,
    }
    return text_of_json(marks)


def twin_from_rows(rows: Mapping[str, str]) -> TwinRecord:
    """The record of these rows; without any that of a new device. Raises ValueError, KeyError, TypeError."""
    if not rows:
        return TwinRecord()
    marks = json.loads(rows["marks"])
    return TwinRecord(
        device_id=marks["device_id"],
        desired=json.loads(rows["desired"]),
        desired_version=marks["desired_version"],
        confirmed=json.loads(rows["confirmed"]),
        reported_version=marks["reported_version"],
        wanted=json.loads(rows["wanted"]),
        touched=frozenset(marks["touched"]),
        change=marks["change"],
        desired_changes=marks["desired_changes"],
        wanted_changes=marks["wanted_changes"],
        vanished=marks["vanished"],
        refused={name: RefusedSection(*mark) for name, mark in marks["refused"].items()},
        altered={name: AlteredSection(*mark) for name, mark in marks["altered"].items()},
        applied={tuple(path): AppliedChange(*word) for path, *word in marks["applied"]},
        restarts=marks["restarts"],
    )


SELECT_TWIN = "SELECT name, text FROM twin WHERE name <> 'received'"
"""The rows of `twin_from_rows`; the one that is left out says when the hub sent the twin last."""

# --- commands ---

COMMAND_COLUMNS = "seq, row, payload, result, result_stored"


def command_to_json(command: CommandRow) -> str:
    """All of a command but what has a column of its own."""
    lease, retry = command.lease, command.retry
    return text_of_json(
        {
            "id": command.id,
            "name": command.name,
            "received": moment_to_json(command.received),
            "leaf": command.leaf,
            "properties": dict(command.properties),
            "digest": command.digest,
            "life_s": command.life_s,
            "once": command.once,
            "reboot": command.reboot,
            "state": str(command.state),
            "attempts": command.attempts,
            "lease": lease and [lease.holder, lease.poll, moment_to_json(lease.since), lease.lease_s],
            "retry": retry and [retry.token, moment_to_json(retry.since), retry.after_s],
            "status": command.status,
            "reason": command.reason,
            "ended_token": command.ended_token,
            "dropped": command.dropped,
            "ended": moment_to_json(command.ended),
        }
    )


def command_from_row(row: tuple[Any, ...]) -> CommandRow:
    """The command of a row of COMMAND_COLUMNS. Raises ValueError, KeyError, TypeError."""
    seq, text, payload, result, stored = row
    said = json.loads(text)
    lease, retry = said["lease"], said["retry"]
    return CommandRow(
        seq,
        said["id"],
        said["name"],
        payload,
        _moment(said["received"]),
        leaf=said["leaf"],
        properties=said["properties"],
        digest=said["digest"],
        life_s=said["life_s"],
        once=said["once"],
        reboot=said["reboot"],
        state=CommandState(said["state"]),
        attempts=said["attempts"],
        lease=Lease(lease[0], lease[1], _moment(lease[2]), lease[3]) if lease else None,
        retry=Retry(retry[0], _moment(retry[1]), retry[2]) if retry else None,
        status=said["status"],
        reason=said["reason"],
        result=result,
        ended_token=said["ended_token"],
        dropped=said["dropped"],
        ended=moment_from_json(said["ended"]),
        result_stored=bool(stored),
    )


def _moment(value: Any) -> Moment:
    moment = moment_from_json(value)
    if moment is None:
        raise ValueError("a moment is missing")
    return moment


def answer_from_row(row: tuple[Any, ...]) -> KeptAnswer:
    method, call_id, status, payload, kept = row
    return KeptAnswer(method, call_id, status, payload, _moment(json.loads(kept)))
