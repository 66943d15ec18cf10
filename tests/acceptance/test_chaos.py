"""A short run of `make chaos`. A seed that once failed becomes a line here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
def test_what_was_acknowledged_survives_whatever_is_broken(seed: int, folder: Path) -> None:
    told: list[str] = []
    assert chaos.run(seed, 0.25, folder, told.append) == [], "\n".join(told)
