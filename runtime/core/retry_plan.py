"""When a client asks again, how long it waits for an answer, and when it gives up.

It is the client of ZeroMQ's "lazy pirate" pattern, as decisions without a socket or a clock:

    begin -> Ask -> refused for now: Pause -> Ask
                 -> silence: Ask, on a fresh socket, for longer than before; an answer that cannot be read
                    counts as silence, and Pause lasts until the wait would have been over
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST_WAIT_S = 0.05
"""Shortest time-out: a shorter one would ask a busy worker faster than it can answer."""
LONGEST_WAIT_S = 10.0
LEAST_PAUSE_S = 0.1
"""Pause after a refusal that names none."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the request and wait so long for the answer."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before asking again."""

    seconds: float


class RetryPlan:
    """The times of one request, until it is answered or out of time."""

    def __init__(self, *, retry_for_s: float | None, timeout_s: float) -> None:
        self.retry_for_s = retry_for_s
        self.asked = 0
        self._timeout_s = max(SHORTEST_WAIT_S, timeout_s)
        self._deadline_s = math.inf
        self._answer_by_s = 0.0

    def begin(self, now_s: float) -> Ask:
        if self.retry_for_s is not None:
            self._deadline_s = now_s + self.retry_for_s
        return self.ask(now_s)

    def ask(self, now_s: float) -> Ask:
        """A pause is over, or there is none."""
        self.asked += 1
        timeout_s = max(0.01, min(self._timeout_s, self._deadline_s - now_s))
        self._answer_by_s = now_s + timeout_s
        return Ask(timeout_s)

    def silence(self, now_s: float) -> Ask | Pause | None:
        """No answer came, or none that can be read; None where the time is over."""
        if now_s >= self._deadline_s:
            return None
        self._timeout_s = min(LONGEST_WAIT_S, self._timeout_s * 1.5)
        early_s = self._answer_by_s - now_s
        return Pause(early_s) if early_s > 0 else self.ask(now_s)

    def refused(self, retry_after_s: float | None, now_s: float) -> Pause | None:
        """The answer was a refusal for now; None where the pause would be longer than the time left."""
        pause_s = retry_after_s or LEAST_PAUSE_S
        return None if now_s + pause_s > self._deadline_s else Pause(pause_s)
