"""A fleet that started together does not come back together; with a fixed margin it does."""

from __future__ import annotations

from runtime.bench import fleet
from runtime.bench.fleet import Scene


def test_a_fleet_spreads_by_itself_and_an_outage_does_not_gather_it() -> None:
    scene = Scene(devices=20_000)  # a fiftieth of the real thing: minutes here are what seconds are there
    ours, fixed = fleet.ours(scene).by_minute(), fleet.fixed_margin(scene).by_minute()
    steady = ours[2 : 47 * 60]
    assert max(steady) < 3 * sum(steady) / len(steady)
    hour = ours[48 * 60 : 49 * 60]
    assert max(hour) < 5 * sum(hour) / len(hour)
    assert max(fixed[2 : 47 * 60]) > 100 * max(steady), "the comparison shows what it is there to show"
