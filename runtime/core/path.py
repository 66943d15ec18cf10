"""Path: whether large packets get through to the hub (a path MTU black hole), and what is done about it.

Where a router drops packets above some size and its notice of that does not come back, small packets pass and
large ones vanish: the connection stands, and nothing large is ever acknowledged by the hub's TCP. Smaller
segments get through, so from the second such end in a row on our TCP is told to make them.
"""

from __future__ import annotations

LARGE_BYTES = 1_024
"""Fewer fit into packets that every path carries."""
ENDS_TO_BELIEVE = 2
"""A line that goes dead in the midst looks the same once."""
SEGMENTS_BYTES = (1_200, 536)
"""What is tried then, one after the other; the last one is what every IPv4 host has to take."""
BELIEVED_S = 6 * 3600.0
"""Then the way may be another: the next connection tries full segments."""


class Path:
    """What the ends of connections say about the size of packets. Times are of one clock that never jumps."""

    def __init__(self) -> None:
        self._ends = 0
        self._step = 0
        self._until_s = 0.0

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

    def ended(self, stuck_bytes: int, now: float) -> None:
        """A connection ended with so many bytes that TCP never had acknowledged, none of which was."""
        if stuck_bytes < LARGE_BYTES:
            return
        self._ends += 1
        if self._ends >= ENDS_TO_BELIEVE and self._step < len(SEGMENTS_BYTES):
            self._step += 1
            self._ends, self._until_s = 0, now + BELIEVED_S

    def carried(self, size_bytes: int) -> None:
        """The hub acknowledged a message of this size. What made it get through stays in force."""
        if size_bytes >= LARGE_BYTES:
            self._ends = 0
