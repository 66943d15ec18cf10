"""A short run of `make chaos`, and every seed that once failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import run

SHORT_MINUTES = 0.2
PATIENCE = "look_every_s = 1\nhang_after_s = 5"
"""A hang is noticed in 5 s, so that a short run can have one."""
SEEDS = [24]
"""Besides the first, seeds that failed once."""
MUST_SEE = {"SIGKILL", "SIGSTOP", "abrupt drop", "silent hub", "503", "registration token revoked"}
SLACK = 4.0
"""Other tests share the machine; limits of recoveries are for `make chaos`."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_survives_whatever_is_broken(seed: int, folder: Path) -> None:
    told: list[str] = []
    summary = run(seed, SHORT_MINUTES, folder, told.append, slack=SLACK, sentinel=PATIENCE)
    assert summary["wrong"] == [], "\n".join(told)
    assert summary["faults"].keys() >= MUST_SEE
    assert summary["messages"]["acknowledged"] > 100
