"""Quota probe: when to ask the hub over HTTPS why it accepts connections and ends them before any message."""

from __future__ import annotations

FIRST_ASKED_AFTER = 3
"""Such connections in a row until the first inquiry; then twice as many, and so on: ever more seldom."""


class QuotaProbe:
    """A poisonous message, an outage and a used-up quota all look like this; only the last can be named."""

    def __init__(self) -> None:
        self._fruitless = 0
        self._ask_at = FIRST_ASKED_AFTER

    def record_failure(self) -> bool:
        """One more connection ended with messages sent and none acknowledged. True if to ask now."""
        self._fruitless += 1
        if self._fruitless < self._ask_at:
            return False
        self._ask_at *= 2
        return True

    def reset(self) -> None:
        """A message was acknowledged."""
        self._fruitless, self._ask_at = 0, FIRST_ASKED_AFTER
