"""Ledger: where every message is that was ever stored. Pure.

The identity, for each stream and for all of them together:

    stored = delivered + waiting + set aside + lost, by the reason

A message that is set aside is not lost: an operator may still requeue it, which moves it from "set aside"
back to "waiting" (and is counted beside). It is lost once it is dropped from quarantine, by the operator or
for want of room. The counters lie on disk and change in the commit that moves the message, so the identity
holds after every crash. Where it does not hold, a counter is damaged, or there is a bug.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.core.operations.metrics import OTHER

UNKNOWN_STREAM = "(unknown stream)"
"""The name under which messages are counted whose row no longer tells the stream."""
MOST_STREAMS = 100
"""Streams in a status with an account of their own: those that stored most; the others are one."""


@dataclass(frozen=True, slots=True)
class Account:
    """The counters of one stream."""

    stream: str
    stored: int = 0
    delivered: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    set_aside: int = 0
    requeued: int = 0
    """Messages that came back from quarantine: counted beside the identity, of which they are no part."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Messages lost for ever, by the reason."""
    late: Mapping[str, int] = field(default_factory=dict)
    """Messages that were counted as lost for this reason until the hub acknowledged them: they were in flight
    when they were dropped. They are delivered; `lost` and `late` together only grow."""

    @property
    def difference(self) -> int:
        """What the identity lacks: 0, or messages that no counter accounts for (below 0: counted twice)."""
        return self.stored - self.delivered - self.waiting - self.set_aside - sum(self.lost.values())

    def as_record(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "stored": self.stored,
            "delivered": self.delivered,
            "waiting": self.waiting,
            "set_aside": self.set_aside,
            "requeued": self.requeued,
            "lost": dict(self.lost),
            "late": dict(self.late),
        }


@dataclass(frozen=True, slots=True)
class LossEntry:
    """Messages of one stream that were lost for one reason, within a minute."""

    stream: str
    reason: str
    messages: int | None
    """None where it is not known which of the ids held a message: the salvage of a damaged store."""
    first_id: int
    last_id: int
    """All of them have ids from the first to the last; messages of other streams lie between."""
    first_wall_s: float | None
    last_wall_s: float | None
    """Unix times; None where the clock was not set."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The accounts of all streams, from one moment."""

    accounts: Sequence[Account] = ()
    since_wall_s: float | None = None
    """Since when every movement is counted: what an older version stored before is taken as it was found."""

    @property
    def total(self) -> Account:
        return summed("", self.accounts)

    @property
    def open_accounts(self) -> list[Account]:
        """The accounts that do not close, the total (named "") among them."""
        return [each for each in (self.total, *self.accounts) if each.difference]

    def bounded(self, most: int = MOST_STREAMS) -> list[Account]:
        """The accounts of the streams that stored most, and one for all others."""
        ordered = sorted(self.accounts, key=lambda each: (-each.stored, each.stream))
        if len(ordered) <= most:
            return ordered
        return [*ordered[: most - 1], summed(OTHER, ordered[most - 1 :])]

    def as_record(self, most: int = MOST_STREAMS) -> dict[str, Any]:
        """The record of a status: the totals, and the accounts by stream."""
        total = self.total
        record = {**total.as_record(), "difference": total.difference}
        del record["stream"]
        return {**record, "streams": [each.as_record() for each in self.bounded(most)]}

    def waiting_record(self, most: int = MOST_STREAMS) -> list[dict[str, Any]]:
        """What waits, by stream: those with most bytes, and one entry for all others."""
        waiting = [each for each in self.accounts if each.waiting]
        ordered = sorted(waiting, key=lambda each: (-each.waiting_bytes, each.stream))
        if len(ordered) > most:
            ordered = [*ordered[: most - 1], summed(OTHER, ordered[most - 1 :])]
        return [
            {"stream": each.stream, "messages": each.waiting, "bytes": each.waiting_bytes} for each in ordered
        ]


def summed(name: str, accounts: Iterable[Account]) -> Account:
    """One account for several."""
    lost: Counter[str] = Counter()
    late: Counter[str] = Counter()
    columns = ("stored", "delivered", "waiting", "waiting_bytes", "set_aside", "requeued")
    sums = dict.fromkeys(columns, 0)
    for account in accounts:
        lost.update(account.lost)
        late.update(account.late)
        for column in columns:
            sums[column] += getattr(account, column)
    return Account(name, lost=dict(lost), late=dict(late), **sums)
