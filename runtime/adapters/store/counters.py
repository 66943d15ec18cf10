"""Counters of one commit: its changes to the stored totals, so that the store never counts its messages."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.adapters.store.statements import SIZE
from runtime.core.ingest.quota import (
    EARLIER,
    NOTHING,
    TOP_PRIORITY,
    Amount,
    Levels,
    OverflowPolicy,
    countable,
)
from runtime.core.message import StreamName
from runtime.core.settlement import to_ranges

COUNTABLE = f"priority BETWEEN 0 AND {TOP_PRIORITY} AND typeof(priority) = 'integer' AND {SIZE} >= 0"
FORGET_LEVELS = "UPDATE levels SET messages = 0, bytes = 0"
WRITE_LEVEL = (
    "INSERT INTO levels (stream, priority, messages, bytes, stored, delivered) VALUES (?, ?, ?, ?, 0, 0) "
    "ON CONFLICT (stream, priority) DO UPDATE SET messages = excluded.messages, bytes = excluded.bytes"
)
READ_LEVELS = "SELECT stream, priority, messages, bytes FROM levels"
LEAVING = f"SELECT stream, priority, count(*), sum({SIZE}) FROM messages"  # noqa: S608  # our own names
EVICTIONS_REMEMBERED = 10_000
"""More messages than the send queue holds."""
DISCARDED = "discarded"
"""Reason of messages in quarantine that an operator gave up."""
POLICIES = frozenset(policy.value for policy in OverflowPolicy if policy is not OverflowPolicy.REJECT)
"""Reasons of messages that were dropped for want of room."""
Evicted = tuple[int, int, int, str]
"""Stream, priority, bytes and reason of a message that was dropped for want of room."""
QUARANTINED = "quarantined"
"""Reason of messages that are set aside now: undelivered, and still stored. They are not lost yet."""
REQUEUED = "requeued"
"""Name of the counter of messages that came back from quarantine."""
UNKNOWN = 0
"""The number of no stream: messages are counted under it whose row no longer tells the stream."""
BY_LEVEL = f"AND {COUNTABLE} GROUP BY stream, priority"


def count_levels(db: sqlite3.Connection) -> tuple[list[tuple[int, int, int, int]], int]:
    """Count every message, and write the levels. Row by row: SQLite would sort the rows, in memory.

    Returns all levels, and the number of rows whose level is unknown.
    """
    levels: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    uncounted = 0
    rows = db.execute(
        f"SELECT stream IN (SELECT id FROM streams) AND {COUNTABLE}, stream, priority, {SIZE} FROM messages"  # noqa: S608  # our own names
    )
    for known, stream, priority, size in rows:
        if not known:
            uncounted += 1
            continue
        level = levels[stream, priority]
        level[0] += 1
        level[1] += size
    db.execute(FORGET_LEVELS)
    db.executemany(WRITE_LEVEL, [(*level, *amount) for level, amount in levels.items()])
    return db.execute(READ_LEVELS).fetchall(), uncounted


@dataclass(frozen=True, slots=True)
class Loss:
    """Messages that left the store undelivered."""

    stream: StreamName
    reason: str
    amount: Amount
    ranges: Sequence[Sequence[int]]
    """Closed ranges of ids."""
    files: Sequence[str] = ()
    """Files in the spool that no message needs any more."""


@dataclass
class Change:
    """Changes that one transaction makes to the counters of one (stream, priority)."""

    messages: int = 0
    bytes: int = 0
    stored: int = 0
    delivered: int = 0

    @property
    def amount(self) -> Amount:
        return Amount(self.messages, self.bytes)

    def add(self, other: Change) -> None:
        self.messages += other.messages
        self.bytes += other.bytes
        self.stored += other.stored
        self.delivered += other.delivered


def without(
    levels: Levels, total: Amount, leaving: Sequence[tuple[StreamName, int, Amount]]
) -> tuple[Levels, Amount]:
    """Levels and total that are left when `leaving` has left."""
    if not leaving:
        return levels, total
    left = {name: dict(priorities) for name, priorities in levels.items()}
    for name, priority, amount in leaving:
        level = left.setdefault(name, {})
        level[priority] = level.get(priority, NOTHING).minus(amount)
        total = total.minus(amount)
    return left, total


@dataclass
class StoreCounters:
    """The changes of one commit; thrown away when it fails."""

    next_id: int
    names: Mapping[int, StreamName] = field(default_factory=dict)
    """The streams of the store, by number."""
    levels: defaultdict[tuple[int, int], Change] = field(default_factory=lambda: defaultdict(Change))
    lost: defaultdict[tuple[int, str], list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """(id, bytes) by (stream, reason)."""
    regained: defaultdict[tuple[int, str], Amount] = field(default_factory=lambda: defaultdict(Amount))
    """Messages counted as lost before, by (stream, reason), that are not lost."""
    evicted: dict[int, Evicted] = field(default_factory=dict)
    """Lost messages that a limit's policy dropped: the hub may still receive them."""
    after_all: list[int] = field(default_factory=list)
    """Messages that were dropped before, and that the hub has."""
    beside: dict[tuple[int, str], int] = field(default_factory=dict)
    """Counted beside the ledger's identity: by (stream, REQUEUED) what came back from quarantine, by (stream,
    reason) what was counted as lost and is at the hub."""
    delivered_unknown: int = 0
    """Delivered messages whose row does not tell the level."""
    files: defaultdict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Files in the spool of the lost messages, by (stream, reason)."""
    left: list[tuple[int, int, int, int]] | None = None
    """(id, stream, priority, bytes) of messages that left, for a recount in progress; None without one."""
    back: list[tuple[int, int]] = field(default_factory=list)
    """(priority, bytes) of messages that came back from quarantine."""
    noted: dict[int, int] | None = None
    """Deliveries that a row of this commit notes, where it only inserts rows, and the size of each in bytes;
    None where it folds."""
    doubtful: bool = False
    """True if a damaged row came or left: it is not known how it was counted."""
    recounted: Sequence[tuple[int, int, int, int]] | None = None
    """All levels (stream, priority, messages, bytes) as they are after this commit."""

    def added(self, stream: int, priority: int, amount: Amount) -> None:
        """Count messages that arrived."""
        change = self.levels[stream, priority]
        change.messages += amount.messages
        change.stored += amount.messages
        change.bytes += amount.bytes

    def returned(self, stream: int, priority: int, size: int) -> None:
        """Count a message that came back from quarantine: it was counted as stored before."""
        if self._countable(stream, priority, size):
            change = self.levels[stream, priority]
            change.messages += 1
            change.bytes += size
            self.back.append((priority, size))
        counted_as = self._number(stream)
        self._count_beside(counted_as, REQUEUED)
        self._regain(counted_as, QUARANTINED, max(0, size))

    def delivered_after_all(self, number: int, evicted: Evicted) -> None:
        """Count as delivered a message that was dropped while it was in flight, and that the hub has."""
        stream, priority, size, reason = evicted
        if stream not in self.names:  # its name was given back since: it is counted with the earlier streams
            stream = next(earlier for earlier, name in self.names.items() if name == EARLIER)
        self.after_all.append(number)
        self.levels[stream, priority].delivered += 1
        self._regain(stream, reason, size)
        self._count_beside(stream, reason)

    def _count_beside(self, stream: int, what: str) -> None:
        self.beside[stream, what] = self.beside.get((stream, what), 0) + 1

    def _regain(self, stream: int, reason: str, size: int) -> None:
        self.regained[stream, reason] = self.regained[stream, reason].plus(Amount(1, size))

    def removed(
        self, number: int, stream: int, priority: int, size: int, file: str | None, lost: str | None
    ) -> None:
        """Count a message that left: delivered, or lost for the reason `lost`."""
        counted = self._countable(stream, priority, size)
        known = counted or self._countable(stream, priority, 0)
        if counted:
            change = self.levels[stream, priority]
            change.messages -= 1
            change.bytes -= size
            if self.left is not None:
                self.left.append((number, stream, priority, size))
        size = max(0, size)
        if lost is not None:
            self._lose(number, stream, priority, size, file, lost, known=known)
        elif known:
            self.levels[stream, priority].delivered += 1
        else:
            self.delivered_unknown += 1

    def _lose(
        self, number: int, stream: int, priority: int, size: int, file: str | None, why: str, *, known: bool
    ) -> None:
        place = (self._number(stream), why)
        self.lost[place].append((number, size))
        if known and why in POLICIES:
            self.evicted[number] = (stream, priority, size, why)
        if known and isinstance(file, str) and why != QUARANTINED:
            self.files[place].append(file)

    def given_up(self, number: int, stream: object, size: int, file: object, why: str) -> None:
        """Count a message that leaves quarantine and is lost; it is in no level any more, damaged or not."""
        place = (self._number(stream), why)
        self.lost[place].append((number, size))
        self._regain(place[0], QUARANTINED, size)  # it is set aside no longer
        if isinstance(file, str):
            self.files[place].append(file)

    def _number(self, stream: object) -> int:
        """The number under which messages of this stream are counted."""
        return stream if isinstance(stream, int) and stream in self.names else UNKNOWN

    def _countable(self, stream: object, priority: object, size: object) -> bool:
        """True if the row's level is known and sound. A damaged row was counted elsewhere."""
        known = stream in self.names and countable(priority, size)
        self.doubtful = self.doubtful or not known
        return known

    def losses(self, names: Mapping[int, StreamName]) -> list[Loss]:
        """The losses, for the log; and the files that no message names any more."""
        return [
            Loss(
                names.get(stream, StreamName(None, None)),
                reason,
                Amount(len(lost), sum(size for _, size in lost)),
                to_ranges(number for number, _ in lost),
                self.files[stream, reason],
            )
            for (stream, reason), lost in self.lost.items()
        ]


