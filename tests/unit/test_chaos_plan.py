"""A run of chaos is its seed: the same faults at the same moments, and none forgotten."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from tests.chaos.at_processes import WAYS
from tests.chaos.plan import EVERYBODY, KINDS, LONG_ENOUGH_MINUTES, Fault, plan
from tests.chaos.scene import Scene
from tests.support.harness import eventually


def test_a_seed_that_failed_breaks_the_same_things_again() -> None:
    assert plan(7, 10) == plan(7, 10)
    assert plan(7, 10) != plan(8, 10)


def test_a_longer_run_begins_as_the_shorter_one_did() -> None:
    short = plan(7, 3)
    assert plan(7, 30)[: len(short)] == short


@pytest.mark.parametrize("seed", range(50))
def test_no_kind_is_forgotten_in_a_run_that_is_long_enough(seed: int) -> None:
    assert {fault.kind for fault in plan(seed, LONG_ENOUGH_MINUTES)} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("seed", range(50))
def test_the_shortest_run_sees_a_death_a_hang_a_drop_a_silence_a_503_and_a_revocation(seed: int) -> None:
    seen = {fault.kind for fault in plan(seed, 0.25)}
    assert seen >= {"SIGKILL", "SIGSTOP", "abrupt drop", "silent hub", "503", "registration token revoked"}


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM", "SIGSTOP"])
def test_half_an_hour_hits_everybody_with_every_signal(signal: str) -> None:
    for seed in range(20):
        assert {f.victim for f in plan(seed, 30) if f.kind == signal} == set(EVERYBODY)


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


def test_whoever_lives_for_minutes_is_left_alive_for_minutes() -> None:
    deaths = [fault.at_s for fault in plan(7, 30) if fault.field in ("deaths", "hangs")]
    assert not [at_s for at_s in deaths if at_s % 300 > 220]
