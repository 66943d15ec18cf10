"""Quota: the most that may be stored, per stream and in all, and the evictions when a limit is reached.

Usage is counted by (stream, priority), so that "would dropping less important messages make room?" is
answered without asking the disk. Counting is conservative: an eviction is booked with the least it will
free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from runtime.core.message import StreamName

TOP_PRIORITY = 9
EARLIER = StreamName(None, "(earlier streams)")
"""The name under which streams are counted that gave their own name back."""
OWNER_SHARES = 10
"""A limit has so many shares. Each owner may have one of them (a tenth), even where others hold all: an owner
that invents names without end locks out itself only."""
LARGEST_BYTES = 2**40
"""More than any message has, with the file that is its payload."""
AHEAD_SHARE = 100
"""An eviction of the oldest frees a part of so many of what is stored more than it must."""
MOST_AHEAD = 1_000
"""Most messages that it evicts more: about as many as the store takes between two folds."""
MOST_AHEAD_BYTES = 262_144
"""Most bytes that it evicts more: the oldest messages may be far smaller than the mean."""

ROW_OVERHEAD_BYTES = 128
"""What a row takes on disk beside its payload and texts, generously."""
TEXTS_BYTES = 20_480
"""More than the properties and names of a message have: JSON writes a quotation mark in two characters."""


def countable(priority: object, size: object) -> bool:
    """True if the priority and size in a row, which may be damaged, are values that the counters can hold."""
    if not isinstance(priority, int) or not isinstance(size, int):
        return False
    return 0 <= priority <= TOP_PRIORITY and 0 <= size <= LARGEST_BYTES


class OverflowPolicy(StrEnum):
    """The treatment of a message for which there is no room."""

    REJECT = "reject"
    DROP_OLDEST = "drop-oldest"
    DROP_LOWEST = "drop-lowest-priority"


class Amount(NamedTuple):
    """A number of messages, and the bytes of their payloads, in files too, and descriptions."""

    messages: int = 0
    bytes: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.messages + other.messages, self.bytes + other.bytes)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.messages - other.messages, self.bytes - other.bytes)

    def over(self, most: Amount) -> Amount:
        """The excess over `most`; never negative."""
        return Amount(max(0, self.messages - most.messages), max(0, self.bytes - most.bytes))

    def covers(self, other: Amount) -> bool:
        return self.messages >= other.messages and self.bytes >= other.bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes that they take on disk, about."""
        return self.bytes + self.messages * ROW_OVERHEAD_BYTES


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that may be stored, and the policy on overflow."""

    most: Amount
    policy: OverflowPolicy = OverflowPolicy.REJECT

    def fits(self, used: Amount, wanted: Amount) -> bool:
        """True if so much more is within the limit."""
        most = self.most
        return used[0] + wanted[0] <= most[0] and used[1] + wanted[1] <= most[1]


@dataclass(frozen=True, slots=True)
class Quota:
    """All limits in force."""

    total: Limit
    every_stream: Limit | None = None
    streams: Mapping[StreamName, Limit] | None = None
    max_streams: int = 1_000
    leaf_messages: int = 0
    """The most messages of each leaf, whatever their streams; 0: no such limit."""

    def takes_streams(self, there: int, owned: int, new: int) -> bool:
        """True if an owner that named `owned` of the streams that are `there` may name so many more."""
        in_share = owned + new <= self.max_streams // OWNER_SHARES and there + new <= 2 * self.max_streams
        return there + new <= self.max_streams or in_share

    def of(self, name: StreamName) -> Limit | None:
        """The limit of one stream, where it has one."""
        return self.streams.get(name.without_leaf, self.every_stream) if self.streams else self.every_stream

    def policies(self) -> tuple[OverflowPolicy, frozenset[OverflowPolicy]]:
        """The policies of the whole store and of its streams, which decide the indexes for quick eviction."""
        limits = [*(self.streams or {}).values(), *([self.every_stream] if self.every_stream else [])]
        return self.total.policy, frozenset(limit.policy for limit in limits)


@dataclass(frozen=True, slots=True)
class Eviction:
    """Remove stored messages, oldest first or least important first, until at least `amount` is free."""

    stream: StreamName | None
    """The stream to evict from; None: the whole store."""
    policy: OverflowPolicy
    max_priority: int
    """No message more important than this is evicted."""
    amount: Amount
    owner: str | None = None
    """The owner whose messages are evicted; None: any owner's."""


Held = Mapping[str, Mapping[int, Amount]]
"""The stored amounts, by owner and priority; empty where there are not several owners."""
Levels = Mapping[StreamName, Mapping[int, Amount]]
"""The stored amounts, by stream and priority."""


EvictionScope = tuple[StreamName | None, str | None]
"""Stream and owner; None: any."""


