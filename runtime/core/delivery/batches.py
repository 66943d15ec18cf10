"""One batch at a time within a stream, where a producer fills several at once.

The platform takes one active batch for each device and stream, and the store has their messages in the order
in which they came. Both hold together like this:

1. The batch of the first message is *under way*. Its further messages overtake those of other batches,
   which are *deferred*; nothing else overtakes anything. So each batch keeps its order, and batches follow
   each other in the order of their first messages. A message without a batch goes where it stands.
2. The completion ends the batch, and the next one begins behind it.
3. No wait is for ever: a batch that is never completed gives way once it had nothing to send for
   `patience_s`, or as soon as there is no room to look further ahead for more of it. While more of its
   stream is stored and not yet read, behind a backlog of others, it is waited for longer. Its messages that
   come later are a batch like any other.

A message is sorted once, when it is taken on. The waiting messages of a stream stay a plain queue. A crash
must not forget the batches that the hub has in part: `begun` records them, and `resume` takes them up.

Considered and left: to begin the next batch only when the completion is acknowledged. The hub gets both on
one connection in this order, and after a loss the completion is sent first again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING

from runtime.core.delivery.actions import Candidate
from runtime.core.delivery.outgoing import MessageState, Outgoing

if TYPE_CHECKING:
    from runtime.core.delivery.send_queue import StreamQueue

LOOK_AHEAD = 1_024
LOOK_AHEAD_BYTES = 1_048_576
"""Most messages of a stream that are deferred, and their bytes: the batch is not looked for further ahead."""
MOST_IDLE = 1_024
"""Streams with no message in the send queue whose batch is remembered; those idle for longest give way."""
PATIENCE_S = 5.0
PATIENT = 12
"""Factor on the wait for a batch while more of its stream is still to be read."""


class BatchOrder:
    """The batch that is under way in each stream, and the messages that wait behind it."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self.caught_up: Callable[[Hashable], bool] = lambda stream: True
        """True if all that is stored of a stream was read."""
        self.begun: dict[Hashable, str] = {}
        """Batches that the hub has in part, by stream: the messages sorted in may be far ahead of it."""
        self._under_way: dict[Hashable, str] = {}
        self._gave_way: dict[Hashable, str] = {}
        self._completed: dict[Hashable, int] = {}
        """The id of the last completion that the hub has, by stream."""
        self._deferring: dict[StreamQueue, None] = {}
        self._idle: dict[Hashable, None] = {}
        """Streams with no message in the send queue, of which something is remembered."""

    def resume(self, begun: Mapping[Hashable, str]) -> None:
        """Take up the batches that an earlier run has begun: they are under way."""
        self.begun.update(begun)
        self._under_way.update(begun)
        for stream in begun:
            self.idle(stream)

    def delivered(self, candidate: Candidate) -> None:
        """Record that the hub has this message."""
        if candidate.completes_batch:
            self._completed[candidate.stream] = candidate.id
            if self.begun.get(candidate.stream) == candidate.batch:
                del self.begun[candidate.stream]
        elif candidate.batch is not None and self._continues(candidate):
            self.begun[candidate.stream] = candidate.batch

    def sent(self, candidate: Candidate) -> None:
        """Record that the hub may have this message: what was before it in its batch may be dropped since."""
        if candidate.batch is not None and (candidate.completes_batch or self._continues(candidate)):
            self.begun.setdefault(candidate.stream, candidate.batch)

    def _continues(self, candidate: Candidate) -> bool:
        """True if the batch of a message neither gave way nor is complete."""
        overtaken = candidate.id < self._completed.get(candidate.stream, -1)  # by the completion
        return not overtaken and self._gave_way.get(candidate.stream) != candidate.batch

    def idle(self, stream: Hashable) -> None:
        """The send queue holds nothing of this stream. Streams come and go: not all are remembered."""
        memory = (self.begun, self._under_way, self._gave_way, self._completed)
        if not any(stream in remembered for remembered in memory):
            return
        self._idle[stream] = None
        while len(self._idle) > MOST_IDLE:
            gone = next(iter(self._idle))
            del self._idle[gone]
            for remembered in memory:
                remembered.pop(gone, None)

    def admit(self, stream: StreamQueue, message: Outgoing, now: float) -> None:
        """Sort in a message that is new in the send queue."""
        self._idle.pop(message.candidate.stream, None)
        todo = deque([message])
        while todo:
            message = todo.popleft()
            if not self._may_go(stream, message):
                self._defer(stream, message, now)
                continue
            if message.state is MessageState.DEFERRED:
                message.become(MessageState.QUEUED, now)
            stream.waiting.append(message)
            stream.quiet_s = None
            candidate = message.candidate
            if candidate.completes_batch:
                self._under_way.pop(candidate.stream, None)
                todo.extendleft(reversed(self._undefer(stream)))
            elif candidate.batch is not None:
                self._under_way[candidate.stream] = candidate.batch
                if self._gave_way.get(candidate.stream) == candidate.batch:
                    del self._gave_way[candidate.stream]

    def give_way(self, now: float, *, no_room: bool) -> Iterator[StreamQueue]:
        """Begin the next batch of the streams that have waited long enough for more of the present one."""
        for stream in list(self._deferring):
            if stream.waiting or stream.in_flight:  # what is in flight may come back, and goes first
                stream.quiet_s = None
                continue
            stream.quiet_s = now if stream.quiet_s is None else stream.quiet_s
            if no_room or is_full(stream) or now >= self._due_s(stream):
                self._next(stream, now)
                yield stream

    def next_s(self) -> float | None:
        """The latest time at which the next stream is due."""
        return min(
            (self._due_s(stream) for stream in self._deferring if stream.quiet_s is not None), default=None
        )

    def _due_s(self, stream: StreamQueue) -> float:
        """The time at which the batch of a quiet stream gives way."""
        assert stream.quiet_s is not None
        caught_up = self.caught_up(stream.deferred[0].candidate.stream)
        return stream.quiet_s + self.patience_s * (1 if caught_up else PATIENT)

    def _next(self, stream: StreamQueue, now: float) -> None:
        """Let the batch that is under way give way to the next one."""
        first = stream.deferred[0].candidate
        name, batch = first.stream, first.batch
        if (gave_way := self._under_way.pop(name, None)) is not None:
            self._gave_way[name] = gave_way
        self.begun.pop(name, None)
        if batch is not None:
            self.begun[name] = batch
        for message in self._undefer(stream):
            self.admit(stream, message, now)

    def _may_go(self, stream: StreamQueue, message: Outgoing) -> bool:
        batch = message.candidate.batch
        under_way = self._under_way.get(message.candidate.stream)
        if batch is not None and batch == under_way:
            return True
        return not stream.deferred and (batch is None or under_way is None)

    def _defer(self, stream: StreamQueue, message: Outgoing, now: float) -> None:
        if message.state is MessageState.QUEUED:
            message.become(MessageState.DEFERRED, now)
        stream.deferred.append(message)
        stream.deferred_bytes += message.candidate.wire_bytes
        self._deferring[stream] = None

    def _undefer(self, stream: StreamQueue) -> list[Outgoing]:
        messages = list(stream.deferred)
        stream.deferred.clear()
        stream.deferred_bytes = 0
        stream.quiet_s = None
        self._deferring.pop(stream, None)
        return messages


def is_full(stream: StreamQueue) -> bool:
    """True if so much is deferred that no more of the stream should be read."""
    return len(stream.deferred) >= LOOK_AHEAD or stream.deferred_bytes >= LOOK_AHEAD_BYTES
