"""State tables: which state may follow which, and the event that leads there.

A table names every transition of a machine, with the words of its diagram in docs/architecture.md, which is
drawn from the table. A machine changes its state in one place only, which asks the table first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Table = Mapping[State, Mapping[State, str]]
"""The states that may follow each state, and the event that leads to each."""


class IllegalTransition(Exception):
    """A state that the table does not allow next: a bug of ours. The machine is as it was before."""

    def __init__(self, of: str, before: Enum, after: Enum) -> None:
        super().__init__(f"{of} cannot go from {before.name} to {after.name}")
