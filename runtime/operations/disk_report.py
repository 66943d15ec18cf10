"""The disk of the state: its free space, and how long that lasts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from runtime.adapters.process.status_file import StatusRecord
from runtime.layout import Layout

LEAST_GROWTH_BYTES_PER_S = 100.0


def disk_figures(layout: Layout, sentinel: StatusRecord) -> dict[str, Any]:
    """Free space, and how long it lasts at the recent rate."""
    growth_bytes_per_s = sentinel.number("disk_growth_bytes_per_s")
    usage = next((u for p in (layout.state, *layout.state.parents) if (u := _usage(p))), None)
    rate = growth_bytes_per_s or 0.0
    filling = usage is not None and rate > LEAST_GROWTH_BYTES_PER_S
    return {
        "free_bytes": usage.free if usage else None,
        "free_inodes": free_inodes(layout),
        "total_bytes": usage.total if usage else None,
        "growth_bytes_per_s": None if growth_bytes_per_s is None else round(rate),
        "full_in_s": round(usage.free / rate) if usage and filling else None,
    }


def free_inodes(layout: Layout) -> int | None:
    """The number of files that can still be made; None where the file system has no such limit."""
    try:
        disk = os.statvfs(layout.state)
    except OSError:
        return None
    return disk.f_favail if disk.f_files else None


def _usage(folder: Path) -> Any:
    """Usage of the folder's disk; None where the folder is missing or this user may not look into it."""
    try:
        return shutil.disk_usage(folder)
    except OSError:
        return None
