"""What a fleet needs, and what that costs, by a table that can be edited."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.core.operations.hub_bill import PriceTable, needs
from runtime.operations.cost_report import prices

SHIPPED = prices(None)


@pytest.mark.parametrize(
    ("devices", "units_each", "tier", "hub_units", "hubs", "price"),
    [
        (1_000_000, 86_400, "S3", 288, 29, 720_000),
        (1_000_000, 8_640, "S3", 29, 3, 72_500),
        (100, 86_400, "S2", 2, 1, 500),
        (10, 86_400, "S1", 3, 1, 75),
        (1, 0, "S1", 1, 1, 25),
    ],
)
def test_the_cheapest_standard_tier_by_the_list(
    devices: int, units_each: float, tier: str, hub_units: int, hubs: int, price: float
) -> None:
    best = needs(SHIPPED, devices * units_each, managed=True)[0]
    assert (best.tier.name, best.hub_units, best.hubs, best.price_a_month) == (tier, hub_units, hubs, price)


def test_basic_tiers_are_for_devices_that_are_not_managed() -> None:
    assert needs(SHIPPED, 864_000, managed=False)[0].tier.name == "B1"
    assert {need.tier.name for need in needs(SHIPPED, 864_000, managed=True)} == {"S1", "S2", "S3"}


TIER = {"price_a_month": 1, "units_a_day": 10, "most_hub_units": 2, "manages": True}
TEXTS = {"dated": "d", "source": "s", "currency": "EUR"}


def test_more_hub_units_than_one_hub_has_need_another_hub() -> None:
    table = PriceTable.parse({**TEXTS, "tier": {"T": TIER}})
    assert [(need.hub_units, need.hubs) for need in needs(table, 21, managed=True)] == [(3, 2)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({**TEXTS}, "no table"),
        ({**TEXTS, "tier": {}}, "no table"),
        ({**TEXTS, "tier": {"T": 7}}, "tier.T must be a table"),
        ({"tier": {"T": TIER}}, "dated must be a text"),
        ({**TEXTS, "tier": {"T": {**TIER, "price_a_month": "1"}}}, "tier.T.price_a_month"),
        ({**TEXTS, "tier": {"T": {**TIER, "price_a_month": float("nan")}}}, "tier.T.price_a_month"),
        ({**TEXTS, "tier": {"T": {**TIER, "units_a_day": 0}}}, "tier.T.units_a_day"),
        ({**TEXTS, "tier": {"T": {**TIER, "manages": 1}}}, "tier.T.manages"),
    ],
)
def test_a_wrong_table_is_one_sentence(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PriceTable.parse(table)
