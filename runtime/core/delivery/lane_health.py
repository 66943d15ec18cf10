"""Hold-ups, for the operator: lanes that fail again and again, and the oldest message that waits.

A *lane* can fail by itself while everything else goes on: the file uploads of all streams together,
the file of one stream, the telemetry of one stream.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MOST_LANES = 5
"""Lanes in the figures: those with the most failures."""
MOST_OF_A_REASON = 300
"""Most characters of the other side's text in the figures."""


@dataclass(slots=True)
class _Failing:
    failures: int
    since_s: float
    reason: str


class FailingLanes:
    """Failures in a row, by lane. Times are seconds on one clock that never jumps."""

    def __init__(self) -> None:
        self._failing: dict[tuple[str, str | None], _Failing] = {}

    def failed(self, lane: str, stream: str | None, reason: str, now: float) -> None:
        """Record one more failure of the lane."""
        failing = self._failing.setdefault((lane, stream), _Failing(0, now, reason))
        failing.failures += 1
        failing.reason = reason

    def worked(self, lane: str, stream: str | None) -> None:
        """The lane works: its earlier failures no longer count."""
        self._failing.pop((lane, stream), None)

    def only(self, streams: Collection[str | None]) -> None:
        """Only these streams have files in the send queue: the failed files of others have left."""
        for lane, stream in list(self._failing):
            if not streams or (stream is not None and stream not in streams):
                del self._failing[lane, stream]

    def figures(self) -> list[dict[str, Any]]:
        """The worst lanes first."""
        worst = sorted(self._failing.items(), key=lambda item: -item[1].failures)[:MOST_LANES]
        return [
            {
                "lane": lane,
                "stream": stream,
                "failures": failing.failures,
                "since_boot_s": failing.since_s,
                "words": failing.reason[:MOST_OF_A_REASON],
            }
            for (lane, stream), failing in worst
        ]


class OldestWait:
    """The time for which one message has been the oldest in the send queue and could have been sent."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._id: int | None = None
        self._looked_s: float | None = None

    def look(self, id: int | None, now: float, *, flowing: bool) -> float:
        """`id` is the oldest in the send queue now; `flowing`: the hub is up and the link may be used.

        Time in which either did not hold does not count, and the time counted before stays.
        """
        if id != self._id:
            self._id, self.waited_s = id, 0.0
        elif id is not None and flowing and self._looked_s is not None:
            self.waited_s += now - self._looked_s
        self._looked_s = now if flowing else None
        return self.waited_s
