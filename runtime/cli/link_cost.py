"""`edgectl link cost`: what the hub bills for, by stream, and what a fleet of such devices needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, count, load_config
from runtime.cli.terminal import TextRow, table, write_json, write_lines
from runtime.core.printable import printable

if TYPE_CHECKING:
    from runtime.config import Config
    from runtime.core.delivery.link_budget import LinkUsage
    from runtime.core.operations.hub_bill import PriceTable
    from runtime.operations.cost_report import Fleet
    from runtime.operations.pack_trial_report import TrialReport

MOST_OF_A_NAME = 40
"""Characters of a stream's name in the table; `--json` has all of it."""


def register(actions: Commands) -> None:
    cost = actions.add_parser(
        "cost",
        help="units of 4 KiB that the hub bills for, by stream; what a fleet of such devices needs; what "
        "packing would save",
        epilog="exit status: 0 said; 1 too little was counted for a rate, or nothing is stored to try with; "
        "2 wrong usage",
    )
    cost.add_argument(
        "--devices", type=count, metavar="N", help="what N devices like this one need: tier, hub units, money"
    )
    cost.add_argument(
        "--prices", type=Path, metavar="FILE", help="a price table (TOML) in place of the one that is shipped"
    )
    cost.add_argument(
        "--try",
        dest="trial",
        metavar="RULES",
        help="replay what is stored under other rules, as in pack=lines,linger=10s,compression=fastest: "
        "units before and after, the latency added, and which streams cannot pack; nothing is changed",
    )
    cost.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for a program")
    cost.set_defaults(run=_cost)


def _cost(arguments: argparse.Namespace) -> int:
    from runtime.adapters.hub.usage_file import UsageFile
    from runtime.operations.cost_report import METERING, periods, prices

    config = load_config(arguments)
    price_table = prices(arguments.prices)
    usage = UsageFile(config.layout).load()
    day, month = (period.as_record() for period in periods(usage))
    if arguments.trial is not None:
        return _try(arguments, config, price_table, usage)
    needed = _fleet(config, arguments.devices, price_table, usage, 1.0)
    if arguments.json:
        write_json({"today": day, "month": month, "metering": METERING, **_fleet_record(needed, price_table)})
    else:
        write_lines(*_period("today", day), TextRow(""), *_period("month", month))
        if arguments.devices:
            write_lines(TextRow(""), *_fleet_rows(needed, price_table))
    return 1 if arguments.devices and needed is None else 0


def _try(arguments: argparse.Namespace, config: Config, price_table: PriceTable, usage: LinkUsage) -> int:
    """Say what the stored messages would cost under other rules."""
    from runtime.core.delivery.pack_trial import PackTrial
    from runtime.errors import UsageError
    from runtime.operations.pack_trial_report import try_out

    try:
        trial = PackTrial.parse(arguments.trial)
    except ValueError as exc:
        raise UsageError(f"--try {exc}") from exc
    report = try_out(config.layout.messages_db, config.settings, trial)
    now, tried = report.units
    needed = _fleet(config, arguments.devices, price_table, usage, tried / now) if now else None
    if arguments.json:
        write_json({"try": report.as_record(), **_fleet_record(needed, price_table)})
    else:
        write_lines(*_trial_rows(report))
        if arguments.devices and now:
            write_lines(TextRow(""), *_fleet_rows(needed, price_table))
    return 1 if not now or (arguments.devices and needed is None) else 0


