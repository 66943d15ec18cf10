"""Time: the only module that reads a clock. Decisions get the time as an argument."""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import Protocol

from runtime.core.moment import Moment


class Clock(Protocol):
    """The clocks that a worker may read, in seconds."""

    def wall_s(self) -> float:
        """Unix time. It may be 1970, and it may jump by years: never order or expire by it."""
        ...

    def boot_s(self) -> float:
        """Seconds since boot, suspend included (CLOCK_BOOTTIME). Never jumps; restarts from
        0 with another `boot_id`.
        """
        ...

    def boot_id(self) -> str:
        """Name of the current boot: `boot_s` values are comparable only under the same one."""
        ...

    def synchronised(self) -> bool:
        """True if a time source keeps the wall clock, as the kernel has been told."""
        ...


class SystemClock:
    """The machine's own clock."""

    def wall_s(self) -> float:
        return time.time()

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return _kernel_boot_id()

    def synchronised(self) -> bool:
        timex = _Timex()  # its modes are 0: nothing is changed
        return _libc().adjtimex(ctypes.byref(timex)) >= 0 and not timex.status & _UNSYNCHRONISED


def read_moment(clock: Clock) -> Moment:
    """The present moment by this clock."""
    return Moment(clock.wall_s(), clock.boot_s(), clock.boot_id())


class LocalZone(tzinfo):
    """The time zone of this machine, with its summer times."""

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return at.replace(tzinfo=None).astimezone().utcoffset() if at is not None else None

    def dst(self, at: datetime | None) -> timedelta | None:
        return None

    def tzname(self, at: datetime | None) -> str | None:
        return at.replace(tzinfo=None).astimezone().tzname() if at is not None else None


_UNSYNCHRONISED = 0x40
"""STA_UNSYNC: set at boot and by a program that sets the clock by
hand, cleared by NTP, PTP and their like.
"""


class _Timex(ctypes.Structure):
    """The beginning of the kernel's `struct timex`, and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("numbers", ctypes.c_long * 4),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _kernel_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


CLOCK_IS_SET_FROM_S = 1_735_689_600
"""2025-01-01: a device whose clock says less has no battery and no network time yet."""


def wall_s_if_set(clock: Clock) -> float | None:
    """Wall time for people; None where the clock was never set."""
    wall_s = clock.wall_s()
    return wall_s if wall_s >= CLOCK_IS_SET_FROM_S else None
