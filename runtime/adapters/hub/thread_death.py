"""The death of a thread of azure-iot-device or paho: whose it was, and what it says about the connection."""

from __future__ import annotations

import errno
import traceback
from types import TracebackType

from runtime.adapters.net.reasons import reason_at
from runtime.core.delivery.events import Cause

_GAVE_UP = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET}
)
"""Errors of a socket that the hub did not end: the connection is dead."""


def is_the_librarys(trace: TracebackType | None) -> bool:
    """True if the thread that died ran in azure-iot-device or paho."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(trace))
    return any(name.startswith(("azure.", "paho.")) for name in modules)


def why_it_died(exc: BaseException | None, where: str) -> tuple[Cause, str]:
    """Cause of a library thread's death: the hub ended the connection, or our TCP gave up."""
    if isinstance(exc, OSError) and exc.errno in _GAVE_UP:
        return Cause.OVERDUE, f"our TCP gave up: {exc.strerror}"
    return Cause.DROPPED, reason_at(exc, where) if exc else f"{where} ended the connection"
