"""Timer: due at once, then again an interval after it was restarted. Time is an argument."""

from __future__ import annotations

import math


class Timer:
    """One recurring piece of work, on the boot clock."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_s = -math.inf

    def due(self, now_s: float) -> bool:
        return now_s >= self._due_s

    def restart(self, now_s: float) -> None:
        """Due again an interval from now."""
        self._due_s = now_s + self._interval_s

    def expire(self) -> None:
        """Due at once."""
        self._due_s = -math.inf

    def restart_if_due(self, now_s: float) -> bool:
        """True if it was due; then it is restarted."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._interval_s
        return True
