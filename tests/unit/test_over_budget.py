"""A budget of units: spread over its time, and what goes where it cannot hold what comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy, LinkUsage
from runtime.core.delivery.over_budget import (
    BudgetLeft,
    Forecast,
    OverBudget,
    Remedy,
    StreamDemand,
    shedding,
    stays,
)
from runtime.core.delivery.unit_counts import of_file_calls, of_send
from runtime.workers.upload_meter import UnitMeter
from tests.support.delivery_world import World
from tests.support.depth import deep

MIDNIGHT = 1_800_057_600.0  # 2027-01-16 00:00 UTC
DAY = 86_400.0


def a_day_of_sends(link: LinkBudget, per_s: float, *, away_until_s: float = 0.0) -> Counter[int]:
    """Messages come at this rate; each send takes all that wait, as a pack of one unit. Units by hour."""
    by_hour: Counter[int] = Counter()
    now, waiting = 0.0, 0.0
    while now < DAY - 1:
        link.set_time(MIDNIGHT + now, now)
        waiting += per_s * 10
        if waiting >= 1 and now >= away_until_s and link.allows(4, now):
            link.sent(100)
            by_hour[int(now // 3_600)] += 1
            waiting = 0.0
        now += 10.0
    return by_hour


def test_a_budget_is_spread_over_the_day_and_not_exceeded() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=2_880))
    by_hour = a_day_of_sends(link, 1.0)
    assert 2_800 <= link.usage.day_units <= 2_880
    assert all(100 <= by_hour[hour] <= 140 for hour in range(24)), by_hour


def test_after_an_outage_what_was_saved_is_spread_over_the_rest() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=2_880))
    by_hour = a_day_of_sends(link, 1.0, away_until_s=12 * 3_600)
    assert 2_700 <= link.usage.day_units <= 2_880
    assert all(200 <= by_hour[hour] <= 260 for hour in range(12, 24)), by_hour


def test_the_month_rules_where_it_is_the_tighter_budget() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=2_880, units_per_month=16 * 240))  # 16 days are left
    a_day_of_sends(link, 1.0)
    assert 225 <= link.usage.day_units <= 241


def test_a_budget_that_is_used_up_bars_all_but_the_urgent_and_says_so() -> None:
    link = LinkBudget(
        LinkPolicy(units_per_day=10, urgent_priority=8), LinkUsage(day="2027-01-16", day_units=9)
    )
    link.set_time(MIDNIGHT + 3_600, 0.0)
    assert link.barred() is None and link.allows(4, 0.0)
    link.count("-/a", of_send(100))
    assert link.barred() == "the day's budget of units is used up"
    assert not link.allows(4, 0.0) and link.allows(9, 0.0)
    assert link.wait_s(0.0) <= 60.0
    month = LinkBudget(LinkPolicy(units_per_month=1), LinkUsage(month="2027-01", month_units=1))
    assert month.barred() == "the month's budget of units is used up"


def test_urgent_messages_hold_up_the_others_for_a_bounded_time() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=86_400, urgent_priority=8))
    link.set_time(MIDNIGHT, 0.0)
    for _ in range(1_000):
        link.sent(100, priority=9)
    assert not link.allows(4, 1.0) and link.allows(4, 63.0)


def test_a_file_waits_for_the_pace_as_what_it_costs() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=8_640))
    link.set_time(MIDNIGHT, 0.0)
    assert link.takes_file(4, 0.0)
    link.count("-/a", of_file_calls(2))
    assert not link.takes_file(4, 1.0) and link.takes_file(4, 30.0)


def test_without_a_believable_clock_the_running_time_is_the_day() -> None:
    link = LinkBudget(LinkPolicy(units_per_day=864))
    sent = 0
    for now in range(0, 3_600, 10):
        link.set_time(100.0, float(now))
        if link.allows(4, float(now)):
            link.sent(100)
            sent += 1
    assert 30 <= sent <= 45


def test_without_a_budget_nothing_waits() -> None:
    link = LinkBudget()
    for _ in range(100):
        link.sent(100_000)
        assert link.allows(4, 0.0)
    assert link.units_left() is None


def test_a_changed_budget_counts_what_was_sent_before() -> None:
    link = LinkBudget()
    link.set_time(MIDNIGHT, 0.0)
    for _ in range(50):
        link.sent(100)
    link.set_policy(LinkPolicy(units_per_day=50))
    assert link.barred()
    link.set_policy(LinkPolicy(units_per_day=0))
    assert link.allows(4, 0.0)


@pytest.mark.parametrize("text", ["wait", "drop-lowest", "sample:2", "sample:1000000"])
def test_the_setting_is_shown_as_it_is_written(text: str) -> None:
    assert str(OverBudget.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "drop", "sample", "sample:1", "sample:0", "sample:-3", "sample:1000001", "sample:x"]
)
def test_a_wrong_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be wait, drop-lowest, or sample:N"):
        OverBudget.parse(text)


HOURLY = 10.0  # of 240 a day


def left(used: float, hours: float) -> BudgetLeft:
    """What is left of 240 units, so many hours before midnight."""
    return BudgetLeft((240 - used) / (hours * 3_600), hours * 3_600, HOURLY)


def demand(waiting: float, stored: float, remedy: OverBudget | None = None) -> StreamDemand:
    return StreamDemand(remedy or OverBudget(), 1.0, {4: int(waiting)}, int(stored))


def test_a_backlog_of_an_outage_that_the_rest_of_the_day_holds_is_not_given_up() -> None:
    forecast = Forecast()
    for look in range(7):  # 80 wait after 16 hours at 5 an hour; 40 more come
        forecast.look(look * 720.0, left(0, 8), {"a": demand(80, 80 + look)})
    assert not forecast.over


def test_what_comes_faster_than_the_budget_is_seen_before_the_day_is_over() -> None:
    forecast = Forecast()
    for look in range(8):
        forecast.look(look * 600.0, left(0, 24), {"a": demand(8, 1_000 + 20 * look)})  # 120 an hour
    assert not forecast.over, "less than an hour's share waits"
    forecast.look(8 * 600.0, left(0, 24), {"a": demand(11, 1_160)})
    assert forecast.over
    for look in range(9, 16):
        forecast.look(look * 600.0, left(0, 24), {"a": demand(11, 1_160)})  # nothing comes any more
    assert not forecast.over


@pytest.mark.parametrize("drift", [1.01, 0.99])
def test_a_size_that_is_measured_anew_is_no_arrival_and_hides_none(drift: float) -> None:
    """Of ten million messages that were ever stored, a hundredth counted as a flood, or the flood as none."""
    quiet, flooded = Forecast(), Forecast()
    each = 0.05
    for look in range(8):
        one = StreamDemand(OverBudget(), each, {4: 220}, 10_000_000)
        quiet.look(look * 600.0, left(0, 24), {"a": one})
        flooded.look(look * 600.0, left(0, 24), {"a": replace(one, stored=one.stored + 1_000 * look)})
        each *= drift
    assert not quiet.over and flooded.over


def test_shortly_before_midnight_nothing_is_given_up_that_tomorrow_holds() -> None:
    forecast = Forecast()
    for look in range(10):
        forecast.look(look * 600.0, left(240, 0.1), {"a": demand(9, 1_000 + look)})
    assert not forecast.over


@pytest.mark.parametrize(("hours", "least_s"), [(24, 3_600), (30 * 24, 86_400)])
def test_a_burst_after_a_start_gives_up_nothing_of_a_day_nor_of_a_month(hours: float, least_s: int) -> None:
    """A minute of what producers had kept, taken for a month's rate, dropped the backlog of an outage."""
    forecast = Forecast()
    share = BudgetLeft(HOURLY / 3_600, hours * 3_600, HOURLY)
    for at_s in range(0, least_s, least_s // 360):
        forecast.look(at_s, share, {"a": demand(500, 500 + min(at_s, 600))})
        assert not forecast.over
    for at_s in range(least_s, 2 * least_s + 1, least_s // 360):
        forecast.look(at_s, share, {"a": demand(500, 1_100 + at_s / 10)})
    assert forecast.over


@settings(max_examples=deep(40))
@given(
    st.dictionaries(st.integers(0, 9), st.integers(0, 200), min_size=1),
    st.floats(0.05, 3),
    st.dictionaries(st.integers(0, 9), st.integers(0, 200)),
)
def test_the_least_important_go_until_an_hours_share_waits(
    dropping: dict[int, int], each: float, waits: dict[int, int]
) -> None:
    lowest = OverBudget(Remedy.DROP_LOWEST)
    plans = shedding(
        {"d": StreamDemand(lowest, each, dropping, 0), "w": StreamDemand(OverBudget(), each, waits, 0)},
        HOURLY,
    )
    assert "w" not in plans
    if "d" not in plans:
        assert not sum(dropping.values())
        return
    plan = plans["d"]
    gone = sum(n for p, n in dropping.items() if p < plan.below_priority) + plan.at_priority
    assert plan.at_priority <= dropping.get(plan.below_priority, 0)
    remaining = each * (sum(dropping.values()) - gone + sum(waits.values()))
    if sum(waits.values()) * each <= HOURLY:
        assert remaining <= HOURLY + each or gone == 0
        assert remaining >= min(HOURLY, each * (sum(dropping.values()) + sum(waits.values()))) - each
    else:
        assert gone == sum(dropping.values())


def test_one_in_n_stays_and_the_same_ones_after_a_restart() -> None:
    kept = [id for id in range(1, 100_001) if stays(id, 10)]
    assert 9_500 <= len(kept) <= 10_500
    assert kept == [id for id in kept if stays(id, 10)]
    odd = [id for id in range(1, 100_001, 2) if stays(id, 2)]
    assert 24_000 <= len(odd) <= 26_000, "streams that take turns in the store are sampled alike"


def test_the_status_says_how_often_the_budget_gives_a_unit() -> None:
    world = World()
    meter = UnitMeter(world.link, world.delivery)
    assert meter.record()["unit_every_s"] is None
    world.link.set_policy(LinkPolicy(units_per_day=8_640))
    world.link.set_time(MIDNIGHT, 0.0)
    assert meter.record()["unit_every_s"] == 10.0
    world.link.usage.day_units = 8_640
    world.link.set_time(MIDNIGHT, 0.0)
    assert meter.record()["unit_every_s"] is None


def test_nothing_passes_a_message_that_was_shed_before_it_is_gone_from_the_store() -> None:
    """After a crash in between it was sent after those that stood behind it."""
    world = World()
    for id in (1, 2, 3):
        world.store(id, "s")
    world.store(4, "t")
    assert world.delivery.shed(lambda message: message.candidate.id == 1, "over_budget", world.now) == 1
    for turn in (world.step, world.connect, world.step):
        turn()
    assert [id for id, _ in world.sent] == [4]
    world.confirm({1})
    world.step()
    assert [id for id, _ in world.sent] == [4, 2, 3]
