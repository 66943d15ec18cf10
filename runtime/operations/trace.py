"""The data of `edgectl trace`: one message, from the store's file and upload's status record.

Both are read without asking any process, so it is known with everything down, too. What `upload` knows of a
message is believed only while that very process lives; the time of a delivery stays true after it.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from runtime.adapters.process.clock import Clock, read_moment
from runtime.adapters.process.process import lock_holder
from runtime.adapters.process.status_file import StatusRecord, last_record
from runtime.adapters.store.history_reader import HistoryReader, PossibleLoss
from runtime.core.message import CorruptRow, StoredMessage
from runtime.core.moment import Moment
from runtime.errors import UsageError
from runtime.layout import Layout

MOST_COUNTED = 10_000
"""So many of the oldest messages are looked through for those that stand before it in its stream."""
SETTLED = "settled"
"""The state of a message that left the store so long ago that its outcome is no longer known."""
NOTHING_KNOWN = StatusRecord({})


def look_up(layout: Layout, clock: Clock, id: int) -> dict[str, Any]:
    """Everything that is known of message `id`. Raises UsageError for an id that was never given."""
    with closing(HistoryReader(layout.messages_db)) as reader:
        next_id = reader.next_id()  # before the row is looked for: one that is removed meanwhile was given
        if not 0 < id < next_id:
            upper = f"1 to {next_id - 1}" if next_id > 1 else "none yet"
            raise UsageError(f"there never was a message {id}; ids given so far: {upper}")
        rows = reader.after(id - 1, 1, 1)
        row = rows[0] if rows and rows[0].id == id else None
        ahead = reader.ahead(id, MOST_COUNTED) if row is not None else 0
        aside = next((held for held in reader.quarantine(id - 1, 1) if held.message.id == id), None)
        owner = reader.owner(id)
        losses = reader.possible_losses(id) if row is None and aside is None else []
        store = reader.uuid
    upload = last_record(layout.status_file("upload"), clock.boot_id())
    trace = _part(upload, "trace")
    if trace.text("store") != store:
        trace = NOTHING_KNOWN
    pid = lock_holder(layout.lock("upload"))
    lives = pid is not None and upload.number("pid") == pid
    facts: dict[str, Any] = {"id": id, "state": SETTLED, **({"owner": owner} if owner else {})}
    if row is not None:
        facts |= _of_row(row, layout, clock) | {"state": "stored", "ahead": ahead, "upload": "down"}
        if lives:
            facts |= _of_connection(upload, clock.boot_s())
            facts |= _of_record(trace, id, clock.boot_s())
    elif aside is not None:
        facts |= _of_row(aside.message, layout, clock) | {"state": "set aside", "reason": aside.reason}
        facts["since_s"] = _age_s(clock.wall_s(), aside.set_aside_wall_s)
    facts |= _delivered(trace, id, clock.boot_s(), removed=row is None)
    if facts["state"] == SETTLED:
        facts["losses"] = [_of_loss(loss) for loss in losses]
    return facts


def _of_connection(upload: StatusRecord, now_boot_s: float) -> dict[str, Any]:
    """The connection that the message waits for, or is sent over."""
    return {
        "upload": upload.text("state"),
        "barred": upload.text("barred"),
        "connected_s": upload.age_s("connected_boot_s", now_boot_s),
        "puback_age_s": upload.age_s("puback_boot_s", now_boot_s),
        "trouble": upload.text("trouble"),
    }


def _of_loss(loss: PossibleLoss) -> dict[str, Any]:
    return {
        "stream": loss.stream,
        "reason": loss.reason,
        "messages": loss.messages,
        "ids": [loss.first_id, loss.last_id],
        "certain": loss.is_certain,
    }


def _of_row(row: StoredMessage | CorruptRow, layout: Layout, clock: Clock) -> dict[str, Any]:
    """The facts about a message by its row in the store."""
    if isinstance(row, CorruptRow):
        return {"damage": row.reason}
    then = Moment(row.stored_wall_s or 0.0, row.stored_boot_s, row.stored_boot_id)
    known = row.stored_wall_s is not None or row.stored_boot_id == clock.boot_id()
    age_s = read_moment(clock).since(then) if known else None
    size_bytes = len(row.payload)
    if row.file is not None:
        path = layout.spool / row.file
        size_bytes = path.stat().st_size if path.exists() else 0
    return {
        "stored": None if row.stored_wall_s is None else _date(row.stored_wall_s),
        "stored_age_s": None if age_s is None else round(age_s, 1),
        "stream": str(row.name),
        "key": row.key,
        "bytes": size_bytes,
        "file": row.file,
        "batch": row.batch_id,
        "priority": row.priority,
        "ttl_s": row.ttl_s,
    }


def _of_record(trace: StatusRecord, id: int, now_boot_s: float) -> dict[str, Any]:
    """The facts about a message by the status file of upload, which lives."""
    for record in map(trace.part, trace.parts("records")):
        if record.number("id") == id:
            numbers = ("attempts", "upload_failures", "failures", "pieces", "reached")
            figures = {name: record.number(name) for name in numbers}
            return {
                "state": record.text("state"),
                "since_s": record.age_s("since_boot_s", now_boot_s),
                **figures,
            }
    states = trace.values.get("states")
    for state, ranges in states.items() if isinstance(states, dict) else ():
        if any(first <= id <= last for first, last in _ranges(ranges, 2)):
            return {"state": state}
    return {"state": "queued"}


def _delivered(trace: StatusRecord, id: int, now_boot_s: float, *, removed: bool) -> dict[str, Any]:
    """When the hub acknowledged it, while that is known."""
    if not trace.same_boot:
        return {}
    for first, last, at_s in _ranges(trace.values.get("delivered"), 3):
        if first <= id <= last:
            return {
                "state": "delivered",
                "delivered_s": round(max(0.0, now_boot_s - at_s), 1),
                "removed": removed,
            }
    return {}


def _ranges(ranges: object, length: int) -> list[list[float]]:
    """The well-formed ranges of a list in a status record, which may hold anything."""
    return [
        part
        for part in (ranges if isinstance(ranges, list) else ())
        if isinstance(part, list) and len(part) == length and all(isinstance(n, int | float) for n in part)
    ]


def _part(record: StatusRecord, name: str) -> StatusRecord:
    value = record.values.get(name)
    return record.part(value) if isinstance(value, dict) else NOTHING_KNOWN


def _age_s(wall_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(max(0.0, wall_s - then_s), 1)


def _date(wall_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
