"""A copy of messages.db as it is at one moment, for a rehearsal: nothing of the store itself is changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from runtime.adapters.store.errors import translated

TIME_S = 30.0


def copy_store(source: Path, target: Path) -> None:
    """Copy the store, with what stands in its WAL only. Raises StoreError."""
    with (
        translated(),
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=TIME_S)) as store,
        closing(sqlite3.connect(target)) as copy,
    ):
        store.backup(copy)
