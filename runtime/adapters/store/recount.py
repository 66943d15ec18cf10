"""Counts every message once, before the counters decide over any.

Ordinarily the store keeps `levels` in the commits that change it, and never counts its messages. But one
flipped bit there would let a policy drop all that is stored, or refuse every producer for ever. So before the
first refusal, or eviction, for want of room after each opening of the store all messages are counted, a slice
at a time, between the commits: a message that was counted already and leaves is subtracted again.
"""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from runtime.adapters.store.counters import FORGET_LEVELS, READ_LEVELS, WRITE_LEVEL
from runtime.adapters.store.ledger import attribute_uncounted
from runtime.adapters.store.statements import SIZE
from runtime.core.ingest.quota import Amount, countable

ROWS_AT_ONCE = 500
SLICE_S = 0.1
"""Producers wait this long for one slice, where a request is refused until all is counted."""
UNASKED_SLICE_S = 0.01
"""The same where no decision asks for it yet: after an opening, so that a large backlog holds up none."""
UNASKED_PAUSE_S = 0.2
"""Between two of these slices requests have this time, where any wait: a twentieth of ingest counts."""
AT_OPENING_S = 0.02
"""Time for counting at opening: a small or drained store is counted before the first producer comes."""
_BEFORE_ALL = -(2**63)


class Recount:
    """A count in progress, from its creation until `done`."""

    def __init__(self, owner_of: Callable[[int], str]) -> None:
        self._owner_of = owner_of
        self.held: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
        """Messages and bytes by owner and priority."""
        self._levels: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        self._counted_up_to = _BEFORE_ALL
        self.uncounted = 0
        """Rows whose level is unknown. Where one leaves, all is counted again at once."""
        self.done = False

    def advance(self, db: sqlite3.Connection, streams: Collection[int], slice_s: float = SLICE_S) -> None:
        """Count one more slice."""
        until_s = time.perf_counter() + slice_s
        while not self.done:
            rows = db.execute(
                f"SELECT id, stream, priority, {SIZE} FROM messages WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
                (self._counted_up_to, ROWS_AT_ONCE),
            ).fetchall()
            for number, stream, priority, size in rows:
                if stream in streams and countable(priority, size):
                    self._add(number, stream, priority, 1, size)
                else:
                    self.uncounted += 1
            last = max((number for number, *_ in rows), default=self._counted_up_to)
            # a damaged page whose ids do not grow must not make this loop endless
            self.done = len(rows) < ROWS_AT_ONCE or last <= self._counted_up_to
            self._counted_up_to = max(self._counted_up_to, last)
            if time.perf_counter() >= until_s:
                return

    def left(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Subtract rows (id, stream, priority, bytes) that have left the store, where they were counted."""
        for number, stream, priority, size in rows:
            if number <= self._counted_up_to:
                self._add(number, stream, priority, -1, -size)

    def wrong(self, db: sqlite3.Connection) -> Amount | None:
        """By how much the counters of all levels together are wrong; None where each of them is right."""
        counters = {
            (stream, priority): (m, b) for stream, priority, m, b in db.execute(READ_LEVELS).fetchall()
        }
        names = counters.keys() | self._levels.keys()
        pairs = [(counters.get(name, (0, 0)), self._levels.get(name, [0, 0])) for name in names]
        if all(tuple(counter) == tuple(counted) for counter, counted in pairs):
            return None
        return Amount(*(sum(abs(counter[at] - counted[at]) for counter, counted in pairs) for at in (0, 1)))

    def changes_ledger(self, db: sqlite3.Connection) -> bool:
        """True if the ledger knows of another number of uncounted rows, or of none."""
        return db.execute("SELECT waiting FROM ledger").fetchall() != [(self.uncounted,)]

    def write(self, db: sqlite3.Connection) -> list[tuple[int, int, int, int]]:
        """Write the counted levels to the database; returns all levels as they are then."""
        db.execute(FORGET_LEVELS)
        db.executemany(WRITE_LEVEL, [(*level, *amount) for level, amount in self._levels.items()])
        attribute_uncounted(db, self.uncounted)
        return db.execute(READ_LEVELS).fetchall()

    def _add(self, number: int, stream: int, priority: int, messages: int, size: int) -> None:
        for amount in (self._levels[stream, priority], self.held[self._owner_of(number), priority]):
            amount[0] += messages
            amount[1] += size
