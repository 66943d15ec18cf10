"""New names: whether a stream, or a leaf, that is met for the first time may be stored.

Each name takes memory as long as anything of it is stored, so their number is bounded: streams of this device
by `store.max_streams`, leaves by `gateway.max_leaves`, and streams of each leaf by `STREAMS_OF_A_LEAF`. A
leaf that no list names comes in only so fast as `NewLeaves` lets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runtime.core.ingest.message_fields import Code
from runtime.core.ingest.quota import EARLIER, Quota
from runtime.core.leaf import MOST_GATEWAYS
from runtime.core.message import StreamName

STREAMS_OF_A_LEAF = 16
RETRY_NAMES_MS = 10_000
NEW_LEAVES_AT_ONCE = 100
NEW_LEAVES_PER_S = 1.0
"""Leaves on no list that are met after those: a thousand within a quarter of an hour."""

Objection = tuple[Code, str, int | None]
"""The reason for a refusal: its code, its text, and the pause after which it may be over."""


@dataclass(frozen=True, slots=True)
class LeafTerms:
    """The leaves whose messages are taken now."""

    listed: frozenset[str] = frozenset()
    """The leaves that the configuration names."""
    auto: bool = False
    """Leaves on no list are taken, too."""
    max_leaves: int = 1_000
    new_leaves: int = 0
    """Leaves on no list that may be met now."""
    own_id: str | None = None
    """The id of this device at its hub; None where it is not known yet."""

    def objection(self, name: StreamName, via: Sequence[str]) -> Objection | None:
        """The reason not to take a message of this stream that passed these gateways, if there is one."""
        leaf = name.leaf
        if leaf is None:
            return (Code.BAD_FIELD, "via needs a leaf: it says how a leaf's message came", None)
        if self.own_id is not None and self.own_id in via:
            return (Code.LOOP, f"the message has passed this gateway, {self.own_id}, before", None)
        if len(via) > MOST_GATEWAYS:
            return (Code.LOOP, f"the message has passed {len(via)} gateways of at most {MOST_GATEWAYS}", None)
        if not self.auto and leaf not in self.listed:
            return (Code.UNKNOWN_LEAF, f"gateway.leaves does not name {leaf}, and gateway.auto is off", None)
        return None

    def objection_to_new(
        self, there: Iterable[StreamName], added: Iterable[StreamName], new: Iterable[StreamName]
    ) -> Objection | None:
        """The reason not to take new streams of leaves, if there is one.

        `there` are the streams of the store, `added` those that this commit adds before.
        """
        known = Counter(name.leaf for name in there if name.leaf is not None)
        streams = known + Counter(name.leaf for name in added if name.leaf is not None)
        for name in new:
            leaf = name.leaf
            assert leaf is not None
            if leaf not in streams and (objection := self._objection_to_leaf(leaf, known, streams)):
                return objection
            streams[leaf] += 1
            if streams[leaf] > STREAMS_OF_A_LEAF:
                text = f"leaf {leaf} has {STREAMS_OF_A_LEAF} streams, the most that are kept"
                return (Code.TOO_MANY_STREAMS, text, RETRY_NAMES_MS)
        return None

    def _objection_to_leaf(self, leaf: str, known: Counter[str], streams: Counter[str]) -> Objection | None:
        if len(streams) >= self.max_leaves:
            text = f"the store holds {self.max_leaves} leaves (gateway.max_leaves)"
            return (Code.TOO_MANY_LEAVES, text, RETRY_NAMES_MS)
        if leaf not in self.listed and len(streams.keys() - known.keys() - self.listed) >= self.new_leaves:
            return (Code.TOO_MANY_LEAVES, "too many new leaves at once; one more a second", RETRY_NAMES_MS)
        return None


NO_LEAVES = LeafTerms()
"""The terms of a device that is no gateway."""


def leaves_met(there: Iterable[StreamName], added: Iterable[StreamName]) -> frozenset[str]:
    """The leaves that are stored for the first time, as far as the store remembers."""
    new = {name.leaf for name in added if name.leaf is not None}
    return frozenset(new - {name.leaf for name in there} if new else new)


class NewLeaves:
    """A token bucket for leaves that are on no list: a program that invents ids does not fill the memory."""

    def __init__(self) -> None:
        self._tokens = float(NEW_LEAVES_AT_ONCE)
        self._at_s = 0.0

    def allowed(self, now_s: float) -> int:
        """Leaves that may be met now."""
        self._tokens = min(NEW_LEAVES_AT_ONCE, self._tokens + (now_s - self._at_s) * NEW_LEAVES_PER_S)
        self._at_s = now_s
        return int(self._tokens)

    def met(self, leaves: int) -> None:
        """So many were stored for the first time."""
        self._tokens -= leaves


def objection_to_streams(quota: Quota, there: Iterable[StreamName], owned: int, new: int) -> Objection | None:
    """The reason not to take `new` more streams of this device itself, if there is one.

    `there` are all streams, `owned` the number of those that the same owner has named lately.
    """
    count = sum(1 for name in there if name.leaf is None and name != EARLIER)
    if quota.takes_streams(count, owned, new):
        return None
    return (Code.TOO_MANY_STREAMS, f"the store holds {quota.max_streams} streams", RETRY_NAMES_MS)
