"""Token buckets: the rates of a link, one for a kind of traffic, or shared by messages and files."""

from __future__ import annotations

from dataclasses import dataclass, field

BURST_S = 1.0
"""A rate may be used in advance for so many seconds."""
URGENT_DEBT_S = 60.0
"""Urgent messages that exceed a rate hold up the others no longer than this once they are through."""


@dataclass(slots=True)
class TokenBucket:
    """A token bucket: the level grows with time, up to a burst. A rate of 0 has no limit."""

    per_s: float
    level: float = field(init=False)
    at_s: float | None = None

    def __post_init__(self) -> None:
        self.level = self.per_s * BURST_S

    def wait_s(self, now: float) -> float:
        """Seconds until tokens may be taken: 0 while the level is positive; one message may overdraw it."""
        if not self.per_s:
            return 0.0
        if self.at_s is not None:
            self.level = min(self.per_s * BURST_S, self.level + (now - self.at_s) * self.per_s)
        self.at_s = now
        return 0.0 if self.level > 0 else -self.level / self.per_s + 0.001

    def spend(self, amount: float, *, urgent: bool = False) -> None:
        """Take tokens, whether there are any or not."""
        if self.per_s:
            self.level = owing(self.level, amount, self.per_s if urgent else None)


class SharedTokenBucket:
    """A rate that messages and files share: half of it for each; the unused part of one goes to the other.

    Files save no tokens in advance: a block goes while no debt of the one before is left.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._messages = self._most = per_s * BURST_S
        self._files = 0.0
        self._at_s: float | None = None

    def messages_wait_s(self, now: float) -> float:
        """Seconds until a message may go: as in a bucket, at half the rate while files are in debt."""
        if not self._per_s:
            return 0.0
        self._refill(now)
        if self._messages > 0:
            return 0.0
        return -self._messages / (self._per_s / 2 if self._files < 0 else self._per_s) + 0.001

    def files_wait_s(self, now: float) -> float:
        """Seconds until a block of a file may go, at the earliest."""
        if not self._per_s:
            return 0.0
        self._refill(now)
        return 0.0 if self._files >= 0 else -self._files / self._per_s + 0.001

    def spend(self, message_bytes: float, file_bytes: float = 0.0, *, urgent: bool = False) -> None:
        """Take tokens for a message and for a part of a file."""
        if self._per_s:
            bounded_by = self._per_s if urgent else None
            self._messages = owing(self._messages, message_bytes, bounded_by)
            self._files = owing(self._files, file_bytes, bounded_by)

    def _refill(self, now: float) -> None:
        gained = 0.0 if self._at_s is None else (now - self._at_s) * self._per_s
        self._at_s = now
        to_messages = min(gained / 2, self._most - self._messages)
        to_files = min(gained - to_messages, -self._files)
        self._files += to_files
        self._messages = min(self._most, self._messages + gained - to_files)


def owing(level: float, amount: float, urgent_per_s: float | None) -> float:
    """The level after `amount` was taken. Urgent traffic does not wait: its debt has a bound."""
    if urgent_per_s is None:
        return level - amount
    return max(level - amount, min(level, -urgent_per_s * URGENT_DEBT_S))
