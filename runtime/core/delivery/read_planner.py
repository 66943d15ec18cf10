"""Read planner: the messages to read next, so that one stream's deep backlog does not hide the others.

The *front* moves through the store once, in id order, and takes the messages it meets. A stream of which the
send queue holds enough is left *behind*: the front passes over its further messages, and the stream is read
on from where it was left when the queue holds less of it. So memory is bounded, and an urgent message at the
end of millions is found.

A stream that drains *fresh-first* is read at the front again once the front has reached the end of the store;
its backlog follows in a lane of its own, at a limited rate. A message newer than a fresh one in the send
queue stays behind it, also once the backlog is over. A stream whose producer sends in parts (batches, its own
chunks) is never drained so: its parts would be torn apart.

Reading a message twice does no harm: `Delivery.offer` knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.pack_names import MOST_MEMBERS
from runtime.core.message import StreamName

ENOUGH = 256
"""Messages of one stream in the send queue, not sent yet, that are enough."""
ENOUGH_BYTES = 524_288
FEW = 4
FEW_BYTES = 32_768
"""The same while the send queue is crowded: a stream with none in it gets some, so that nothing urgent stays
unseen."""
ENOUGH_TO_PACK, FEW_TO_PACK = MOST_MEMBERS + 64, 64
"""The same for a stream whose messages go in packs: more than a pack, or some messages for one."""
ENOUGH_TO_RESTORE_BYTES = 4_194_304
"""The same while a pack of an earlier run is read again, which was compressed."""
AGAIN_S = 1.0
"""A stream that is behind, and whose next message found no room, is read again after so long."""
SPAN = 100_000
"""Most ids that one query scans while it passes over other streams' messages: time ends it sooner."""
PAGE = 500
"""Most messages of one query."""
PAGE_BYTES = 1_048_576

Lane = tuple[StreamName, bool]
"""A stream, and true for its fresh lane: `Delivery` keeps the order within a lane."""


def lane_of(candidate: Candidate) -> Lane:
    """The lane that a candidate has as its stream."""
    return cast(Lane, candidate.stream)


class DrainOrder(StrEnum):
    """The order in which a stream's backlog leaves."""

    IN_ORDER = "in-order"
    FRESH_FIRST = "fresh-first"


@dataclass(frozen=True, slots=True)
class Query:
    """Messages behind `after` up to `up_to`: of one stream, or of all but some."""

    after: int
    up_to: int
    only: StreamName | None = None
    without: Collection[StreamName] = ()
    limit: int = PAGE
    limit_bytes: int = PAGE_BYTES


@dataclass(slots=True)
class _Behind:
    """A stream that was left behind."""

    after: int
    """All its messages up to this id were taken."""
    up_to: int | None = None
    """From this id on the front takes it again (fresh-first); None: it does not."""
    allowance: float = 0.0
    at_s: float = 0.0
    again_s: float | None = None
    """The time to look again for room for its next message; None: it was not refused."""


@dataclass(slots=True)
class LaneFill:
    """The messages of one lane that are in the send queue and not sent yet."""

    messages: int = 0
    bytes: int = 0
    crowded: bool = False
    """There is little room for any lane."""
    packs: bool = False
    """Its messages may go in packs."""
    restores: bool = False
    """The rest of a pack of an earlier run may be among them."""
    full: bool = False
    """There is room for no further message of it, whichever of its messages may go."""

    def enough(self) -> bool:
        most, most_bytes = self._most()
        return self.full or self.messages >= most or self.bytes >= most_bytes

    def room(self) -> tuple[int, int]:
        """Messages and bytes until it is enough: a message read beyond that is read in vain."""
        most, most_bytes = self._most()
        return most - self.messages, most_bytes - self.bytes

    def low(self) -> bool:
        most, most_bytes = self._most()
        return not self.full and self.messages < most // 2 and self.bytes < most_bytes // 2

    def _most(self) -> tuple[int, int]:
        if self.restores:
            return ENOUGH_TO_PACK, ENOUGH_TO_RESTORE_BYTES
        if self.packs:
            return (FEW_TO_PACK, FEW_BYTES) if self.crowded else (ENOUGH_TO_PACK, ENOUGH_BYTES)
        return (FEW, FEW_BYTES) if self.crowded else (ENOUGH, ENOUGH_BYTES)


