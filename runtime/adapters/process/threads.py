"""Threads and processes that the machine may not have for us just now.

Python says "can't start new thread" by a RuntimeError, as of a bug. It is EAGAIN of a limit (TasksMax,
ulimit -u) or of memory, and passes: here it is an OSError, which is waited out as the network's are.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any


def start_thread(target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
    """A daemon that runs. Raises BlockingIOError where none can be had now."""
    thread = threading.Thread(target=target, name=name, args=args, daemon=True)
    start(thread)
    return thread


def start(thread: threading.Thread) -> None:
    """Raises BlockingIOError where none can be had now."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise BlockingIOError(errno.EAGAIN, f"no thread can be started now ({exc})") from exc