class Evictions:
    """Messages dropped recently for want of room: the send queue may hold one and still deliver it."""

    def __init__(self) -> None:
        self._dropped: dict[int, Evicted] = {}

    def among(self, ids: Iterable[int]) -> list[tuple[int, Evicted]]:
        """Those of these messages that were dropped."""
        return [(number, self._dropped[number]) for number in set(ids) & self._dropped.keys()]

    def committed(self, changes: StoreCounters) -> None:
        """Take over the evictions of a commit that is on disk."""
        for number in changes.after_all:
            self._dropped.pop(number, None)
        self._dropped.update(changes.evicted)
        while len(self._dropped) > EVICTIONS_REMEMBERED:
            del self._dropped[next(iter(self._dropped))]


def overdrawn(changes: StoreCounters, levels: Levels) -> bool:
    """True if more leaves than came: the size in a row is not the size with which it was counted."""
    return any(
        min(levels.get(changes.names[number], {}).get(priority, NOTHING).plus(change.amount)) < 0
        for (number, priority), change in changes.levels.items()
        if change.bytes < 0
    )


def write_changes(db: sqlite3.Connection, levels: Mapping[tuple[int, int], Change]) -> None:
    """Write changes to the counters of stored messages."""
    db.executemany(
        "INSERT INTO levels (stream, priority, messages, bytes, stored, delivered) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (stream, priority) DO UPDATE SET "
        "messages = messages + excluded.messages, bytes = bytes + excluded.bytes, "
        "stored = stored + excluded.stored, delivered = delivered + excluded.delivered",
        [(*level, c.messages, c.bytes, c.stored, c.delivered) for level, c in levels.items()],
    )


def write_losses(db: sqlite3.Connection, changes: StoreCounters) -> None:
    """Write the commit's changes to the counters of lost messages."""
    db.executemany(
        "INSERT INTO losses (stream, reason, messages, bytes, first_id, last_id) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (stream, reason) DO UPDATE SET "
        "messages = messages + excluded.messages, "
        "bytes = bytes + excluded.bytes, last_id = excluded.last_id",
        [
            (*place, len(lost), sum(size for _, size in lost), min(lost)[0], max(lost)[0])
            for place, lost in changes.lost.items()
        ],
    )
    db.executemany(
        "INSERT INTO losses (stream, reason, messages, bytes, first_id, last_id) "
        "VALUES (?1, ?2, -?3, 0, 0, 0) ON CONFLICT (stream, reason) DO UPDATE SET "
        "messages = messages - ?3, bytes = max(0, bytes - ?4)",
        [(*place, *amount) for place, amount in changes.regained.items()],
    )
