"""Path MTU: the packets that the route to the hub cannot carry, and the next connection's answer to that.

Where a router drops packets above some size and its notice of that does not come back, small packets pass and
large ones vanish: the connection stands, and nothing large is ever acknowledged by the hub's TCP. Smaller
segments get through, so from the second such end in a row on our TCP is told to send them.

Where the line is so slow that one message takes longer than the hub's patience (one and a half keep-alives
without a whole packet), the hub ends every connection in the midst of it. So the keep-alive is stretched.
"""

from __future__ import annotations

from runtime.core.delivery.in_flight import ConnectionEnding

LARGE_BYTES = 1_024
"""A message of fewer bytes fits into packets that every path carries."""
ENDS_TO_BELIEVE = 2
"""Such ends in a row that count: a line that goes dead in the midst looks the same once."""
SEGMENTS_BYTES = (1_200, 536)
"""The segment sizes to try then, one after the other; every IPv4 host has to accept the last one."""
STRETCH, MOST_STRETCH = 4, 64
"""The factor on the keep-alive each time, and the largest in all."""
BELIEVED_S = 6 * 3600.0
"""After that the route may be another: the next connection tries full segments."""


class Path:
    """The evidence of ended connections about packet sizes. Times are on one clock that never jumps."""

    def __init__(self) -> None:
        self._ends = 0
        self._step = 0
        self._until_s = 0.0
        self.stretch = 1
        """Factor on the keep-alive of the settings."""

    def segment_bytes(self, now: float) -> int | None:
        """Largest TCP segment of the connection that begins now; None: as large as the interface allows."""
        if now >= self._until_s:
            self._step = 0
        return SEGMENTS_BYTES[self._step - 1] if self._step else None

    @property
    def trouble(self) -> str:
        """The trouble in words, while large packets do not get through."""
        if not self._step:
            return ""
        return f"large packets do not get through; sending segments of {SEGMENTS_BYTES[self._step - 1]} bytes"

    def ended(self, ending: ConnectionEnding, now: float) -> None:
        """Take in the end of a connection."""
        if ending.stuck_bytes < LARGE_BYTES:
            self.stretch = min(self.stretch * (STRETCH if ending.in_the_midst else 1), MOST_STRETCH)
            return
        self._ends += 1
        if self._ends >= ENDS_TO_BELIEVE and self._step < len(SEGMENTS_BYTES):
            self._step += 1
            self._ends, self._until_s = 0, now + BELIEVED_S

    def carried(self, size_bytes: int) -> None:
        """The hub acknowledged a message of this size. The settings that got it through stay in force."""
        if size_bytes >= LARGE_BYTES:
            self._ends = 0
