"""A moment, as three clocks saw it, and how much time lies between two of them.

Within one boot the boot clock tells, and it never jumps. Across a reboot only the wall clock can, and it is
believed only where it can be true: at least this boot's uptime must have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clocks(Protocol):
    """Anything that tells the three times."""

    def wall_s(self) -> float: ...

    def boot_s(self) -> float: ...

    def boot_id(self) -> str: ...


CLOCK_SET_BY_S = 60.0
"""The wall clock was set where it moved by more than this beside the boot clock."""


PUT_BACK_S = 60.0
"""A moment further in the future of its own boot is one of before a machine was put back to a snapshot."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, or then."""

    wall_s: float
    boot_s: float
    boot_id: str

    @classmethod
    def by(cls, clocks: Clocks) -> Moment:
        """This moment, as `clocks` see it."""
        return cls(clocks.wall_s(), clocks.boot_s(), clocks.boot_id())

    def since(self, then: Moment) -> float | None:
        """Seconds from `then` until this moment, or None where nobody can tell."""
        if then.boot_id == self.boot_id:
            passed_s = self.boot_s - then.boot_s
            return passed_s if passed_s > -PUT_BACK_S else None
        apart_s = self.wall_s - then.wall_s
        return apart_s if apart_s >= self.boot_s else None

    def clock_set_since(self, then: Moment) -> bool:
        """Whether somebody set the wall clock between `then` and this moment; a reboot counts as that."""
        moved_s = (self.wall_s - then.wall_s) - (self.boot_s - then.boot_s)
        return then.boot_id != self.boot_id or abs(moved_s) > CLOCK_SET_BY_S
