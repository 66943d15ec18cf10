"""Event queue: events of other threads, for a loop that polls. The hub connection and file uploads use it."""

from __future__ import annotations

import collections
import contextlib
import os
from typing import Generic, TypeVar

Event = TypeVar("Event")


class EventQueue(Generic[Event]):
    """A queue with a file descriptor, the same for as long as the process lives."""

    def __init__(self) -> None:
        self._events: collections.deque[Event] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        """True if the loop is woken already: a call of the kernel for each event lets it in each time."""

    def fileno(self) -> int:
        """A descriptor that is readable when `drain()` has an event."""
        return self._wake

    def drain(self) -> list[Event]:
        """Events since the last call, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._woken = False  # behind the read, before the events: what is added from here on wakes again
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def _publish(self, event: Event) -> None:
        """Add an event; called from any thread."""
        self._events.append(event)
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake, 1)
