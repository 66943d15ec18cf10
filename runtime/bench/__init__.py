"""`make bench`: every figure of ours beside the machine's own limit, measured in the same run.

A module of this package has `measure(quick: bool) -> list[FigureRow]`; `__main__.py` runs those that are
asked for. An absolute number means little on a shared machine; a share of a limit taken seconds earlier does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure. `share` is what `reach` is compared with."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    """The machine's own limit, in the same unit, where there is one."""
    share: float | None = None
    """`value` over `limit`, or the ratio that the name says."""
    reach: str = ""
    """The target, such as `>= 0.5` or `<= 45`; compared with the share, else with the value."""
    reason: str = ""
    """The reason why the target is missed, found with a profile."""

    @property
    def reached(self) -> bool | None:
        """True if the target is reached; None where none was set."""
        if not self.reach:
            return None
        sign, _, bound = self.reach.partition(" ")
        measured = self.value if self.share is None else self.share
        return measured >= float(bound) if sign == ">=" else measured <= float(bound)
