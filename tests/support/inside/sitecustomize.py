"""Python calls this at its start, where a test has put this folder on PYTHONPATH (see supervised.py).

It does to a process of ours from within what no signal can do from outside. The product knows nothing of it.
"""

import os
import select
import signal
import threading
import time
from pathlib import Path


def _deadlock(_number: int, _frame: object) -> None:
    """The main thread waits for itself: the process lives, its other threads run, its loop stands."""
    Path("/proc/self/comm").write_text("deadlocked")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


signal.signal(signal.SIGRTMIN + 1, _deadlock)  # nobody of ours uses it, supervisord neither
if "faketime" in os.environ.get("LD_PRELOAD", ""):
    # 0.9.10 has clock_nanosleep, and so time.sleep, fail with EINVAL where the monotonic clock is spared
    time.sleep = _sleep  # type: ignore[assignment]  # a float is all that is asked for
