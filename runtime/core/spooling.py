"""Under which name a producer's file waits for its upload."""

from __future__ import annotations

import hashlib


def spool_name(key: str) -> str:
    """The same for the same message, whatever the producer called its file."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]
