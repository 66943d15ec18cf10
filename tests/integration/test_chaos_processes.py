"""Chaos runs against real processes: what they see of them, and what they do to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.chaos.at_processes import WAYS
from tests.chaos.plan import Fault
from tests.chaos.scene import Scene
from tests.chaos.watch import Watch, processes
from tests.support.harness import eventually


def test_two_processes_of_one_program_in_one_home_are_seen_as_doubles(tmp_path: Path) -> None:
    stand_in = [sys.executable, "-c", "import time; time.sleep(60)", "worker", "upload"]
    environment = {**os.environ, "EDGE_HOME": str(tmp_path)}
    both = [subprocess.Popen(stand_in, env=environment) for _ in range(2)]
    watch = Watch(tmp_path)
    try:
        eventually(lambda: watch.doubles, 10, "they are seen")
        assert sorted(processes(tmp_path)) == sorted(process.pid for process in both)
    finally:
        watch.close()
        for process in both:
            process.kill()
            process.wait()
    assert watch.wrong() == ["upload ran 2 times at once"]


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGTERM", "SIGSTOP", "deadlock"])
def test_a_blow_is_struck_and_what_follows_is_measured(kind: str) -> None:
    """A deadlock was struck, and then failed to be named: no run of chaos measured one."""
    victim = subprocess.Popen(["sleep", "60"])

    def until(fact: Callable[[], bool], timeout_s: float, what: str) -> None:
        eventually(lambda: (victim.poll(), fact())[1], min(timeout_s, 10), what)  # nobody else buries it

    scene = SimpleNamespace(
        until=until,
        stands=lambda name, seconds: True,
        pid=lambda name: victim.pid,
        in_service=lambda name: victim.pid + 1,
        under_way={},
        facts=SimpleNamespace(recovered=[]),
    )
    try:
        WAYS[kind](cast("Scene", scene), Fault(0.0, "deaths", kind, "ingest", 0.0, 0.0, 0.0))
    finally:
        victim.kill()
        victim.wait()
    assert [found["kind"] for found in scene.facts.recovered] == [kind]
