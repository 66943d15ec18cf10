"""Path: what the way to the hub cannot carry, and what the next connection does about it.

Where a router drops packets above some size and its notice of that does not come back, small packets pass and
large ones vanish: the connection stands, and nothing large is ever acknowledged by the hub's TCP. Smaller
segments get through, so from the second such end in a row on our TCP is told to make them.

Where the line is so slow that one message takes longer than the hub's patience (one and a half keep-alives
without a whole packet), the hub ends every connection in its midst. So the keep-alive is stretched.
"""

from __future__ import annotations

from runtime.core.delivery.in_flight import ConnectionEnding

LARGE_BYTES = 1_024
"""Fewer fit into packets that every path carries."""
ENDS_TO_BELIEVE = 2
"""A line that goes dead in the midst looks the same once."""
SEGMENTS_BYTES = (1_200, 536)
"""What is tried then, one after the other; the last one is what every IPv4 host has to take."""
STRETCH, MOST_STRETCH = 4, 64
"""How much longer the keep-alive becomes each time, and at most."""
BELIEVED_S = 6 * 3600.0
"""Then the way may be another: the next connection tries full segments."""


class Path:
    """What the ends of connections say about the size of packets. Times are of one clock that never jumps."""

    def __init__(self) -> None:
        self._ends = 0
        self._step = 0
        self._until_s = 0.0
        self.stretch = 1
        """So many times the keep-alive of the settings."""

    def segment_bytes(self, now: float) -> int | None:
        """Largest TCP segment of the connection that begins now; None: whatever the interface takes."""
        if now >= self._until_s:
            self._step = 0
        return SEGMENTS_BYTES[self._step - 1] if self._step else None

    @property
    def trouble(self) -> str:
        """In words, while large packets do not get through."""
        if not self._step:
            return ""
        return f"large packets do not get through; sending segments of {SEGMENTS_BYTES[self._step - 1]} bytes"

    def ended(self, ending: ConnectionEnding, now: float) -> None:
        """A connection ended."""
        if ending.stuck_bytes < LARGE_BYTES:
            self.stretch = min(self.stretch * (STRETCH if ending.in_the_midst else 1), MOST_STRETCH)
            return
        self._ends += 1
        if self._ends >= ENDS_TO_BELIEVE and self._step < len(SEGMENTS_BYTES):
            self._step += 1
            self._ends, self._until_s = 0, now + BELIEVED_S

    def carried(self, size_bytes: int) -> None:
        """The hub acknowledged a message of this size. What made it get through stays in force."""
        if size_bytes >= LARGE_BYTES:
            self._ends = 0
