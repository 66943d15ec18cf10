"""Back-off: pauses after failures are exponential, with full jitter, never shorter than the other side asked.

Full jitter (anywhere between nothing and the ceiling) spreads a fleet that failed at the same instant far
better than a ceiling with a little noise on it. A floor keeps an unlucky draw from becoming a tight loop.
"""

from __future__ import annotations

FLOOR_S = 0.5
"""Shortest pause, whatever the draw is."""

LONGEST_RETRY_AFTER_S = 86_400.0
"""A day: a `Retry-After` beyond it is taken for a mistake of the server's clock."""


def pause_s(
    attempt: int,
    draw: float,
    *,
    max_s: float,
    base_s: float = 1.0,
    floor_s: float = FLOOR_S,
    retry_after_s: float | None = None,
) -> float:
    """Seconds to wait after the failure number `attempt` (from 0) in a row; `draw` is random in [0, 1).

    With `retry_after_s` the pause begins where that ends: a fleet that was told the same number must not
    come back in the same second. It is never shorter than without: a `Retry-After: 0` cancels no backoff.
    """
    ceiling_s = min(max_s, base_s * 2.0 ** min(attempt + 1, 64))
    jitter_s = draw * ceiling_s
    own_s = max(min(floor_s, max_s), jitter_s)
    if retry_after_s is None:
        return own_s
    asked_s = min(max(retry_after_s, 0.0), LONGEST_RETRY_AFTER_S)
    return max(floor_s, own_s, asked_s + min(jitter_s, asked_s))
