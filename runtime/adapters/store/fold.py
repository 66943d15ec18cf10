"""The fold: rows are committed alone, and what the counters will say of them is written once for many.

An ordinary commit inserts rows, and nothing else: one page of the disk. A commit that wrote the counters, the
next id and the memory of the producers as well touched four. So these stay in memory, and the rows beyond
`store.folded` tell the same (`core/ingest/unfolded_rows.py`). A fold writes them in the transaction of the
commit that needs it: at FOLD_ROWS rows, wherever a row leaves the table (deliveries beyond a few, evictions,
quarantine), at a requeue, a new stream and a new producer, and where the disk has no room without it; and in
one of its own after FOLD_AFTER_S, where little room is left, and at a clean close.

Invariants:

1. The table is never behind the counters: a fold and what it counts are one transaction. `next_id` and
   `folded` state one number twice, and stand only beside counters of just the rows up to there.
2. Beyond `folded` the ids have no gap, and are MOST_UNFOLDED at most, and there are none in a store that was
   closed (`closed`, until its next commit): a row leaves in a fold only. Where the rows look otherwise the
   store is damaged; no flipped id decides where ids go on.
3. A message that a note calls delivered is counted as delivered in memory at once, and its row is deleted by
   the next fold.

Considered and left: holding deliveries in memory for the fold (costs the same, and a power cut repeats a
minute of messages), a table of notes (a second page for each commit).
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runtime.adapters.store.counters import Change, StoreCounters, count_levels, write_changes
from runtime.adapters.store.errors import StoreDamaged
from runtime.adapters.store.ledger import attribute_uncounted
from runtime.adapters.store.statements import IN, SIZE
from runtime.adapters.store.unfolded import MOST_UNFOLDED, is_fold_point, most_given
from runtime.core.ingest.ownership import row_boot
from runtime.core.ingest.quota import countable
from runtime.core.ingest.sequences import Sequences
from runtime.core.ingest.unfolded_rows import MOST_NOTED, StoredRequest, unpack_gone, unpack_requests

FOLD_ROWS = MOST_UNFOLDED
"""Rows, and notes of deliveries, between two folds."""
FOLD_BYTES = 4_194_304
"""The same in bytes: an opening reads the rows, and messages that are gone still take room on the disk."""
FOLD_AFTER_S = 60.0
_UNFOLDED = (
    f"SELECT id, stream, priority, {SIZE}, key, request, gone FROM messages "  # noqa: S608  # our own names
    "WHERE id > ? AND id <= ? ORDER BY id"
)


@dataclass
class Unfolded:
    """What was committed since the last fold."""

    rows: int = 0
    bytes: int = 0
    gone: set[int] = field(default_factory=set)
    """Messages that are delivered, and whose rows are still there."""
    since_s: float | None = None
    """Boot time of the first of these commits; None where there is none."""
    levels: defaultdict[tuple[int, int], Change] = field(default_factory=lambda: defaultdict(Change))

    def has_room(self, rows: int, size_bytes: int, noted: Mapping[int, int]) -> bool:
        """True if a commit of so much, which notes these deliveries, may go without a fold."""
        return (
            self.rows + len(self.gone) + rows + len(noted) <= FOLD_ROWS
            and self.bytes + size_bytes + sum(noted.values()) <= FOLD_BYTES
            and len(noted) <= MOST_NOTED
        )

    def add(self, changes: StoreCounters, rows: int, size_bytes: int, now_s: float) -> None:
        """Add a commit that is on disk."""
        noted = changes.noted or {}
        self.rows, self.bytes = self.rows + rows, self.bytes + size_bytes + sum(noted.values())
        self.gone |= noted.keys()
        self.since_s = now_s if self.since_s is None else self.since_s
        for level, change in changes.levels.items():
            self.levels[level].add(change)

    def write(self, db: sqlite3.Connection) -> None:
        """Write the levels, and delete what is gone, within the caller's transaction."""
        if self.gone:
            db.execute(f"DELETE FROM messages WHERE id IN {IN}", (json.dumps([*self.gone]),))  # noqa: S608
        write_changes(db, self.levels)


class Folded(NamedTuple):
    """The result of a fold from the rows."""

    next_id: int
    delivered_unknown: int = 0
    """Deliveries whose row does not tell its level any more."""


