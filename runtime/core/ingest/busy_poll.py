"""Busy poll: the next request of a producer that asks again at once is waited for awake.

A thread that sleeps is woken late, and on caches that went cold: of the round trip of one producer, which
sends message by message, that is a large part. So the wait polls for SPIN_S before it sleeps.

Invariants, held by `tests/unit/test_busy_poll.py`:

1. Only after QUICK_IN_A_ROW waits in a row that a single request ended within SPIN_S; one that took longer
   ends it. So neither an idle device nor one with a message now and then has any, nor one whose cores are
   busy: there an answer takes longer to be followed by the next request.
2. Never on one core: the producer needs it.

Considered and left: for several producers (some of them wait already, or come while the disk is written to);
a longer time (nearly all that come soon come within it, and what does not costs a core for so long).
"""

from __future__ import annotations

SPIN_S = 0.000_2
QUICK_IN_A_ROW = 16


class BusyPoll:
    """Whether the waits for requests are worth it at present."""

    def __init__(self, cores: int) -> None:
        self._has_cores = cores > 1
        self._quick = 0
        """The number of quick waits in a row."""

    @property
    def spin_s(self) -> float:
        """Seconds for which the next wait stays awake."""
        return SPIN_S if self._quick >= QUICK_IN_A_ROW and self._has_cores else 0.0

    def waited(self, wait_s: float, requests: int) -> None:
        """A wait is over: after so many seconds, and for so many requests."""
        self._quick = self._quick + 1 if requests == 1 and wait_s <= SPIN_S else 0
