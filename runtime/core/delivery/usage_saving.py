"""When the link's usage has to reach the disk: each write wears the flash, and what a power cut forgets is
granted a second time.

So it is written when it has grown by a hundredth of a budget, and where there is no budget by steps that only
the display needs.
"""

from __future__ import annotations

from runtime.core.delivery.link_budget import LinkPolicy, LinkUsage

BUDGET_SHARE = 100
"""A power cut forgets at most this share of a budget."""
FREE_MESSAGES = 1_000
FREE_BYTES = 1_048_576
"""Growth after which usage without a budget is written: it is only shown."""


def must_be_saved(usage: LinkUsage, saved: LinkUsage, policy: LinkPolicy) -> bool:
    """True if a power cut must not take back `usage` to `saved`, which is on the disk."""
    if (usage.day, usage.month) != (saved.day, saved.month):
        return True
    if policy.has_budget() and usage.month_ran_s != saved.month_ran_s:
        return True  # else days would never end on a device without a clock that is switched off daily
    return any(
        now - before >= (max(1, budget // BUDGET_SHARE) if budget else free)
        for now, before, budget, free in (
            (usage.day_messages, saved.day_messages, policy.messages_per_day, FREE_MESSAGES),
            (usage.day_bytes, saved.day_bytes, policy.bytes_per_day, FREE_BYTES),
            (usage.month_messages, saved.month_messages, policy.messages_per_month, FREE_MESSAGES),
            (usage.month_bytes, saved.month_bytes, policy.bytes_per_month, FREE_BYTES),
            (usage.day_units, saved.day_units, policy.units_per_day, FREE_MESSAGES),
            (usage.month_units, saved.month_units, policy.units_per_month, FREE_MESSAGES),
        )
    )
