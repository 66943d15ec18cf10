"""A short run of `make chaos`, and every seed that once failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.scene import FakeClock
from tests.support.harness import require_tool

SHORT_MINUTES = 0.2
PATIENCE = "look_every_s = 1\nhang_after_s = 5"
"""A hang is noticed in 5 s, so that a short run can have one."""
SEEDS = [24]
"""Besides the first, seeds that failed once."""
MUST_SEE = {"SIGKILL", "SIGSTOP", "abrupt drop", "silent hub", "503", "registration token revoked"}
SLACK = 4.0
"""Other tests share the machine; limits of recoveries are for `make chaos`."""


_TWO_THREADS = """
import select, sys, threading, time
def spin():
    while True: pass
sys.setswitchinterval(0.1)
threading.Thread(target=spin, daemon=True).start()
longest_s, until_s = 0.0, time.monotonic() + 0.4
while (began_s := time.monotonic()) < until_s:
    select.select([], [], [], 0)
    longest_s = max(longest_s, time.monotonic() - began_s)
print(longest_s)
"""


@pytest.mark.parametrize("offset", ["+0", "-20000d"])
def test_a_clock_that_lies_does_not_make_threads_spin_for_the_interpreters_lock(
    folder: Path, offset: str
) -> None:
    """Each wait for it ended at once: with few processors to spare chaos left a backlog of 66,000 behind."""
    require_tool("faketime")
    clock = FakeClock(folder)
    clock.set(offset)
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TWO_THREADS],
        env={**os.environ, **clock.environment()},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    FakeClock.sweep()
    assert float(found.stdout) >= 0.09, "who waits for the lock lets the other one have it for so long"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_survives_whatever_is_broken(seed: int, folder: Path) -> None:
    told: list[str] = []
    summary = run(seed, SHORT_MINUTES, folder, told.append, slack=SLACK, sentinel=PATIENCE)
    assert summary["wrong"] == [], "\n".join(told)
    assert summary["faults"].keys() >= MUST_SEE
    assert summary["messages"]["acknowledged"] > 100
