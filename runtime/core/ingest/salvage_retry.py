"""Salvage retry: a failed salvage begins again, each time later, for it reads and writes the whole store; and
at once where the disk has room that it did not have.
"""

from __future__ import annotations

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
MORE_SHARE = 10
"""New room of one part in so many of the store is worth another attempt."""


class SalvageRetry:
    """The salvages that failed in a row."""

    def __init__(self) -> None:
        self.cramped = False
        """The last salvage found no room on the disk."""
        self._pause_s = FIRST_PAUSE_S / 2
        self._enough_bytes = 0

    def failed(self) -> float:
        """One more salvage failed, for any reason. Returns the pause until the next."""
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        self.cramped = False
        return self._pause_s

    def found_no_room(self, free_bytes: int, store_bytes: int) -> None:
        """The last salvage failed for want of room, with so many bytes free then."""
        self.cramped = True
        self._enough_bytes = free_bytes + max(1, store_bytes // MORE_SHARE)

    def has_room(self, free_bytes: int) -> bool:
        """True if there is more room than the last salvage found."""
        return self.cramped and free_bytes >= self._enough_bytes
