"""Cost report: what the hub bills this device for, and what a fleet of such devices needs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from runtime.adapters.process.status_file import StatusRecord
from runtime.core.delivery.link_budget import DAY_S, LinkUsage
from runtime.core.delivery.unit_counts import MANAGEMENT, UnitCounts, total
from runtime.core.operations.hub_bill import Need, PriceTable, needs
from runtime.core.operations.runway import a_day
from runtime.errors import UsageError
from runtime.operations.runway_report import rates_of
from runtime.regular_file import read_regular

LEAST_RAN_S = 3_600
"""A rate a day is taken from the usage once upload has run for so long; before, from the last minutes."""
METERING = "metering as documented: 4 KiB steps of body and properties, on ingress"


@dataclass(frozen=True, slots=True)
class Period:
    """What was sent in a day or a month."""

    name: str
    """As `2026-11-29` or `2026-11`, in UTC; empty where no believable clock has begun it."""
    streams: Mapping[str, UnitCounts]

    def as_record(self) -> dict[str, Any]:
        by_units = sorted(self.streams.items(), key=lambda one: (-one[1].units, one[0]))
        return {
            "name": self.name or None,
            **figures(total(self.streams)),
            "streams": [{"stream": name, **figures(counts)} for name, counts in by_units],
        }


@dataclass(frozen=True, slots=True)
class Fleet:
    """What so many devices like this one need."""

    devices: int
    units_a_day: float
    """Of one device."""
    needs: list[Need]
    """By tier, the cheapest first."""

    def as_record(self) -> dict[str, Any]:
        tiers = [
            {
                "tier": need.tier.name,
                "hub_units": need.hub_units,
                "hubs": need.hubs,
                "price_a_month": need.price_a_month,
            }
            for need in self.needs
        ]
        return {"devices": self.devices, "units_a_day_each": round(self.units_a_day, 1), "tiers": tiers}


def figures(counts: UnitCounts) -> dict[str, Any]:
    """The counts as JSON shows them."""
    shares = {"fill": counts.fill, "repeat_share": counts.repeated, "compression_gain": counts.compressed}
    rounded = {name: None if share is None else round(share, 4) for name, share in shares.items()}
    return {**asdict(counts), **rounded}


def periods(usage: LinkUsage) -> tuple[Period, Period]:
    """The day and the month of the usage."""
    return (
        Period(usage.day, {name: one.day for name, one in usage.streams.items() if one.day.units}),
        Period(usage.month, {name: one.month for name, one in usage.streams.items() if one.month.units}),
    )


def units_a_day(usage: LinkUsage, sentinel: StatusRecord) -> float | None:
    """The units that this device needs a day, by the time for which upload ran; None where none is known."""
    for billed, ran_s in ((usage.month_units, usage.month_ran_s), (usage.day_units, usage.day_ran_s)):
        if ran_s >= LEAST_RAN_S:
            return billed * DAY_S / ran_s
    return a_day(rates_of(sentinel, "units"))


def fleet(table: PriceTable, devices: int, units_each: float, usage: LinkUsage) -> Fleet:
    """What so many devices need that send as this one does."""
    managed = usage.streams.get(MANAGEMENT)
    uses_management = managed is not None and managed.month.units > 0
    return Fleet(devices, units_each, needs(table, devices * units_each, managed=uses_management))


def prices(path: Path | None) -> PriceTable:
    """The price table of the file, or the one that comes with the runtime. Raises UsageError."""
    if path is None:
        shipped = resources.files("runtime.operations").joinpath("hub_prices.toml").read_text()
        return PriceTable.parse(tomllib.loads(shipped))
    try:
        return PriceTable.parse(tomllib.loads(read_regular(path).decode()))
    except OSError as exc:
        raise UsageError(f"--prices {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"--prices {path}: {exc}") from exc
