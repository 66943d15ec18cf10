"""Time, the only place that asks for it. Decisions get it as an argument."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What a worker may know about time, in seconds."""

    def wall_s(self) -> float:
        """Unix time. It may be 1970, and it may jump by years: never order or expire by it."""
        ...

    def boot_s(self) -> float:
        """Seconds since boot, suspend included (CLOCK_BOOTTIME). Never jumps; starts anew with `boot_id`."""
        ...

    def boot_id(self) -> str:
        """Name of the current boot: `boot_s` values are comparable only under the same one."""
        ...


class SystemClock:
    """The machine's own clock."""

    def wall_s(self) -> float:
        return time.time()

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return _kernel_boot_id()


@cache
def _kernel_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