def fold_at_opening(db: sqlite3.Connection, owner_of: Callable[[int], str]) -> bool:
    """Write what the rows beyond the last fold tell, within the caller's transaction. False: there are none.

    Raises StoreDamaged where these rows are not what ordinary commits leave.
    """
    ((next_id, folded, closed),) = db.execute(
        "SELECT next_id, folded, closed FROM store WHERE id = 1"
    ).fetchall()
    if not is_fold_point(next_id, folded):
        raise StoreDamaged(f"the counters are said to count up to {folded}, and the next id to be {next_id}")
    ((newest,),) = db.execute("SELECT max(id) FROM messages").fetchall()
    if newest is None or newest <= folded:
        return False
    rows = _rows(db, folded)
    if newest != folded + len(rows) or newest > most_given(folded, closed):
        raise StoreDamaged(f"there is a message {newest}, and {len(rows)} behind {folded}")
    result = fold_rows(db, rows, owner_of)
    db.execute("UPDATE store SET next_id = ?1, folded = ?1 - 1", (result.next_id,))
    return True


def fold_salvaged(db: sqlite3.Connection, folded: int, owner_of: Callable[[int], str]) -> Folded:
    """The same for a salvaged store, whose rows may have gaps, and are counted as stored messages already."""
    rows = _rows(db, folded)
    result = fold_rows(db, rows, owner_of, counted=True)
    missing = result.next_id - 1 - folded - len(rows) if rows else 0
    if missing:  # they were stored, under a stream that nothing tells any more
        db.execute("UPDATE ledger SET stored = stored + ?", (missing,))
    return result


def _rows(db: sqlite3.Connection, folded: int) -> list[tuple[Any, ...]]:
    return db.execute(_UNFOLDED, (folded, folded + MOST_UNFOLDED)).fetchall()


def fold_rows(
    db: sqlite3.Connection,
    rows: Sequence[tuple[Any, ...]],
    owner_of: Callable[[int], str],
    *,
    counted: bool = False,
) -> Folded:
    """Write what these rows tell to the counters and to the memory of producers."""
    _remember(db, unpack_requests([(number, key, request) for number, *_, key, request, _ in rows], owner_of))
    streams = {number for (number,) in db.execute("SELECT id FROM streams").fetchall()}
    levels: defaultdict[tuple[int, int], Change] = defaultdict(Change)
    unknown = 0
    for _, stream, priority, size, *_ in rows:
        if stream in streams and countable(priority, size):
            levels[stream, priority].add(Change(0, 0, 1) if counted else Change(1, size, 1))
        else:
            unknown += 1
    gone = {id for number, *_, note in rows for id in unpack_gone(number, note)}
    delivered_unknown = _remove(db, gone, streams, levels)
    write_changes(db, levels)
    if unknown:
        db.execute(
            "UPDATE ledger SET stored = stored + ?1, waiting = waiting + ?2",
            (unknown, 0 if counted else unknown),
        )
    if delivered_unknown:
        db.execute("UPDATE ledger SET delivered = delivered + ?", (delivered_unknown,))
        if not counted:
            attribute_uncounted(db, count_levels(db)[1])
    return Folded(rows[-1][0] + 1 if rows else 0, delivered_unknown)


def _remove(
    db: sqlite3.Connection,
    gone: Collection[int],
    streams: Collection[int],
    levels: defaultdict[tuple[int, int], Change],
) -> int:
    """Delete what is delivered, and count it in `levels`; returns the number whose level is unknown."""
    if not gone:
        return 0
    unknown = 0
    for stream, priority, size in db.execute(
        f"DELETE FROM messages WHERE id IN {IN} RETURNING stream, priority, {SIZE}",  # noqa: S608
        (json.dumps([*gone]),),
    ).fetchall():
        if stream in streams and countable(priority, size):
            levels[stream, priority].add(Change(-1, -size, 0, 1))
        else:
            unknown += 1
    return unknown


def _remember(db: sqlite3.Connection, requests: Sequence[StoredRequest]) -> None:
    """Add the sequences of these requests to the memory of their producers, each of which has a row."""
    memories: dict[tuple[str, str], Sequences | None] = {}
    for request in requests:
        place = (request.key.producer, row_boot(request.key, apart=request.apart))
        if place not in memories:
            memories[place] = _memory(db, place)
        memory = memories[place]
        if memory is not None:
            memory.add(request.first, request.last, request.first_id)
            memory.note_content(request.first, request.last, request.content)
    db.executemany(
        "UPDATE producers SET memory = ? WHERE producer = ? AND boot = ?",
        [(memory.pack(), *place) for place, memory in memories.items() if memory is not None],
    )


def _memory(db: sqlite3.Connection, place: tuple[str, str]) -> Sequences | None:
    """The memory as the last fold wrote it; None where it is lost: a repeat is stored again, then."""
    rows = db.execute("SELECT memory FROM producers WHERE producer = ? AND boot = ?", place).fetchall()
    try:
        return Sequences.unpack(rows[0][0]) if rows else None
    except (ValueError, TypeError):
        return None
