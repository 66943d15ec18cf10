"""Alarm events: which alarms have begun or ended since the last look, and which of them are told now. Pure.

An alarm that flaps is told at most once in a while, and its end is told only where its beginning was. What
was held back is told when its time comes, if it is still so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

MOST_AN_HOUR = 60
"""Events an hour over all alarms: a command may send a text message, which costs money."""
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """An alarm's beginning or end."""

    alarm: str
    """The alarm's sentence, without figures that change: what makes it the same alarm."""
    began: bool


class AlarmEvents:
    """The memory of what was told."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        """Shortest time between two events of the same alarm."""
        self._told: dict[str, tuple[bool, float]] = {}
        """By alarm: whether its beginning was the last that was told, and when."""
        self._sent_s: list[float] = []

    def look(self, alarms: Collection[str], now_s: float) -> list[AlarmEvent]:
        """The events to tell now, beginnings first."""
        self._sent_s = [at_s for at_s in self._sent_s if now_s - at_s < HOUR_S]
        events = [AlarmEvent(alarm, began=True) for alarm in alarms if self._due(alarm, True, now_s)]
        events += [
            AlarmEvent(alarm, began=False)
            for alarm in sorted(self._told)
            if alarm not in alarms and self._due(alarm, False, now_s)
        ]
        events = events[: max(0, MOST_AN_HOUR - len(self._sent_s))]
        for event in events:
            self._told[event.alarm] = event.began, now_s
            self._sent_s.append(now_s)
        self._forget(now_s)
        return events

    def _due(self, alarm: str, began: bool, now_s: float) -> bool:
        told = self._told.get(alarm)
        if told is None:
            return began
        return told[0] is not began and now_s - told[1] >= self.every_s

    def _forget(self, now_s: float) -> None:
        """Forget alarms whose end was told long ago: their number has no other bound."""
        for alarm, (began, at_s) in [*self._told.items()]:
            if not began and now_s - at_s >= max(self.every_s, HOUR_S):
                del self._told[alarm]
