"""Starting threads and processes, which the machine may refuse for the moment.

Python says "can't start new thread" by a RuntimeError, as of a bug. It is EAGAIN of a limit (TasksMax, ulimit
-u) or of memory, and passes: here it becomes an OSError, which callers wait out like the network's.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any


def start_thread(target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
    """Start a daemon thread. Raises BlockingIOError where no thread is available now."""
    thread = threading.Thread(target=target, name=name, args=args, daemon=True)
    start(thread)
    return thread


def start(thread: threading.Thread) -> None:
    """Start this thread. Raises BlockingIOError where no thread is available now."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise BlockingIOError(errno.EAGAIN, f"no thread can be started now ({exc})") from exc