@dataclass(slots=True)
class ReadPlanner:
    """The position of the front, and the streams that are behind."""

    fresh_first: Callable[[StreamName], bool] = lambda stream: False
    backlog_per_s: float = 0.0
    front: int = 0
    newest: int = 0
    """The last id in the store at the last look."""
    behind: dict[StreamName, _Behind] = field(default_factory=dict)
    _in_parts: set[StreamName] = field(default_factory=set)
    _now_s: float = 0.0
    _refused: bool = False
    _again_s: float | None = None
    """The time to look again for a stream of which this query takes nothing."""

    def resume(self, fill: Callable[[Lane], LaneFill], now: float, *, refused: bool = False) -> Query | None:
        """The next read of a stream that is behind: of one whose next message was `refused`, or of another.

        Either kind is read in each turn, so that neither waits for the other.
        """
        self._now_s = now
        for stream, left in list(self.behind.items()):
            end = self.front if left.up_to is None else left.up_to
            if left.after >= end:
                del self.behind[stream]
                continue
            if refused is (left.again_s is None) or now < (left.again_s or now):
                continue
            present = fill((stream, False))
            if present.low() and (allowed := self._allowed(left, now)):
                self.behind[stream] = self.behind.pop(stream)  # the next one in the next turn
                self._refused, self._again_s = False, now + AGAIN_S
                room, room_bytes = present.room()
                up_to, limit = min(end, left.after + SPAN), 1 if refused else min(allowed, room)
                return Query(left.after, up_to, stream, limit=limit, limit_bytes=room_bytes)
        return None

    def advance(self, newest: int, stored: Collection[StreamName]) -> Query | None:
        """The read at the front; `newest` is the store's last id, `stored` the streams with any after that.

        Where only streams that are behind anyway have any, the front moves to the end without reading. Their
        number must not decide: dropped messages and those in their place make the same number. Where no
        stream has any, though there is a message, the counters do not know it: it is a damaged row.
        """
        self.newest = newest
        if self.front < newest:
            without = [stream for stream in self.behind if self._passed_over(stream)]
            if not stored or not all(self._passed_over(stream) for stream in stored):
                up_to = min(newest, self.front + SPAN) if without else newest
                return Query(self.front, up_to, without=without)
            self.front = newest
        for stream, left in self.behind.items():
            if left.up_to is None and self._drains_fresh(stream):
                left.up_to = self.front
        return None

    def start_over(self) -> None:
        """A stored message was passed over: read the whole store once more."""
        self.front = 0
        self.behind.clear()

    def lane(
        self, query: Query, id: int, stream: StreamName, *, in_parts: bool, last_fresh: int | None
    ) -> Lane:
        """The lane of a message that `query` found.

        `in_parts`: it is a part of a whole. `last_fresh`: the newest queued id of the stream's fresh lane.
        """
        if in_parts and self.fresh_first(stream):
            self._in_parts.add(stream)
        if stream in self._in_parts:
            return stream, False
        fresh = query.only is None and stream in self.behind
        return stream, fresh or (last_fresh is not None and id > last_fresh)

    def waits(self, stream: StreamName, last_fresh: int | None) -> bool:
        """True if a stream whose messages are parts of a whole waits until its fresh lane is empty."""
        return stream in self._in_parts and last_fresh is not None

    def all_read(self) -> bool:
        """True if every stored message was read."""
        return not self.behind and self.front >= self.newest > 0

    def caught_up(self, stream: StreamName) -> bool:
        """True if every stored message of a stream was read."""
        return stream not in self.behind and self.front >= self.newest

    def admit(self, query: Query, id: int, stream: StreamName, fill: LaneFill) -> bool:
        """True if a message that `query` found is to be taken; `fill` is that of its lane."""
        left = self.behind.get(stream)
        if query.only is not None:
            return self._take_on(left, id, fill)
        if left is None:
            if fill.enough():
                again_s = None if fill.messages else self._now_s + AGAIN_S
                self.behind[stream] = _Behind(id - 1, again_s=again_s)
            return not fill.enough()
        if left.up_to is None or fill.enough() or stream in self._in_parts:
            left.up_to = None  # its turn comes behind its backlog
            return False
        return True

    def done(self, query: Query, reached: int) -> None:
        """`query` was answered: up to the id `reached` there is no other message."""
        if query.only is None:
            self.front = max(self.front, reached)
        elif (left := self.behind.get(query.only)) is not None and not self._refused:
            left.after = max(left.after, reached)

    def _take_on(self, left: _Behind | None, id: int, fill: LaneFill) -> bool:
        """Take the next message of a stream that is behind: in order, none after one that was refused."""
        if left is None or self._refused:
            return False
        if fill.enough():
            self._refused = True
            left.after = max(left.after, id - 1)
            left.again_s = self._again_s
            return False
        left.after, left.again_s, self._again_s = id, None, None
        left.allowance -= 1
        return True

    def _passed_over(self, stream: StreamName) -> bool:
        left = self.behind.get(stream)
        return left is not None and left.up_to is None

    def _allowed(self, left: _Behind, now: float) -> int:
        """Messages of a backlog that may be read now."""
        if left.up_to is None or not self.backlog_per_s:
            return PAGE
        most = max(1.0, self.backlog_per_s)
        left.allowance = min(most, left.allowance + (now - left.at_s) * self.backlog_per_s)
        left.at_s = now
        return int(left.allowance)

    def _drains_fresh(self, stream: StreamName) -> bool:
        return self.fresh_first(stream) and stream not in self._in_parts
