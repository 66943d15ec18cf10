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
from runtime.core.delivery.outgoing import MessageState, Outgoing
from runtime.core.ingest.quota import TOP_PRIORITY

CROWDED = 4_000
CROWDED_BYTES = 4_194_304
"""Below so many messages and bytes every message has room: `queue_room` says which have room beyond."""
MOST_IN_PIECES = 128
"""Messages in pieces that the hub has in part: the progress of twice as many survives a crash."""
IMPORTANT_PRIORITY = 8
"""Messages of at least this priority have room of their own (see `queue_room`)."""
MOST_TURNS_AHEAD = 1_024
"""Streams whose turn is remembered while they have no message in the send queue."""
FULL = 2 * CROWDED
FULL_BYTES = 2 * CROWDED_BYTES
"""The most messages in the send queue, and bytes, about."""


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
    rests_until_s: float = 0.0
    """The time until which its messages wait for more to go with them (see `packs`)."""
    rests_with: int = 0
    """The number of messages that waited when this was found."""
    rereads_until_s: float = float("inf")
    """The end of the wait for the rest of a pack of an earlier run."""


NO_STREAM = StreamQueue()
"""In place of the stream of a settled message: its own may be gone long before ingest has confirmed."""
_EMPTY = StreamQueue()


class SendQueue:
    """The records of all messages that were offered and are not settled, and the indices over them."""

    def __init__(self) -> None:
        self.messages: dict[int, Outgoing] = {}
        """The records by id."""
        self.bytes = 0
        self.expired: list[Outgoing] = []
        """Messages dropped since the caller last read this."""
        self.files: dict[int, Outgoing] = {}
        """Those of `messages` whose payload has still to be uploaded."""
        self.batches = BatchOrder()
        self._in_pieces = 0  # begun, and not whole
        self.by_priority: list[tuple[int, int]] = [(0, 0)] * (TOP_PRIORITY + 1)
        """Messages and bytes in the send queue by priority."""
        self._streams: dict[Hashable, StreamQueue] = {}
        self._turns: list[tuple[float, int, StreamQueue]] = []
        self._now_turn = 0.0
        self._shed: dict[Hashable, set[int]] = {}
        """Messages that were shed and that ingest has not removed yet, by stream."""
        self._turns_ahead: dict[Hashable, float] = {}
        """The turns of streams that have no message in the send queue, where they are not due yet."""

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
            first = stream.waiting[0]
            return first.needs_upload or not passes(first.candidate.priority)
        return bool(stream.deferred) and not stream.in_flight

    def add(self, candidate: Candidate, now: float) -> Outgoing:
        """Begin the record of a message; those of a stream come in store order."""
        stream = self._streams.get(candidate.stream) or self._begin_stream(candidate.stream)
        reached, touched = candidate.reached, candidate.reached > 0 or candidate.sent_before
        message = Outgoing(candidate, stream, now, reached, reached, touched, candidate.file)
        self.messages[candidate.id] = message
        self._count(stream, candidate, 1)
        stream.last_id = candidate.id
        self._in_pieces += touched and candidate.pieces > 1
        if candidate.file:
            self.files[candidate.id] = message
        self.batches.admit(stream, message, now)
        self._queue(stream)
        return message

    def remove(self, message: Outgoing) -> None:
        """Remove the record of a settled message."""
        candidate, stream = message.candidate, message.stream
        del self.messages[candidate.id]
        self.files.pop(candidate.id, None)
        self._in_pieces -= message.touched and candidate.pieces > 1
        self._count(stream, candidate, -1)
        if stream.waiting and stream.waiting[0] is message:
            stream.waiting.popleft()
        message.stream = NO_STREAM
        if not stream.messages and self._streams.get(candidate.stream) is stream:
            self._end_stream(candidate.stream)

    def _begin_stream(self, name: Hashable) -> StreamQueue:
        stream = self._streams[name] = StreamQueue(turn=self._turns_ahead.pop(name, 0.0))
        return stream

    def _end_stream(self, name: Hashable) -> None:
        """Forget a stream without messages, but for its turn.

        Else one whose every pack takes all that waits would come as new each time, before all others.
        """
        turn = self._streams.pop(name).turn
        if turn > self._now_turn:
            self._turns_ahead[name] = turn
        if len(self._turns_ahead) > MOST_TURNS_AHEAD:
            due = [name for name, turn in self._turns_ahead.items() if turn <= self._now_turn]
            for gone in due or [next(iter(self._turns_ahead))]:
                del self._turns_ahead[gone]
        self.batches.idle(name)

    def _count(self, stream: StreamQueue, candidate: Candidate, sign: int) -> None:
        size = sign * candidate.wire_bytes
        self.bytes += size
        stream.bytes += size
        stream.messages += sign
        stream.files += sign * candidate.file
        messages, total = self.by_priority[candidate.priority]
        self.by_priority[candidate.priority] = messages + sign, total + size

    def stream(self, name: Hashable) -> StreamQueue:
        """The queue of a stream, to look at; an empty one where it has no message."""
        return self._streams.get(name) or _EMPTY

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
        for stream in self.batches.give_way(now, no_room=no_room):
            self._queue(stream)

    def turns(
        self,
        now: float,
        may: Callable[[Candidate], bool],
        ready: Callable[[Outgoing], bool] = lambda message: True,
    ) -> Iterator[Outgoing]:
        """The messages whose next piece may go now, one by one; the caller takes that piece, or stops.

        `ready` says of one that may whether it goes, or its stream rests until more joins it.
        """
        barred: list[StreamQueue] = []  # others may pass them: something urgent, something smaller
        try:
            while self._turns:
                turn, _, stream = heapq.heappop(self._turns)
                stream.queued = False
                message = self._head(stream, now)
                if message is None:
                    continue
                if not (may(message.candidate) and self._may_begin(message) and ready(message)):
                    barred.append(stream)
                    continue
                self._now_turn = turn
                stream.turn = turn + 1.0 / (1 << message.candidate.priority)
                try:
                    yield message
                finally:
                    self._queue(stream)
        finally:
            for stream in barred:
                self._queue(stream)

    def pop(self, message: Outgoing, now: float) -> Tag:
        """Put the next piece of `message`, at the head of its stream, in flight: with it all its pack."""
        if message.pack is not None:  # a turn for each unit, else a stream that packs has that of many
            message.stream.turn += (message.pack.units - 1) / (1 << message.candidate.priority)
        piece = message.next_piece
        for one in message.together:
            piece = self._pop_one(one, now)
        return message.candidate.id, piece

    def _pop_one(self, message: Outgoing, now: float) -> int:
        if not message.pieces_in_flight and message.state is not MessageState.ON_TRIAL:
            message.become(MessageState.IN_FLIGHT, now)
        piece = message.next_unsent()
        if not message.has_unsent():
            first = message.stream.waiting.popleft()
            assert first is message, "it was not at the head of its stream"
        message.attempts += message.attempts == message.returns
        if not message.touched:
            message.touched = True
            self.batches.sent(message.candidate)
            self._in_pieces += message.candidate.pieces > 1
        message.pieces_in_flight += 1
        message.stream.in_flight += 1
        return piece

    def _may_begin(self, message: Outgoing) -> bool:
        """True if it is in one piece, or begun, or one more in pieces may begin."""
        if message.candidate.pieces == 1 or message.touched:
            return True
        half_more = MOST_IN_PIECES // 2 if message.candidate.priority >= IMPORTANT_PRIORITY else 0
        return self._in_pieces < MOST_IN_PIECES + half_more

    def acked(self, message: Outgoing, piece: int, now: float) -> bool:
        """The hub acknowledged a piece of it. Returns true if it has all of it: the message is settled."""
        message.stream.in_flight -= 1
        message.pieces_in_flight -= 1
        message.piece_acked(piece)
        if message.is_whole():
            message.become(MessageState.ACKED, now)
            return True
        if not message.pieces_in_flight:
            message.become(MessageState.QUEUED, now)
        return False

    def put_back(self, tags: Sequence[Tag], now: float) -> None:
        """Put back pieces that were sent in that order and not acknowledged: they go first, in that order."""
        for number, piece in reversed(tags):
            message = self.messages.get(number)
            if message is not None:
                for one in reversed(message.together):
                    self._put_back(one, piece, now)

    def _put_back(self, message: Outgoing, piece: int, now: float) -> None:
        stream = message.stream
        stream.in_flight -= 1
        message.pieces_in_flight -= 1
        message.put_back(piece)
        if not message.pieces_in_flight:
            message.returns += 1
            if message.state is MessageState.IN_FLIGHT:
                message.become(MessageState.QUEUED, now)
        if not stream.waiting or stream.waiting[0] is not message:
            stream.waiting.appendleft(message)
        self._queue(stream)

    def restart(self) -> list[Outgoing]:
        """Send partly sent messages again from their first piece, files too. Nothing may be in flight.

        Returns the messages whose file, uploaded before, has to be uploaded again.
        """
        again = []
        for message in self.messages.values():
            if message.candidate.pieces > 1:
                message.restart()
            if message.candidate.file and not message.needs_upload:
                message.needs_upload = True
                self.files[message.candidate.id] = message
                again.append(message)
        return again

    def uploaded(self, message: Outgoing) -> None:
        """The payload of a message is in the cloud."""
        message.needs_upload = False
        del self.files[message.candidate.id]

    def to_upload(self, now: float) -> Iterator[Outgoing]:
        """Messages whose file could be uploaded now, the most important first.

        All before them in their stream is acknowledged.
        """
        for message in sorted(self.files.values(), key=lambda message: -message.candidate.priority):
            stream = message.stream
            first = stream.waiting[0] if stream.waiting else None
            if first is message and not stream.held and not stream.in_flight:
                self._head(stream, now)
                if message.state is MessageState.QUEUED:
                    yield message
                else:  # it expired
                    self._queue(stream)

    def _head(self, stream: StreamQueue, now: float) -> Outgoing | None:
        """The message whose turn it is in `stream`, expired ones dropped; None where it has to wait."""
        while stream.waiting and not stream.held:
            message = stream.waiting[0]
            if message.candidate.stream in self._shed:
                return None
            expires_s = message.candidate.expires_s
            if expires_s is not None and now >= expires_s and not message.touched:
                message.become(MessageState.EXPIRED, now)
                self.expired.append(message)
                self.remove(message)
                continue
            return None if message.needs_upload else message
        return None

    def shed(self, goes: Callable[[Outgoing], bool], now: float) -> list[Outgoing]:
        """Remove waiting messages for which `goes` is true and of which nothing was sent.

        Files stay, and parts without which the rest of a batch or of a message would wait for ever. Their
        stream waits until ingest has removed them: after a crash they would come after what was sent since.
        """
        gone: list[Outgoing] = []
        for stream in list(self._streams.values()):
            shed = [one for one in stream.waiting if self._may_be_shed(one) and goes(one)]
            if shed:
                gone += shed
                leaving = {one.candidate.id for one in shed}
                stream.waiting = deque(one for one in stream.waiting if one.candidate.id not in leaving)
        for message in gone:
            message.become(MessageState.SHED, now)
            self._shed.setdefault(message.candidate.stream, set()).add(message.candidate.id)
            self.remove(message)
        return gone

    def shed_confirmed(self, message: Outgoing) -> None:
        """Ingest has removed a message that was shed."""
        name = message.candidate.stream
        unconfirmed = self._shed.get(name, set())
        unconfirmed.discard(message.candidate.id)
        if not unconfirmed and self._shed.pop(name, None) is not None and name in self._streams:
            self._queue(self._streams[name])

    @staticmethod
    def _may_be_shed(message: Outgoing) -> bool:
        candidate = message.candidate
        if candidate.file or candidate.completes_batch or candidate.is_part:
            return False
        return message.state is MessageState.QUEUED and not message.touched and message.pack is None

    def _queue(self, stream: StreamQueue) -> None:
        """Give a stream its turn. One that comes new starts now, not in the past."""
        if stream.queued or stream.held or not stream.waiting:
            return
        stream.queued = True
        stream.turn = max(stream.turn, self._now_turn)
        heapq.heappush(self._turns, (stream.turn, stream.waiting[0].candidate.id, stream))
