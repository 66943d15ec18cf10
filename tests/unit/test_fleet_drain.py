"""A fleet that comes back at once drains into a throttling hub nearly as fast as that serves, and pays once.

Smaller worlds than those of `make bench`, and the same where it counts: seconds that the hub needs for one
send of each device (10, and 33 and 80, which are more than the deadline of an acknowledgement).
"""

from __future__ import annotations

import pytest

from runtime.bench.drain import Throttle, drain
from runtime.core.delivery.packing import PackFormat, PackRule

WORLDS = [(20, 2.0, 60), (30, 0.9, 30)]
SLOWEST = (30, 0.375, 30)
KEEPS = pytest.mark.parametrize("keeps", [True, False], ids=["hub keeps", "hub loses"])
FLEETS = pytest.mark.parametrize("fleet", WORLDS, ids=["10 s a turn", "33 s a turn"])


@KEEPS
@pytest.mark.parametrize("fleet", [*WORLDS, SLOWEST], ids=["10 s a turn", "33 s a turn", "80 s a turn"])
def test_a_fleet_drains_in_little_more_than_the_hubs_own_time_and_sends_little_twice(
    fleet: tuple[int, float, int], *, keeps: bool
) -> None:
    throttle = Throttle(*fleet, keeps=keeps)
    drained = drain(throttle)
    assert drained.left == 0
    assert drained.served <= 1.15 * throttle.total
    assert drained.level_s <= 1.3 * throttle.ideal_s


@FLEETS
def test_a_window_that_does_not_listen_is_what_costs(fleet: tuple[int, float, int]) -> None:
    """The comparison shows what it is there to show: 16 in flight from the beginning."""
    throttle = Throttle(*fleet, keeps=True, window=16)
    assert drain(throttle).served > 1.4 * throttle.total


@KEEPS
@FLEETS
def test_a_fleet_that_knows_its_share_loses_no_connection_and_sends_nothing_twice(
    fleet: tuple[int, float, int], *, keeps: bool
) -> None:
    throttle = Throttle(*fleet, keeps=keeps, share=0.95)
    drained = drain(throttle)
    assert (drained.left, drained.losses, drained.served) == (0, 0, throttle.total)
    assert drained.level_s <= 1.1 * throttle.ideal_s


@KEEPS
@FLEETS
def test_a_fleet_that_packs_drains_in_a_tenth_of_the_time_for_a_tenth_of_the_units(
    fleet: tuple[int, float, int], *, keeps: bool
) -> None:
    throttle = Throttle(*fleet, keeps=keeps, pack=PackRule(PackFormat.LINES))
    drained = drain(throttle)
    assert drained.left == 0
    assert drained.units <= 0.1 * throttle.total
    assert drained.level_s <= 0.1 * throttle.ideal_s
