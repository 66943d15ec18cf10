"""The workers that ship, each waiting for itself: alive to supervisord, of no use to anybody."""

from __future__ import annotations

from runtime.layout import WORKERS
from tests.harness import Home, eventually
from tests.supervised import DEADLOCK, INSIDE, PROGRAMS, QUICK, SELF_LOCKED, Runtime, deadlocked, kill


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
