"""Patience: how long the acknowledgements of a hub that has our sends may take.

A hub that throttles a fleet answers each device late, and its clients all at once. Who gives up sends again
what the hub has queued: the queue grows, the answers take longer still, and every repeat is metered. So each
loss that says nothing but "no answer yet" makes the patience four times as long, and quick answers halve it
again. TCP doubles its retransmission timeout; but here the deadline begins far above any line's round trip,
and a hub's queue is documented as minutes: 30, 120 and 300 s reach it with two repeats, where doubling pays
four.

It holds only for sends that the hub has whole, and only for silence: a line that carries nothing, a
keep-alive without an answer, and a message that others overtake are found as soon as ever.
"""

from __future__ import annotations

MOST_S = 300.0
"""The longest patience: a hub queues for a minute or two, as documented, then it refuses."""
_GROWTH = 4
_QUICK_SHARE = 4
"""An acknowledgement within this part of the patience halves it: then it is still twice as long as that
answer took, else it would go up and down with a queue of that length."""


class AckPatience:
    """Seconds to wait for a hub that has all of what was sent, and is silent."""

    def __init__(self, ack_s: float) -> None:
        self._least_s = self.current_s = ack_s
        self._most_s = max(ack_s, MOST_S)

    def acked(self, round_trip_s: float) -> None:
        """A send was acknowledged after so long."""
        if round_trip_s < self.current_s / _QUICK_SHARE:
            self.current_s = max(self._least_s, self.current_s / 2)

    def overdue(self) -> None:
        """A client was given up though its line was well, and no message is to blame."""
        self.current_s = min(self._most_s, _GROWTH * self.current_s)
