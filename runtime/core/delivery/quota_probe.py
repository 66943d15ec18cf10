"""Connections that the hub takes and ends before it has taken a message: when to ask it why, over HTTPS."""

from __future__ import annotations

FIRST_ASKED_AFTER = 3
"""In a row; then after twice as many, and so on: who is asked in vain is asked more and more seldom."""


class QuotaProbe:
    """A poisonous message, an outage and a used-up quota all look like this; only the last can be named."""

    def __init__(self) -> None:
        self._fruitless = 0
        self._ask_at = FIRST_ASKED_AFTER

    def fruitless(self) -> bool:
        """One more connection ended with messages sent and none acknowledged. Whether to ask now."""
        self._fruitless += 1
        if self._fruitless < self._ask_at:
            return False
        self._ask_at *= 2
        return True

    def dispelled(self) -> None:
        """A message was acknowledged."""
        self._fruitless, self._ask_at = 0, FIRST_ASKED_AFTER
