"""Room in the send queue, shared so that messages that may not go now never keep out those that may.

Every message in the send queue belongs to one of two shares:

    standing   may not go now, whatever its turn: behind a file, held for a trial, barred by the link
    going      the rest

Standing messages get up to STANDING; going ones the rest of FULL, and at least half of it. Messages of high
priority have IMPORTANT beyond that: where a slow line has enough to do for hours they are still read.

A message becomes standing when the cause occurs: a budget that is used up makes all of them standing. So
both shares together may exceed FULL for a while, by half of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from runtime.core.delivery.send_queue import FULL, FULL_BYTES, IMPORTANT_PRIORITY, SendQueue, StreamQueue

MEASURE_EVERY_S = 0.05
"""Least time between two measurements of the send queue, where it is crowded."""


class Share(NamedTuple):
    """A number of messages and their bytes."""

    messages: int = 0
    bytes: int = 0

    def plus(self, messages: int, size: int) -> Share:
        return Share(self.messages + messages, self.bytes + size)

    def reaches(self, part: float) -> bool:
        """True if it is this part of all that may be in the send queue, or more."""
        return self.messages >= part * FULL or self.bytes >= part * FULL_BYTES

    def part(self) -> float:
        """Its part of all that may be in the send queue."""
        return max(self.messages / FULL, self.bytes / FULL_BYTES)


EMPTY = Share()
STANDING, IMPORTANT = 0.5, 0.25
"""Parts of FULL."""


@dataclass(slots=True)
class Room:
    """The shares as they were measured, and the messages taken since."""

    going: Share = EMPTY
    standing: Share = EMPTY
    important: Share = EMPTY

    def full(self, *, stands: bool, important: bool) -> bool:
        """True if there is no room for a message that stands or goes."""
        if stands:
            return self.standing.reaches(STANDING)
        going_full = self.going.reaches(self._most_going())
        return going_full and not (important and not self.important.reaches(IMPORTANT))

    def crowded(self, *, stands: bool) -> bool:
        """True if streams that have hardly any message in the send queue come first."""
        if stands:
            return self.standing.reaches(STANDING / 2)
        return self.going.reaches(self._most_going() / 2)

    def took(self, size: int, *, stands: bool, important: bool) -> None:
        """Count one more message in the send queue."""
        if stands:
            self.standing = self.standing.plus(1, size)
        else:
            self.going = self.going.plus(1, size)
        if important:
            self.important = self.important.plus(1, size)

    def _most_going(self) -> float:
        return 1.0 - min(STANDING, self.standing.part()) if self.standing.messages else 1.0


class RoomMeter:
    """Measures the room in a send queue, now and then."""

    def __init__(
        self, queue: SendQueue, passes: Callable[[int], bool], is_urgent: Callable[[int], bool]
    ) -> None:
        self._queue = queue
        self._passes = passes
        """True if budgets and hours let a message of this priority go."""
        self._is_urgent = is_urgent
        self._room = Room()
        self._measure_at_s = 0.0

    def look(self, now: float) -> Room:
        """The room at `now`."""
        if now >= self._measure_at_s or not self._queue.crowded:
            self._room = self._measured()
            self._measure_at_s = now + MEASURE_EVERY_S
        return self._room

    def is_important(self, priority: int) -> bool:
        """True if messages of this priority have room of their own."""
        return priority >= IMPORTANT_PRIORITY or self._is_urgent(priority)

    def least_important(self) -> int:
        """The lowest priority that has room of its own."""
        return next(priority for priority in range(IMPORTANT_PRIORITY + 1) if self.is_important(priority))

    def stands(self, stream: StreamQueue, priority: int | None = None, *, file: bool = False) -> bool:
        """True if a message that comes behind those of `stream` in the send queue would stand."""
        if self._queue.stands(stream, self._passes):
            return True
        return file or (priority is not None and not self._passes(priority))

    def _measured(self) -> Room:
        queue = self._queue
        everything = Share(len(queue.messages), queue.bytes)
        if not queue.crowded:  # less than any share: the standing part is not measured
            return Room(going=everything)
        standing, important = Share(), Share()
        for stream in queue.streams():
            if queue.stands(stream, self._passes):
                standing = standing.plus(stream.messages, stream.bytes)
        for priority, (messages, size) in enumerate(queue.by_priority):
            if self.is_important(priority):
                important = important.plus(messages, size)
        return Room(everything.plus(-standing.messages, -standing.bytes), standing, important)
