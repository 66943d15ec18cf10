"""Reconnect: the time at which the next client may be opened after one was lost.

    short outage (acknowledgements came a moment ago)   about once a second, for QUICK_S
    long outage, or a hub that refuses                  exponential back-off with full jitter
    connections that stand and end within seconds       quick for the first SHORT_LIVES, then back-off

The last rule is for a hub that accepts every connection and ends it: two devices under one id end each
other's connection at every attempt, for ever, and messages even flow meanwhile. A connection counts as short
that lives less than SHORT_S and twice the pause before it: it lives as long as the other device pauses.
"""

from __future__ import annotations

from runtime.core.backoff import pause_s
from runtime.core.delivery.events import Cause

QUICK_S = 30.0
"""For so long after the last acknowledgement, attempts come about once a second; then they back off."""
SHORT_S = 10.0
"""A connection that ends sooner counts as short."""
SHORT_LIVES = 10
"""So many short connections in a row are replaced at once; beyond that the pauses double."""
MOST_EXPLAINED = 40
"""Refused messages in several streams cost about so many connections until the first is convicted."""
LONGEST_SHORT_PAUSE_S = 30.0
_QUICK_PAUSE_S = 0.8


class Reconnect:
    """Times are seconds on one clock that never jumps; `draw` is random in [0, 1)."""

    def __init__(self, retry_max_s: float) -> None:
        self.at_s = 0.0
        """The earliest time at which the next client may be opened."""
        self._retry_max_s = retry_max_s
        self._failures = 0  # clients in a row without an acknowledgement, once more where one gets through
        self._got_through = True  # the last one connected
        self._acked = False  # a message, on the client that is open
        self._well_s: float | None = None  # the last acknowledgement
        self._up_s: float | None = None  # since when the client that is open is connected
        self._pause_s = 0.0  # before it
        self._short = 0
        self._explained = 0  # short ones that a message is suspected of

    def credentials_changed(self, now: float) -> None:
        """Other credentials are tried at once."""
        self.at_s = min(self.at_s, now)
        self._failures = 0

    def up(self, now: float) -> None:
        """The client is connected."""
        self._up_s = now
        self._acked = False

    def acked(self, now: float) -> None:
        """A message was acknowledged on it."""
        self._well_s = now
        self._acked = True
        self._failures = 0

    def lost(self, cause: Cause, now: float, draw: float, *, explained: bool = False) -> None:
        """The client was lost; `explained` where a message is suspected of having ended it."""
        connected = self._up_s is not None
        if self._lives_long(now):
            self._short = self._explained = 0
        elif connected and cause is Cause.DROPPED:
            self._short += not explained
            self._explained += explained
        before, self._got_through = self._got_through, connected
        self._failures = 1 if self._acked or self._got_through > before else self._failures + 1
        self._acked, self._up_s = False, None
        self._pause_s = max(self._after_outage_s(cause, now, draw), self._after_short_lives_s(draw))
        self.at_s = now + self._pause_s

    def closed(self) -> None:
        """The client was given up without a loss."""
        self._up_s = None

    def explained(self) -> None:
        """A message was convicted of ending the connections."""
        self._short = self._explained = 0

    def short_lives(self, now: float) -> int:
        """Connections in a row that ended within seconds, where those are too many for an accident."""
        short = self._unexplained()
        return short if short >= SHORT_LIVES and not self._lives_long(now) else 0

    def _unexplained(self) -> int:
        """Short connections that no message explains: suspects explain some of them, not any number."""
        return self._short + max(0, self._explained - MOST_EXPLAINED)

    def _lives_long(self, now: float) -> bool:
        return self._up_s is not None and now - self._up_s >= SHORT_S + 2 * self._pause_s

    def _after_outage_s(self, cause: Cause, now: float, draw: float) -> float:
        """The pause: about a second in a short outage; back-off in a long one, or where the hub refuses."""
        self._well_s = now if self._well_s is None else self._well_s
        if cause in (Cause.DROPPED, Cause.UNREACHABLE) and now - self._well_s < QUICK_S:
            most_s = min(_QUICK_PAUSE_S, self._retry_max_s)
            return pause_s(self._failures - 1, draw, max_s=most_s, base_s=0.05, floor_s=0.01)
        return pause_s(self._failures - 1, draw, max_s=self._retry_max_s)

    def _after_short_lives_s(self, draw: float) -> float:
        beyond = self._unexplained() - SHORT_LIVES
        if beyond <= 0:
            return 0.0
        most_s = min(self._retry_max_s, LONGEST_SHORT_PAUSE_S)
        return (0.5 + draw / 2) * min(most_s, 2.0 ** min(beyond, 16))
