"""Wrong rules, put in place of right ones: a model that finds no counter-example to them proves nothing.

`MODEL_RUNS` says how many random runs the design itself has to survive (`make model RUNS=30000`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from tests.support.depth import deep

RUNS = int(os.environ.get("MODEL_RUNS", deep(150)))
MOST_RUNS = 3_000
"""Random runs within which a wrong rule has to be found out; most are within ten."""


@dataclass(frozen=True)
class WrongRule:
    """A function of a module and what stands in for it."""

    damage: str
    module: ModuleType
    name: str
    instead: Callable[..., Any]

    def __str__(self) -> str:
        return self.damage


def runs_until_found(rule: WrongRule, run: Callable[[int], None], patch: pytest.MonkeyPatch) -> int:
    """The number of random runs after which the model has a counter-example to the wrong rule."""
    assert hasattr(rule.module, rule.name)
    patch.setattr(rule.module, rule.name, rule.instead)
    for seed in range(MOST_RUNS):
        try:
            run(seed)
        except AssertionError:
            return seed + 1
    raise LookupError(f"{rule}: no counter-example within {MOST_RUNS} runs")
