"""Owners of the stored messages: no owner may fill the store alone, or push out the messages of others.

Ids only grow, so it is enough to know from which id on the messages are another owner's (`holders` in
messages.db, which older runtimes ignore). Where all producers are of one owner that is one row, and nothing
is counted. Messages stored before that table, or while there were too many changes to remember, have no known
owner.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from runtime.core.ingest.admission import Admission
from runtime.core.ingest.quota import NOTHING, Amount, Held

MOST_CHANGES = 50_000
LOOK_FROM = 1_024
"""Number of changes from which on those of messages that are gone are forgotten."""
WORTH_FORGETTING = 8
"""Changes are forgotten when these make up one such share of all: not a few in every commit."""


def owner_at(changes: Sequence[tuple[int, str]], number: int) -> str:
    """The owner of a message by the changes (first id, owner) of owner; empty where it is not known."""
    at = bisect_right(changes, number, key=lambda change: change[0]) - 1
    return changes[at][1] if at >= 0 else ""


class Holders:
    """The known changes of owner, and the amount that each owner holds."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._changes: list[tuple[int, str]] = []
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'holders'").fetchall():
            rows = db.execute("SELECT first_id, owner FROM holders ORDER BY first_id").fetchall()
            self._changes += [(n, o) for n, o in rows if isinstance(n, int) and isinstance(o, str)]
        self._known = self._owners()
        self._fresh: list[tuple[int, str]] = []
        self._gone = 0
        """Number of the first changes that the current commit forgets."""
        self._noted = True
        """True if there is room for the changes of that commit."""
        self._look_at = LOOK_FROM
        self.held: dict[str, dict[int, Amount]] = {}
        """Amounts by owner and priority, where there are several owners and all was counted."""

    @property
    def several(self) -> bool:
        """True if messages of more than one owner are known."""
        return len(self._known) > 1

    @property
    def sole(self) -> str:
        """The only owner that is known; empty where there is none, or several."""
        return "" if self.several else next(iter(self._known), "")

    def owner_of(self, number: int) -> str:
        """The owner of a message; empty where it is not known."""
        return owner_at(self._changes, number)

    def first_of(self, owner: str, number: int) -> int | None:
        """The first id from `number` on that is this owner's; None where there is none."""
        at = bisect_right(self._changes, number, key=lambda change: change[0])
        if (self._changes[at - 1][1] if at else "") == owner:
            return number
        return next((first for first, whose in islice(self._changes, at, None) if whose == owner), None)

    def priorities(self, owner: str) -> list[int]:
        """Priorities at which this owner holds any message, ascending."""
        return sorted(priority for priority, amount in self.held.get(owner, {}).items() if amount.messages)

    def has_room(self, admission: Admission) -> bool:
        """True if the changes of owner in this commit can all be remembered."""
        return len(self._changes) + len(admission.holders) <= MOST_CHANGES

    def store(self, admission: Admission) -> None:
        """Write the changes of owner, in the transaction that stores the messages."""
        last = self._changes[-1][1] if self._changes else ""
        self._fresh, self._gone = [], self._forgettable()
        self._noted = len(self._changes) - self._gone + len(admission.holders) <= MOST_CHANGES
        for number, owner in admission.holders:
            owner = owner if self._noted else ""
            if owner != last:
                self._fresh.append((number, owner))
                last = owner
        if self._gone:
            first_kept, _ = self._changes[self._gone]
            self._db.execute("DELETE FROM holders WHERE first_id < ?", (first_kept,))
        if self._fresh:
            self._db.execute("CREATE TABLE IF NOT EXISTS holders (first_id INTEGER PRIMARY KEY, owner TEXT)")
            self._db.executemany(
                "INSERT OR REPLACE INTO holders (first_id, owner) VALUES (?, ?)", self._fresh
            )

    def committed(
        self,
        admission: Admission | None,
        left: Iterable[tuple[int, int, int, int]],
        back: Iterable[tuple[int, int]] = (),
    ) -> bool:
        """Update after the commit; `left` (id, stream, priority, bytes) are gone, `back` are stored again.

        True if there are several owners only since this commit: then all messages must be counted again.
        """
        before = self.several
        for number, _, priority, size in left if before else ():
            self._change(self.owner_of(number), priority, Amount(-1, -size))
        if admission is not None:
            self._change_owners()
        if self.several:
            self._came(admission, back)
        return self.several and not before

    def _change_owners(self) -> None:
        if self._gone:
            del self._changes[: self._gone]
            self._known = self._owners()
            self._look_at = min(MOST_CHANGES, max(LOOK_FROM, 2 * len(self._changes)))
        self._changes += self._fresh
        self._known.update(owner for _, owner in self._fresh if owner)
        self._fresh, self._gone = [], 0

    def _came(self, admission: Admission | None, back: Iterable[tuple[int, int]]) -> None:
        for (owner, priority), amount in admission.added_by.items() if admission is not None else ():
            self._change(owner if self._noted else "", priority, amount)
        for priority, size in back:
            self._change(self._changes[-1][1], priority, Amount(1, size))

    def counted(self, amounts: Mapping[tuple[str, int], Sequence[int]]) -> None:
        """Take over the counted amounts, by owner and priority."""
        self.held = {}
        for (owner, priority), amount in amounts.items():
            self._change(owner, priority, Amount(*amount))

    def view(self) -> Held:
        return self.held if self.several else {}

    def _owners(self) -> set[str]:
        return {owner for _, owner in self._changes if owner}

    def _change(self, owner: str, priority: int, by: Amount) -> None:
        held = self.held.setdefault(owner, {})
        changed = held.get(priority, NOTHING).plus(by)
        held[priority] = Amount(max(0, changed.messages), max(0, changed.bytes))

    def _forgettable(self) -> int:
        """Number of the first changes of which no message is stored any more; looked up only now and then."""
        if len(self._changes) < self._look_at:
            return 0
        ((oldest,),) = self._db.execute("SELECT coalesce(min(id), 0) FROM messages").fetchall()
        gone = max(0, bisect_right(self._changes, oldest, key=lambda change: change[0]) - 1)
        if gone * WORTH_FORGETTING >= len(self._changes):
            return gone
        self._look_at = min(MOST_CHANGES, 2 * len(self._changes))
        return 0
