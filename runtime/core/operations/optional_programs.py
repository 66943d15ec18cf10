"""Optional programs: which of those that a setting switches on are to be started or stopped now. Pure.

supervisord starts none of them by itself (`autostart=false`); the sentinel does, by the configuration in
force. A program that an operator stopped stays down, as every other does; one that was down because its
setting said so comes up when the setting says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

UP = frozenset({"RUNNING", "BACKOFF"})
"""Not STARTING: `supervisorctl restart all` starts every program, and would fail where one goes meanwhile."""
DOWN = frozenset({"STOPPED", "EXITED", "FATAL"})


@dataclass(frozen=True, slots=True)
class Switch:
    """Start or stop a program, as its setting says."""

    program: str
    on: bool


def switches(
    enabled: Collection[str], programs: Mapping[str, tuple[str, bool]], withheld: Collection[str]
) -> list[Switch]:
    """The programs to switch.

    `programs` gives for each its state and whether supervisord ever started it; `withheld` names those that
    were off by their setting at the last look, which a sentinel remembers over its own restart.
    """
    found = []
    for name, (state, began) in programs.items():
        if name not in enabled and state in UP:
            found.append(Switch(name, on=False))
        elif name in enabled and state in DOWN and (not began or name in withheld):
            found.append(Switch(name, on=True))
    return found
