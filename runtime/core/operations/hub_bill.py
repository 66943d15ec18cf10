"""Hub bill: the hub units that a fleet needs for its messages, and their price, by a table of tiers. Pure.

A hub unit is what one pays for; it takes so many messages of 4 KiB a day. What a fleet needs is sized for its
day without any spare. Throttles are left out: a hub that is sized for the day takes at least 1.7 times the
average of its sends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HubTier:
    """One tier of the hub, by its hub unit."""

    name: str
    price_a_month: float
    units_a_day: int
    """Messages of 4 KiB that one hub unit takes a day."""
    most_hub_units: int
    """Most hub units of one hub."""
    manages: bool
    """True if it has twins, direct methods and commands."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The tiers, and what is to be known about their prices."""

    dated: str
    source: str
    currency: str
    tiers: tuple[HubTier, ...]

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> PriceTable:
        """The price table out of a parsed TOML file. Raises ValueError with what is wrong."""
        tiers = table.get("tier")
        if not isinstance(tiers, Mapping) or not tiers:
            raise ValueError("has no table [tier.NAME]")
        return cls(
            _text(table, "dated"),
            _text(table, "source"),
            _text(table, "currency"),
            tuple(_tier(str(name), one) for name, one in tiers.items()),
        )


@dataclass(frozen=True, slots=True)
class Need:
    """What a fleet needs of one tier."""

    tier: HubTier
    hub_units: int
    hubs: int
    price_a_month: float


def needs(table: PriceTable, units_a_day: float, *, managed: bool) -> list[Need]:
    """What so many units a day need of each tier, the cheapest first.

    `managed`: twins, methods or commands are used, which some tiers do not have.
    """
    found = [_need(tier, units_a_day) for tier in table.tiers if tier.manages or not managed]
    return sorted(found, key=lambda need: need.price_a_month)


def _need(tier: HubTier, units_a_day: float) -> Need:
    hub_units = max(1, math.ceil(units_a_day / tier.units_a_day))
    hubs = -(-hub_units // tier.most_hub_units)
    return Need(tier, hub_units, hubs, hub_units * tier.price_a_month)


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def _tier(name: str, table: object) -> HubTier:
    if not isinstance(table, Mapping):
        raise ValueError(f"tier.{name} must be a table")
    price = table.get("price_a_month")
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
        raise ValueError(f"tier.{name}.price_a_month must be a number, at least 0")
    manages = table.get("manages")
    if not isinstance(manages, bool):
        raise ValueError(f"tier.{name}.manages must be true or false")
    most = _whole(table, name, "most_hub_units")
    return HubTier(name, float(price), _whole(table, name, "units_a_day"), most, manages)


def _whole(table: Mapping[str, Any], tier: str, key: str) -> int:
    value = table.get(key)
    if type(value) is not int or value < 1:
        raise ValueError(f"tier.{tier}.{key} must be a whole number, at least 1")
    return value