class QuotaUsage:
    """The account of one commit: the stored amounts, its additions, and its evictions."""

    def __init__(self, levels: Levels, total: Amount, held: Held, leaving: Amount = NOTHING) -> None:
        """`leaving` is the part of `held` that leaves with this commit, of all owners together."""
        self._levels = levels
        self._held = held
        self._leaving = leaving
        self._added_by: dict[str, Amount] = {}
        self.total = total
        self._added: dict[StreamName, Amount] = {}
        self.evictions: list[Eviction] = []
        self._booked: dict[EvictionScope, Amount] = {}
        """The amounts that the evictions free, by scope: comparing each with each would take a second."""
        self._of_leaves: Counter[str] | None = None
        """The messages stored by earlier commits, by leaf; None before they were counted."""

    def stream(self, name: StreamName) -> Amount:
        """The amount that the stream will hold after this commit."""
        stored = _sum(self._levels.get(name, {}).values())
        freed = _sum(amount for (stream, _), amount in self._booked.items() if stream == name)
        return stored.plus(self._added.get(name, NOTHING)).minus(freed)

    def leaf_messages(self, leaf: str) -> int:
        """The number of messages that a leaf will have stored after this commit."""
        if self._of_leaves is None:  # counted once a commit, and only where there is a limit
            self._of_leaves = Counter()
            for name, level in self._levels.items():
                if name.leaf is not None:
                    self._of_leaves[name.leaf] += sum(amount.messages for amount in level.values())
        added = sum(amount.messages for name, amount in self._added.items() if name.leaf == leaf)
        freed = sum(
            amount.messages for (name, _), amount in self._booked.items() if name and name.leaf == leaf
        )
        return self._of_leaves[leaf] + added - freed

    def add(self, name: StreamName, amount: Amount, owner: str) -> None:
        self._added_by[owner] = self._added_by.get(owner, NOTHING).plus(amount)
        before = self._added.get(name)
        self._added[name] = amount if before is None else before.plus(amount)
        self.total = self.total.plus(amount)

    def evict(self, eviction: Eviction) -> None:
        self.evictions.append(eviction)
        self._book(eviction, eviction.amount)

    def withdraw(self, evictions: int) -> None:
        """Take back all evictions but the first `evictions`: the request they were for is refused."""
        for eviction in self.evictions[evictions:]:
            self._book(eviction, NOTHING.minus(eviction.amount))
        del self.evictions[evictions:]

    def _book(self, eviction: Eviction, freed: Amount) -> None:
        scope = eviction.stream, eviction.owner
        self._booked[scope] = self._booked.get(scope, NOTHING).plus(freed)
        self.total = self.total.minus(freed)

    def can_free(self, asked: Eviction) -> bool:
        """True if messages of earlier commits suffice for it, besides those this commit already evicts."""
        if asked.owner is not None:
            levels, leaving = [self._held.get(asked.owner, {})], self._leaving
        else:
            names = self._levels if asked.stream is None else (asked.stream,)
            levels, leaving = [self._levels.get(name, {}) for name in names], NOTHING
        available = _sum(
            amount for level in levels for priority, amount in level.items() if priority <= asked.max_priority
        )
        scope = asked.stream, asked.owner
        taken = _sum(amount for booked, amount in self._booked.items() if _overlap(booked, scope))
        return available.minus(taken).minus(leaving).covers(asked.amount)

    def ahead(self, eviction: Eviction) -> Eviction:
        """The eviction, and where the oldest give way about a hundredth of its scope more, if that is there.

        Each eviction has the store write its counters (a fold): one message at a time would do so in every
        commit at the limit. Where the least important give way the eviction stays exact: what comes into the
        room that it left might be less important than what had to go.
        """
        if eviction.policy is not OverflowPolicy.DROP_OLDEST:
            return eviction
        stored = self._stored(eviction)
        messages = min(stored.messages // AHEAD_SHARE, MOST_AHEAD)
        of_mean_bytes = MOST_AHEAD * (stored.bytes // max(1, stored.messages))
        size = min(stored.bytes // AHEAD_SHARE, of_mean_bytes, MOST_AHEAD_BYTES)
        needed = eviction.amount
        more = Amount(messages if needed.messages else 0, size if needed.bytes else 0)
        larger = replace(eviction, amount=needed.plus(more))
        return larger if self.can_free(larger) else eviction

    def _stored(self, eviction: Eviction) -> Amount:
        """The amount in the scope of an eviction after this commit, as far as is known."""
        if eviction.owner is not None:
            return self.holds(eviction.owner)
        return self.total if eviction.stream is None else self.stream(eviction.stream)

    def holds(self, owner: str) -> Amount:
        """The amount that this owner will hold after this commit, as far as is known."""
        stored = _sum(self._held.get(owner, {}).values())
        freed = _sum(amount for (_, whose), amount in self._booked.items() if whose == owner)
        return stored.plus(self._added_by.get(owner, NOTHING)).minus(freed)

    def largest_holder(self, most: Amount) -> str | None:
        """The owner that holds the most, as a share of `most`; None where there are not several owners."""
        if not self._held:
            return None
        shares = {owner: self._share(owner, most) for owner in self._held}
        return max(shares, key=lambda owner: (shares[owner], owner))

    def fits_in_share(self, owner: str, sole: str, wanted: Amount, most: Amount) -> bool:
        """True if an owner may have so much more within its share, though another holds all of `most`.

        `sole` is the owner of all that is stored, where there are not several.
        """
        share = Amount(most.messages // OWNER_SHARES, most.bytes // OWNER_SHARES)
        others = [other for other in self._held if other not in ("", owner)]
        crowded = any(not share.covers(self.holds(other)) for other in others) or sole not in ("", owner)
        twice = Amount(2 * most.messages, 2 * most.bytes)
        fits = share.covers(self.holds(owner).plus(wanted)) and twice.covers(self.total.plus(wanted))
        return owner != "" and crowded and fits

    def _share(self, owner: str, most: Amount) -> float:
        holds = self.holds(owner)
        return max(holds.messages / max(1, most.messages), holds.bytes / max(1, most.bytes))


def _overlap(one: EvictionScope, other: EvictionScope) -> bool:
    """True if both scopes may take the same messages."""
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _sum(amounts: Iterable[Amount]) -> Amount:
    messages = stored_bytes = 0
    for amount in amounts:
        messages += amount.messages
        stored_bytes += amount.bytes
    return Amount(messages, stored_bytes)
