"""File uploads: which of them may begin, and how long one that failed rests.

An upload holds a slot from its beginning to its end, also while its blocks wait for the rate of the link. So
an urgent file, which waits for no rate, has a slot beyond those of the others.
"""

from __future__ import annotations

from runtime.core.backoff import pause_s
from runtime.core.delivery.outgoing import MessageState, Outgoing

HUB_ALLOWS = 10
"""Most uploads that IoT Hub lets one device have open at a time."""


class UploadSlots:
    """The slots, and the uploads that rest. Times are seconds on one clock that never jumps."""

    def __init__(self, slots: int, retry_max_s: float) -> None:
        self.in_use = 0
        """Uploads under way."""
        self._slots = slots
        self._retry_max_s = retry_max_s
        self._resting: dict[int, Outgoing] = {}

    def has_slot(self, *, urgent: bool) -> bool:
        """True if one more upload may begin."""
        urgent_slots = max(self._slots, min(self._slots + 1, HUB_ALLOWS))
        return self.in_use < (urgent_slots if urgent else self._slots)

    def begin(self, message: Outgoing, now: float) -> None:
        """Begin the upload of a message's file."""
        message.become(MessageState.UPLOADING, now)
        self.in_use += 1

    def end(self, message: Outgoing, state: MessageState, now: float) -> None:
        """The upload has ended, and leaves the message in this state."""
        message.become(state, now)
        self.in_use -= 1
        self.forget(message)

    def rest(self, message: Outgoing, now: float, draw: float, retry_after_s: float | None) -> None:
        """Let an upload that failed begin again after a pause that grows."""
        pause = pause_s(message.upload_failures, draw, max_s=self._retry_max_s, retry_after_s=retry_after_s)
        message.upload_failures += 1
        message.upload_at_s = now + pause
        self._resting[message.candidate.id] = message

    def forget(self, message: Outgoing) -> None:
        """The message waits for no pause any more."""
        self._resting.pop(message.candidate.id, None)

    def next_s(self, now: float) -> float | None:
        """The time at which the next pause ends; an upload that is due already waits for something else."""
        return min((m.upload_at_s for m in self._resting.values() if m.upload_at_s > now), default=None)
