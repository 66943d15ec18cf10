"""Python calls this at its start, where chaos has put this folder on PYTHONPATH (see `FakeClock`).

libfaketime 0.9.10 makes clock_nanosleep fail with EINVAL where the monotonic clock is not to be faked;
time.sleep is made of it. select sleeps as well.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
