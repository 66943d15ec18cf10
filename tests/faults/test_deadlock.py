"""The workers that ship, each waiting for itself: alive to supervisord, of no use to anybody."""

from __future__ import annotations

import signal
import time

from runtime.layout import WORKERS
from tests.support.harness import Home, eventually
from tests.support.supervised import (
    DEADLOCK,
    INSIDE,
    PROGRAMS,
    QUICK,
    SELF_LOCKED,
    SHIPPED,
    Runtime,
    deadlocked,
    gone,
    kill,
)

SHIPPED_STILL, SHRUNK_STILL = "still_s=35", "still_s=6"
SHIPPED_AGAIN, SHRUNK_AGAIN = "again_s=12", "again_s=6"
"""A tick comes every 5 s."""


def test_every_worker_that_deadlocks_is_killed_with_its_stacks_in_the_log_and_comes_back(home: Home) -> None:
    home.write_config(QUICK)
    runtime = Runtime(home, **INSIDE)
    try:
        runtime.all_at_work()
        before = {worker: runtime.pid(worker) for worker in WORKERS}
        for pid in before.values():
            kill(pid, DEADLOCK)
            eventually(lambda pid=pid: deadlocked(pid), 10)
        for worker, pid in before.items():
            runtime.wait_for(worker, other_than=pid, timeout_s=30)
            assert SELF_LOCKED in runtime.log(worker), "its stack says where it hung"
            assert f"(pid {pid}, sleeping) made no progress" in runtime.log("sentinel")
        assert set(runtime.programs()) == set(PROGRAMS)
    finally:
        runtime.close()


def test_a_supervisord_that_hangs_ends_itself_where_the_sentinel_cannot_end_it(home: Home) -> None:
    """As process 1 of a container it cannot be killed from inside; here the sentinel hangs as well."""
    home.layout.supervisord_conf.write_text(_impatient())
    runtime = Runtime(home, **INSIDE)
    try:
        runtime.all_at_work()
        everybody = runtime.all_pids()
        for pid in (runtime.pid("sentinel"), runtime.process.pid):
            kill(pid, DEADLOCK)
        eventually(lambda: deadlocked(runtime.process.pid), 5)
        assert runtime.process.popen.wait(30) == 1
        eventually(lambda: gone(everybody), 5, "and everybody goes with it")
        stacks = (home.layout.log / "supervisord.stacks").read_text()
        assert "supervisord hung" in stacks and SELF_LOCKED in stacks
    finally:
        runtime.close()


def test_who_was_frozen_for_longer_than_a_hang_may_last_goes_on_as_if_nothing_had_been(home: Home) -> None:
    """`docker pause` for a minute: the timer had run on, and at the thaw supervisord ended itself."""
    home.layout.supervisord_conf.write_text(_impatient())
    runtime = Runtime(home, **INSIDE)
    try:
        runtime.all_at_work()
        everybody = runtime.all_pids()
        for pid in everybody:
            kill(pid, signal.SIGSTOP)
        frozen_s = time.monotonic()
        eventually(lambda: time.monotonic() > frozen_s + 8, 20, "frozen for longer than still_s")
        for pid in everybody:
            kill(pid, signal.SIGCONT)
        thawed_s = time.monotonic()
        looks = runtime.home.layout.status_file("sentinel").stat().st_mtime_ns
        eventually(lambda: time.monotonic() > thawed_s + 8, 20, "thawed for longer than again_s")
        assert runtime.home.layout.status_file("sentinel").stat().st_mtime_ns > looks
        assert runtime.all_pids() == everybody
    finally:
        runtime.close()


def _impatient() -> str:
    conf = SHIPPED.read_text()
    assert SHIPPED_STILL in conf and SHIPPED_AGAIN in conf
    return conf.replace(SHIPPED_STILL, SHRUNK_STILL).replace(SHIPPED_AGAIN, SHRUNK_AGAIN)
