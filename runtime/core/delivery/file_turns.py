"""File uploads: which of them may begin, and how long one that failed rests.

An upload holds a slot from its beginning to its end, also while its blocks wait for the rate of the link. So
an urgent file, which waits for no rate, has a slot beyond those of the others.
"""

from __future__ import annotations

from runtime.core.backoff import pause_s

HUB_ALLOWS = 10
"""Most uploads that IoT Hub lets one device have open at a time."""


class FileTurns:
    """The upload slots, and the failures. Times are seconds on one clock that never jumps."""

    def __init__(self, places: int, retry_max_s: float) -> None:
        self._places = places
        self._retry_max_s = retry_max_s
        self._under_way: set[int] = set()
        self._rests: dict[int, tuple[int, float]] = {}  # -> (failures, not before)

    def __len__(self) -> int:
        """Uploads under way."""
        return len(self._under_way)

    def has_place(self, *, urgent: bool) -> bool:
        """True if one more upload may begin."""
        urgent_places = max(self._places, min(self._places + 1, HUB_ALLOWS))
        return len(self._under_way) < (urgent_places if urgent else self._places)

    def rested(self, id: int, now: float) -> bool:
        """True if the pause after its last failure is over."""
        return now >= self._rests.get(id, (0, 0.0))[1]

    def begin(self, id: int) -> None:
        self._under_way.add(id)

    def ended(self, id: int) -> None:
        """The upload is no longer under way, however it ended."""
        self._under_way.discard(id)

    def failed(self, id: int, now: float, draw: float, retry_after_s: float | None) -> None:
        """The upload failed: it will be tried again, after a pause that grows."""
        failures = self._rests.get(id, (0, 0.0))[0]
        pause = pause_s(failures, draw, max_s=self._retry_max_s, retry_after_s=retry_after_s)
        self._rests[id] = failures + 1, now + pause

    def forget(self, id: int) -> None:
        """Forget the failures of this upload."""
        self._rests.pop(id, None)

    def next_s(self, now: float) -> float | None:
        """The time at which the next pause ends; an upload that is due already waits for something else."""
        return min((at_s for _, at_s in self._rests.values() if at_s > now), default=None)
