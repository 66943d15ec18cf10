"""The send queue, by stream: which message may be sent next, and which go back after a loss.

Within a stream messages go in the order of offering, batches one after the other (`StreamQueue.waiting` and
`deferred`, see `batches`). Between streams by weight: a stream whose next message has priority p gets twice
the turns of one with p - 1, and each gets some (stride scheduling), so no stream starves.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from runtime.core.delivery.actions import Candidate, Tag
from runtime.core.delivery.batches import BatchOrder
from runtime.core.ingest.quota import TOP_PRIORITY

CROWDED = 4_000
CROWDED_BYTES = 4_194_304
"""Below so many messages and bytes every message has room: `queue_room` says which have room beyond."""
MOST_IN_PIECES = 128
"""Messages in pieces that the hub has in part: the progress of twice as many survives a crash."""
IMPORTANT_PRIORITY = 8
"""Messages of at least this priority have room of their own (see `queue_room`)."""
FULL = 2 * CROWDED
FULL_BYTES = 2 * CROWDED_BYTES
"""The most messages in the send queue, and bytes, about."""


@dataclass(slots=True, eq=False)
class Outgoing:
    """One message in the send queue."""

    offer: Candidate
    stream: StreamQueue
    unsent: deque[int]
    """Numbers of its unsent pieces, ascending."""
    reached: int
    """All pieces before this one are acknowledged."""
    ahead: set[int] = field(default_factory=set)
    """The pieces acknowledged beyond that one."""
    touched: bool = False
    """A piece of it was sent: it is too late to drop it."""

    def begin_anew(self) -> None:
        """Begin with its first piece again, while no piece is in flight."""
        self.unsent = deque(range(self.offer.pieces))
        self.reached = 0
        self.ahead.clear()


@dataclass(slots=True, eq=False)
class StreamQueue:
    """The messages of one stream in the send queue."""

    waiting: deque[Outgoing] = field(default_factory=deque)
    """Messages with unsent pieces that may go, in order."""
    deferred: deque[Outgoing] = field(default_factory=deque)
    """Messages behind the batch that is under way, in store order."""
    deferred_bytes: int = 0
    quiet_s: float | None = None
    """Since when the deferred messages wait while the batch has nothing to send."""
    messages: int = 0
    bytes: int = 0
    """Bytes of the stream in the send queue, waiting or in flight."""
    files: int = 0
    """The number of its messages that go as files."""
    last_id: int | None = None
    """The id of its newest message."""
    in_flight: int = 0
    turn: float = 0.0
    queued: bool = False
    held: bool = False
    """The stream is held: it sends nothing before another decision."""


class SendQueue:
    """All messages that were offered and are not settled."""

    def __init__(self) -> None:
        self.messages: dict[int, Outgoing] = {}
        self.bytes = 0
        self.expired: list[int] = []
        """Messages dropped since the caller last read this."""
        self.files: dict[int, Outgoing] = {}
        """Messages whose payload has still to be uploaded."""
        self.batches = BatchOrder()
        self._in_pieces: set[int] = set()  # begun, and not whole
        self.by_priority: list[tuple[int, int]] = [(0, 0)] * (TOP_PRIORITY + 1)
        """Messages and bytes in the send queue by priority."""
        self._streams: dict[Hashable, StreamQueue] = {}
        self._turns: list[tuple[float, int, StreamQueue]] = []
        self._now_turn = 0.0

    @property
    def crowded(self) -> bool:
        """True if the send queue holds so much that not every message has room."""
        return len(self.messages) >= CROWDED or self.bytes >= CROWDED_BYTES

    def streams(self) -> Iterable[StreamQueue]:
        """The streams that have messages in the send queue."""
        return self._streams.values()

    def stands(self, stream: StreamQueue, passes: Callable[[int], bool]) -> bool:
        """True if nothing of `stream` may go now, whatever its turn.

        `passes` says whether budgets and hours let a message of a priority go.
        """
        if stream.held:
            return True
        if stream.waiting:
            first = stream.waiting[0].offer
            return first.id in self.files or not passes(first.priority)
        return bool(stream.deferred) and not stream.in_flight

    def add(self, offer: Candidate) -> None:
        stream = self._streams.setdefault(offer.stream, StreamQueue())
        unsent = deque(range(offer.reached, offer.pieces))
        message = Outgoing(offer, stream, unsent, offer.reached, touched=offer.reached > 0)
        self.messages[offer.id] = message
        self._count(stream, offer, 1)
        stream.last_id = offer.id
        if message.touched:
            self._in_pieces.add(offer.id)
        if offer.file:
            self.files[offer.id] = message
        self.batches.admit(stream, message)
        self._queue(stream)

    def remove(self, message: Outgoing) -> None:
        """Remove a settled message."""
        offer, stream = message.offer, message.stream
        del self.messages[offer.id]
        self.files.pop(offer.id, None)
        self._in_pieces.discard(offer.id)
        self._count(stream, offer, -1)
        if stream.waiting and stream.waiting[0] is message:
            stream.waiting.popleft()
        if not stream.messages and self._streams.get(offer.stream) is stream:
            del self._streams[offer.stream]
            self.batches.idle(offer.stream)

    def _count(self, stream: StreamQueue, offer: Candidate, sign: int) -> None:
        size = sign * offer.wire_bytes
        self.bytes += size
        stream.bytes += size
        stream.messages += sign
        stream.files += sign * offer.file
        messages, total = self.by_priority[offer.priority]
        self.by_priority[offer.priority] = messages + sign, total + size

    def stream(self, name: Hashable) -> StreamQueue:
        """The queue of a stream; an empty one where it has no message."""
        return self._streams.get(name) or StreamQueue()

    def hold(self, stream: StreamQueue) -> None:
        stream.held = True

    def release(self, stream: StreamQueue) -> None:
        stream.held = False
        self._queue(stream)

    def idle(self) -> bool:
        """True if no stream waits for its turn."""
        return not any(stream.waiting and not stream.held for _, _, stream in self._turns)

    def give_way(self, now: float, *, no_room: bool) -> None:
        """Begin the next batch where the present one has nothing to send and is not waited for any longer.

        `no_room`: messages that stand behind such batches fill their share; no further ones can be read.
        """
        for stream in self.batches.overdue(now, no_room=no_room):
            self._queue(stream)

    def turns(self, now: float, may: Callable[[Candidate], bool]) -> Iterator[Outgoing]:
        """The messages whose next piece may go now, one by one; the caller takes that piece, or stops."""
        barred: list[StreamQueue] = []  # others may pass them: something urgent, something smaller
        try:
            while self._turns:
                turn, _, stream = heapq.heappop(self._turns)
                stream.queued = False
                message = self._head(stream, now)
                if message is None:
                    continue
                if not may(message.offer) or not self._may_begin(message):
                    barred.append(stream)
                    continue
                self._now_turn = turn
                stream.turn = turn + 1.0 / (1 << message.offer.priority)
                try:
                    yield message
                finally:
                    self._queue(stream)
        finally:
            for stream in barred:
                self._queue(stream)

    def pop(self, message: Outgoing) -> Tag:
        """Take the next piece of `message`, which is at the head of its stream."""
        piece = message.unsent.popleft()
        if not message.unsent:
            message.stream.waiting.popleft()
        message.touched = True
        message.stream.in_flight += 1
        if message.offer.pieces > 1:
            self._in_pieces.add(message.offer.id)
        return message.offer.id, piece

    def _may_begin(self, message: Outgoing) -> bool:
        """True if it is in one piece, or begun, or one more in pieces may begin."""
        offer = message.offer
        if offer.pieces == 1 or offer.id in self._in_pieces:
            return True
        half_more = MOST_IN_PIECES // 2 if offer.priority >= IMPORTANT_PRIORITY else 0
        return len(self._in_pieces) < MOST_IN_PIECES + half_more

    def acked(self, message: Outgoing, piece: int) -> bool:
        """A piece of it was acknowledged. Returns true if that was the last."""
        message.stream.in_flight -= 1
        message.ahead.add(piece)
        while message.reached in message.ahead:
            message.ahead.remove(message.reached)
            message.reached += 1
        return message.reached == message.offer.pieces

    def put_back(self, tags: Sequence[Tag]) -> None:
        """Put back pieces that were sent in that order and not acknowledged: they go first, in that order."""
        for number, piece in reversed(tags):
            message = self.messages.get(number)
            if message is None:
                continue
            stream = message.stream
            stream.in_flight -= 1
            message.unsent.appendleft(piece)
            if not stream.waiting or stream.waiting[0] is not message:
                stream.waiting.appendleft(message)
            self._queue(stream)

    def begin_anew(self) -> list[Outgoing]:
        """Send partly sent messages again from their first piece, files too. Nothing may be in flight.

        Returns the messages whose file, uploaded before, has to be uploaded again.
        """
        again = []
        for message in self.messages.values():
            if message.offer.pieces > 1:
                message.begin_anew()
            if message.offer.file and message.offer.id not in self.files:
                self.files[message.offer.id] = message
                again.append(message)
        return again

    def to_upload(self, now: float) -> Iterator[Outgoing]:
        """Messages whose file could be uploaded now, the most important first.

        All before them in their stream is acknowledged.
        """
        for message in sorted(self.files.values(), key=lambda message: -message.offer.priority):
            stream = message.stream
            first = stream.waiting[0] if stream.waiting else None
            if first is message and not stream.held and not stream.in_flight:
                self._head(stream, now)
                if message.offer.id in self.files:  # not expired
                    yield message
                else:
                    self._queue(stream)

    def _head(self, stream: StreamQueue, now: float) -> Outgoing | None:
        """The message whose turn it is in `stream`, expired ones dropped; None where it has to wait."""
        while stream.waiting and not stream.held:
            message = stream.waiting[0]
            expires_s = message.offer.expires_s
            if expires_s is not None and now >= expires_s and not message.touched:
                self.expired.append(message.offer.id)
                self.remove(message)
                continue
            return None if message.offer.id in self.files else message
        return None

    def _queue(self, stream: StreamQueue) -> None:
        """Give a stream its turn. One that comes new starts now, not in the past."""
        if stream.queued or stream.held or not stream.waiting:
            return
        stream.queued = True
        stream.turn = max(stream.turn, self._now_turn)
        heapq.heappush(self._turns, (stream.turn, stream.waiting[0].offer.id, stream))
