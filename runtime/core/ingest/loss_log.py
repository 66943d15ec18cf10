"""Loss log: names every loss in few lines, though a policy may drop messages with every commit.

The loss of a stream for a reason is logged at once, and then at most once per interval, with all losses
since: the number of messages, and every range of ids. Where the ranges become many they are logged earlier.
The counters on disk do not wait for the log; a loss that SIGKILL keeps out of the log stands there, too, with
its first and its last id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

RANGES_AT_ONCE = 1_000
"""Ranges that are logged without waiting for the interval: a line of 20 kB."""

MOST_KEYS = 1_000
"""Most pairs of stream and reason remembered as logged; beyond that only those logged within the interval."""

LossKey = tuple[str, str]
"""Stream and reason."""


@dataclass
class Gathered:
    """The losses of one stream for one reason that were not logged yet."""

    messages: int = 0
    ranges: list[list[int]] = field(default_factory=list)
    """Closed ranges of ids."""

    def add(self, messages: int, ranges: Sequence[Sequence[int]]) -> None:
        self.messages += messages
        for first, last in ranges:
            if self.ranges and self.ranges[-1][1] == first - 1:
                self.ranges[-1][1] = last
            else:
                self.ranges.append([first, last])


@dataclass
class LossLog:
    """The losses of all streams, for all reasons."""

    every_s: float
    _logged_s: dict[LossKey, float] = field(default_factory=dict)
    _pending: dict[LossKey, Gathered] = field(default_factory=dict)

    def add(self, key: LossKey, messages: int, ranges: Sequence[Sequence[int]]) -> None:
        self._pending.setdefault(key, Gathered()).add(messages, ranges)

    def due(self, now_s: float) -> Iterator[tuple[LossKey, Gathered]]:
        """The losses to log now; with `now_s` infinite, all."""
        if len(self._logged_s) > MOST_KEYS:  # names of streams come and go
            self._logged_s = {
                p: logged_s for p, logged_s in self._logged_s.items() if now_s - logged_s < self.every_s
            }
        for key, gathered in tuple(self._pending.items()):
            waited = now_s - self._logged_s.get(key, -self.every_s) >= self.every_s
            if waited or len(gathered.ranges) >= RANGES_AT_ONCE:
                del self._pending[key]
                self._logged_s[key] = now_s
                yield key, gathered
