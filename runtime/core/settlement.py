"""The outcome of stored messages, as `upload` and `edgectl quarantine` report it to ingest: types and
codec.

One JSON frame each way. A report is repeated until it is confirmed, and the confirmation is sent after the
commit that carried it out; carrying it out twice is harmless. Ids travel as closed ranges: deliveries are
mostly consecutive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from runtime.errors import Rejected


@dataclass(frozen=True, slots=True)
class Settled:
    """Messages that leave the store (or come back to it), by id."""

    delivered: Sequence[int] = ()
    quarantined: Sequence[tuple[int, str]] = ()
    """Messages set aside as undeliverable, with the reason."""
    dropped: Sequence[tuple[int, str]] = ()
    """Messages lost on purpose, with the reason, e.g. `expired`."""
    requeued: Sequence[int] = ()
    """Messages taken from quarantine back to the end of the store, under new ids."""
    discarded: Sequence[int] = ()
    """Messages deleted from quarantine."""

    def __bool__(self) -> bool:
        return any((self.delivered, self.quarantined, self.dropped, self.requeued, self.discarded))

    def ids(self) -> set[int]:
        """Every id that the report names."""
        return {*self.leaving(), *self.requeued, *self.discarded}

    def leaving(self) -> list[int]:
        """The ids that will no longer be among the stored messages."""
        reasons = (*self.quarantined, *self.dropped)
        return [*self.delivered, *(number for number, _ in reasons)]

    @classmethod
    def of(cls, reports: Iterable[Settled]) -> Settled:
        """Merge several reports into one."""
        merged = {name: [] for name in FIELDS}  # type: dict[str, list[Any]]
        for report in reports:
            for name, entries in merged.items():
                entries.extend(getattr(report, name))
        return cls(**merged)


FIELDS = tuple(field.name for field in fields(Settled))


@dataclass(frozen=True, slots=True)
class Report:
    """One request on the delivery socket."""

    number: int
    """The reporter chooses it; the confirmation repeats it."""
    settled: Settled = field(default_factory=Settled)
    damaged: str | None = None
    """The reader met damage in the store, described so: ingest should salvage it."""
    unreadable: bool = False
    """The cause may be the disk, and may pass."""
    store: str | None = None
    """The uuid of the store that the ids belong to; None: the store that is there now."""
    hurry: bool = False
    """The reporter ends soon: what it reported is to be carried out at once."""


def to_ranges(ids: Iterable[int]) -> list[list[int]]:
    """The ids as ascending closed ranges."""
    ranges: list[list[int]] = []
    for number in sorted(set(ids)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def _from_ranges(ranges: Any) -> tuple[int, ...]:
    return tuple(number for first, last in ranges for number in range(int(first), int(last) + 1))


def encode_report(report: Report) -> bytes:
    settled = report.settled
    record: dict[str, Any] = {
        "report": report.number,
        "delivered": to_ranges(settled.delivered),
        "quarantined": list(settled.quarantined),
        "dropped": list(settled.dropped),
        "requeued": to_ranges(settled.requeued),
        "discarded": to_ranges(settled.discarded),
        "damaged": report.damaged,
        "unreadable": report.unreadable or None,
        "store": report.store,
        "hurry": report.hurry or None,
    }
    return json.dumps({name: value for name, value in record.items() if value not in ([], None)}).encode()


def decode_report(frame: bytes) -> Report:
    """Decode a report. Raises Rejected where the frame is not one."""
    try:
        record = json.loads(frame)
        settled = Settled(
            _from_ranges(record.get("delivered", ())),
            tuple((int(number), str(reason)) for number, reason in record.get("quarantined", ())),
            tuple((int(number), str(reason)) for number, reason in record.get("dropped", ())),
            _from_ranges(record.get("requeued", ())),
            _from_ranges(record.get("discarded", ())),
        )
        return Report(
            int(record["report"]),
            settled,
            _entries(record, "damaged"),
            bool(record.get("unreadable")),
            _entries(record, "store"),
            bool(record.get("hurry")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Rejected(f"not a report: {exc!r}", code="bad_report") from None


def _entries(report: dict[str, Any], name: str) -> str | None:
    return None if report.get(name) is None else str(report[name])


def encode_confirmation(number: int) -> bytes:
    return json.dumps({"report": number}).encode()


def decode_confirmation(frame: bytes) -> int:
    return int(json.loads(frame)["report"])


def split(settled: Settled, most: int) -> list[Settled]:
    """Split a report into parts of at most `most` ids each."""
    parts: list[Settled] = []
    for name in FIELDS:
        entries = getattr(settled, name)
        starts = range(0, len(entries), most)
        parts.extend(Settled(**{name: tuple(entries[at : at + most])}) for at in starts)
    return parts
