"""When the link's usage reaches the disk: a power cut gives no budget twice, and the flash rests."""

from __future__ import annotations

import pytest

from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy, LinkUsage
from runtime.core.delivery.usage_saving import must_be_saved

NOON = 1_764_331_200.0


@pytest.mark.parametrize(
    "policy",
    [
        LinkPolicy(messages_per_day=500),
        LinkPolicy(messages_per_month=500),
        LinkPolicy(bytes_per_day=100_000),
        LinkPolicy(bytes_per_month=100_000),
        LinkPolicy(units_per_day=500),
        LinkPolicy(units_per_month=500),
    ],
)
def test_a_power_cut_at_any_message_gives_back_a_hundredth_of_a_budget_at_most(policy: LinkPolicy) -> None:
    link, saved, writes = LinkBudget(policy), LinkUsage(), 0
    link.set_time(NOON, 0.0)
    while not link.barred():
        if must_be_saved(link.usage, saved, policy):
            saved = LinkUsage.of({name: getattr(link.usage, name) for name in LinkUsage.__slots__})
            writes += 1
        assert link.usage.month_messages - saved.month_messages <= 5
        link.sent(200)
    assert writes <= 101


def test_a_link_without_a_budget_is_written_now_and_then_and_never_by_the_clock() -> None:
    policy, link, writes = LinkPolicy(), LinkBudget(), 0
    link.set_time(NOON, 0.0)
    saved = LinkUsage.of({"day": link.usage.day, "month": link.usage.month})
    for second in range(3_600):
        link.set_time(NOON + second, float(second))
        assert not must_be_saved(link.usage, saved, policy)
    for _ in range(3_600):
        link.sent(200)
        if must_be_saved(link.usage, saved, policy):
            saved = LinkUsage.of({name: getattr(link.usage, name) for name in LinkUsage.__slots__})
            writes += 1
    assert writes == 3


def test_running_time_is_kept_where_it_ends_a_day_with_a_budget() -> None:
    """A device without a clock that is switched off every evening would wait for its month's end for ever."""
    ran = LinkUsage(month_ran_s=600)
    assert must_be_saved(ran, LinkUsage(), LinkPolicy(bytes_per_month=1_000))
    assert not must_be_saved(ran, LinkUsage(), LinkPolicy())