def _trial_rows(report: TrialReport) -> list[TextRow]:
    """The outcome in one line, then by stream."""
    if not report.messages:
        return [TextRow("nothing is stored that could be replayed")]
    from runtime.core.delivery.pack_replay import quantile

    now, tried = report.units
    p99_now, p99_tried = report.waits_s(0.99)
    cannot = report.cannot()
    part = "" if report.messages >= report.stored else f" of {report.stored:,}"
    outcome = f"{now:,} -> {tried:,} units, p99 {p99_tried - p99_now:+.1f} s"
    if cannot:
        outcome += f", {len(cannot)} of {len(report.now)} streams cannot"
    rows = [TextRow(outcome, outcome, "bold")]
    rows += [
        TextRow(f"  {printable(name, MOST_OF_A_NAME)} cannot: {why}", indent=4)
        for name, why in cannot.items()
    ]
    names = report.by_units()
    columns = ["STREAM", "MESSAGES", "UNITS NOW", "TRIED", "SENDS", "P99", "ALONE"]
    body = []
    for name in names:
        before, after = report.now[name], report.tried[name]
        counts = (before.messages, before.counts.units, after.counts.units, after.counts.sends)
        waits = f"{quantile(after.waits_s, 0.99):.1f} s"
        alone = f"{after.alone.total():,}"
        body.append([printable(name, MOST_OF_A_NAME), *(f"{n:,}" for n in counts), waits, alone])
    title, *lines = table(columns, body)
    rows += [TextRow(""), TextRow(title, title, "bold"), *map(TextRow, lines)]
    over = f"{report.messages:,} messages{part}, stored over {report.span_s / 3600:.1f} h"
    return [*rows, TextRow(f"replayed: {over}, with the link up all the time", indent=4)]


def _fleet(
    config: Config, devices: int | None, price_table: PriceTable, usage: LinkUsage, factor: float
) -> Fleet | None:
    """What so many devices need that send `factor` times what this one does.

    None where that is not asked for, or this one's rate is not known.
    """
    from runtime.adapters.process.clock import SystemClock
    from runtime.adapters.process.status_file import last_record
    from runtime.operations.cost_report import fleet, units_a_day

    if devices is None:
        return None
    sentinel = last_record(config.layout.status_file("sentinel"), SystemClock().boot_id())
    each = units_a_day(usage, sentinel)
    return None if each is None else fleet(price_table, devices, factor * each, usage)


def _fleet_record(needed: Fleet | None, prices: PriceTable) -> dict[str, Any]:
    if needed is None:
        return {"fleet": None}
    facts = {"dated": prices.dated, "source": prices.source, "currency": prices.currency}
    return {"fleet": {**needed.as_record(), "prices": facts}}


def _period(title: str, record: dict[str, Any]) -> list[TextRow]:
    """The table of one period."""
    when = f"{record['name']} UTC" if record["name"] else "no date yet: no believable clock"
    head = TextRow(f"{title} ({when})", title, "bold")
    streams = record["streams"]
    if not streams:
        return [head, TextRow("nothing was sent")]
    total = [{"stream": "total", **record}] if len(streams) > 1 else []
    columns = ["STREAM", "UNITS", "MESSAGES", "SENDS", "BYTES", "FILL", "REPEATS", "COMPRESSION"]
    body = [_row(one) for one in (*streams, *total)]
    title_row, *rows = table(columns, body, spare=("BYTES", "COMPRESSION"))
    return [head, TextRow(title_row, title_row, "bold"), *map(TextRow, rows)]


def _row(one: dict[str, Any]) -> list[str]:
    counts = (one[key] for key in ("units", "messages", "sends", "bytes"))
    shares = map(_share, (one["fill"], one["repeat_share"]))
    gain = "" if one["compression_gain"] is None else f"-{100 * one['compression_gain']:.0f} %"
    return [printable(one["stream"], MOST_OF_A_NAME), *(f"{number:,}" for number in counts), *shares, gain]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _fleet_rows(needed: Fleet | None, prices: PriceTable) -> list[TextRow]:
    if needed is None:
        return [TextRow("too little was counted for a rate a day: ask again in an hour")]
    each = f"{needed.units_a_day:,.0f} units a day"
    head = TextRow(f"{needed.devices:,} devices like this one, each {each}, without any spare", "", "", 4)
    money = f"{prices.currency} A MONTH"
    rows = [
        [need.tier.name, f"{need.hub_units:,}", f"{need.hubs:,}", f"{need.price_a_month:,.0f}"]
        for need in needed.needs
    ]
    title, *tiers = table(["TIER", "HUB UNITS", "HUBS", money], rows)
    source = TextRow(f"prices of {prices.dated}: {prices.source}", indent=4)
    return [head, TextRow(title, title, "bold"), *map(TextRow, tiers), source]
