"""Log throttle: logs the first occurrence at once, then at most once per interval, with the count since.

A producer that is refused asks again every second, and a hundred of them would push everything else out of a
log of 2 MB within the hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LogThrottle:
    """When each event was last logged, and its count since. `what` is one of few: a code, an error's name."""

    every_s: float
    _said_s: dict[str, float] = field(default_factory=dict)
    _since: dict[str, int] = field(default_factory=dict)

    def times(self, what: str, now_s: float) -> int:
        """Record an occurrence: the count since it was last logged, this one included; 0: do not log it."""
        count = self._since[what] = self._since.get(what, 0) + 1
        if what in self._said_s and now_s - self._said_s[what] < self.every_s:
            return 0
        self._said_s[what], self._since[what] = now_s, 0
        return count
