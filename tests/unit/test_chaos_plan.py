"""A run of chaos is its seed: the same faults at the same moments, and none forgotten."""

from __future__ import annotations

import pytest

from tests.chaos.plan import EVERYBODY, KINDS, LONG_ENOUGH_MINUTES, plan


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


def test_whoever_lives_for_minutes_is_left_alive_for_minutes() -> None:
    deaths = [fault.at_s for fault in plan(7, 30) if fault.field in ("deaths", "hangs")]
    assert not [at_s for at_s in deaths if at_s % 300 > 220]
