"""How many random cases a test tries: `make unit` is shallow, `make test` and pytest itself are deep."""

from __future__ import annotations

import os

SHALLOW = os.environ.get("TEST_DEPTH") == "shallow"
SHARE = 5
"""A shallow run tries one case in so many."""


def deep(cases: int) -> int:
    """So many cases in a deep run, and a share of them in a shallow one."""
    return max(1, cases // SHARE) if SHALLOW else cases
