"""A moment, read from three clocks, and the time between two moments.

Within one boot the boot clock measures it, and never jumps. Across a reboot only the wall clock can, and it
is believed only where it can be true: at least this boot's uptime must have passed.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_SET_BY_S = 60.0
"""The wall clock counts as set where it moved by more than this against the boot clock."""


PUT_BACK_S = 60.0
"""A moment further in the future of its own boot dates from before the machine was reset to a snapshot."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant by the wall clock and the boot clock, with the boot it belongs to."""

    wall_s: float
    boot_s: float
    boot_id: str

    def since(self, then: Moment) -> float | None:
        """Seconds from `then` until this moment, or None where no clock can tell."""
        if then.boot_id == self.boot_id:
            passed_s = self.boot_s - then.boot_s
            return passed_s if passed_s > -PUT_BACK_S else None
        apart_s = self.wall_s - then.wall_s
        return apart_s if apart_s >= self.boot_s else None

    def clock_set_since(self, then: Moment) -> bool:
        """True if the wall clock was set between `then` and this moment; a reboot counts as that."""
        moved_s = (self.wall_s - then.wall_s) - (self.boot_s - then.boot_s)
        return then.boot_id != self.boot_id or abs(moved_s) > CLOCK_SET_BY_S
