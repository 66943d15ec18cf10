"""Saying a thing at once, and then, however often it happens, at most once in a while: with how often it did.

A producer that is refused comes again every second, and a hundred of them would push everything else out of a
log of 2 MB within the hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LogThrottle:
    """What has been said, and what has happened since. `what` is one of few: a code, the name of an error."""

    every_s: float
    _said_s: dict[str, float] = field(default_factory=dict)
    _since: dict[str, int] = field(default_factory=dict)

    def times(self, what: str, now_s: float) -> int:
        """It happened: how often since it was last said, now included; 0 where it is not to be said."""
        count = self._since[what] = self._since.get(what, 0) + 1
        if what in self._said_s and now_s - self._said_s[what] < self.every_s:
            return 0
        self._said_s[what], self._since[what] = now_s, 0
        return count
