"""`edgectl link cost`: what the hub bills for, and what a fleet needs; with everything down."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.hub.usage_file import UsageFile
from runtime.adapters.store.writer import MessageStore
from runtime.core.delivery.link_budget import LinkPolicy, LinkUsage
from runtime.core.delivery.unit_counts import MANAGEMENT, of_file_calls, of_send
from runtime.layout import Layout
from runtime.operations.cost_report import prices
from tests.support.forked import Outcome, try_all
from tests.support.store_tools import ObedientClock, keep, put


def used(*, ran_s: int = 86_400, managed: bool = False) -> LinkUsage:
    usage = LinkUsage("2026-11-29", "2026-11", day_ran_s=ran_s, month_ran_s=ran_s)
    for stream, counts in (
        ("-/vibration", of_send(2_048, messages=10)),
        ("-/vibration", of_send(2_048, messages=10, repeat=True)),
        ("-/pictures", of_file_calls(2)),
        *([(MANAGEMENT, of_send(5_000))] if managed else []),
    ):
        usage.add(1, counts.bytes, counts.units)
        usage.count(stream, counts)
    return usage


@pytest.fixture
def layout(folder: Path) -> Layout:
    layout = Layout(folder)
    layout.create()
    return layout


def cost(layout: Layout, usage: LinkUsage, *words: str) -> Outcome:
    UsageFile(layout).save(usage, LinkPolicy(), at_end=True)
    (outcome,) = try_all([["--home", str(layout.home), "link", "cost", *words]])
    return outcome


def as_json(layout: Layout, usage: LinkUsage, *words: str) -> dict[str, Any]:
    outcome = cost(layout, usage, "--json", *words)
    assert outcome.status == 0, outcome.err
    return dict(json.loads(outcome.out))


def test_units_stand_by_stream_with_fill_and_the_share_of_repeats(layout: Layout) -> None:
    shown = as_json(layout, used())
    assert shown["today"]["name"] == "2026-11-29" and shown["month"]["name"] == "2026-11"
    by_stream = {one["stream"]: one for one in shown["month"]["streams"]}
    vibration = by_stream["-/vibration"]
    assert (vibration["units"], vibration["messages"], vibration["sends"]) == (2, 20, 2)
    assert (vibration["fill"], vibration["repeat_share"]) == (0.5, 0.5)
    assert (by_stream["-/pictures"]["units"], by_stream["-/pictures"]["fill"]) == (2, None)
    assert shown["month"]["units"] == 4 and shown["fleet"] is None
    text = cost(layout, used()).out
    assert "-/vibration" in text and "50.0 %" in text and "total" in text


def test_a_fleet_is_sized_by_the_rate_of_the_running_time(layout: Layout) -> None:
    fleet = as_json(layout, used(ran_s=43_200), "--devices", "100000")["fleet"]
    assert fleet["units_a_day_each"] == 8.0
    assert fleet["tiers"][0] == {"tier": "B1", "hub_units": 2, "hubs": 1, "price_a_month": 20.0}
    assert fleet["prices"]["dated"] and "from memory" in fleet["prices"]["source"]
    managed = as_json(layout, used(managed=True), "--devices", "10")["fleet"]
    assert {one["tier"] for one in managed["tiers"]} == {"S1", "S2", "S3"}


def test_a_table_of_ones_own_takes_the_place_of_the_list(layout: Layout, tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(
        'dated = "2027-01-01"\nsource = "our contract"\ncurrency = "EUR"\n'
        "[tier.S1]\nprice_a_month = 9.5\nunits_a_day = 400_000\nmost_hub_units = 200\nmanages = true\n"
    )
    outcome = cost(layout, used(), "--devices", "3", "--prices", str(table))
    assert "EUR A MONTH" in outcome.out and "our contract" in outcome.out and "S3" not in outcome.out
    table.write_text("tier = 3")
    outcome = cost(layout, used(), "--devices", "3", "--prices", str(table))
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and "has no table" in outcome.err


def test_nothing_counted_is_no_forecast(layout: Layout) -> None:
    assert cost(layout, LinkUsage()).status == 0
    outcome = cost(layout, used(ran_s=0), "--devices", "7")
    assert outcome.status == 1 and "too little was counted" in outcome.out


def test_the_shipped_table_is_read() -> None:
    assert [tier.name for tier in prices(None).tiers] == ["S1", "S2", "S3", "B1", "B2", "B3"]


# -- --try ------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(layout: Layout) -> Layout:
    """A message a second for 80 seconds, and a stream with message ids of its own."""
    clock = ObedientClock()
    with closing(MessageStore(layout.messages_db, clock)) as store:
        for number in range(80):
            clock.boot += 1
            clock.wall += 1
            keep(store, put([b"%0200d" % number], producer="p", stream="s", first=number))
            if number % 20 == 0:
                keep(store, put([b"x"], producer="q", stream="own", first=number, message_id=f"m{number}"))
    return layout


def test_what_is_stored_is_replayed_while_another_process_holds_the_write_lock(stored: Layout) -> None:
    before = stored.messages_db.read_bytes()
    with closing(sqlite3.connect(stored.messages_db, isolation_level=None)) as ingest:
        ingest.execute("BEGIN IMMEDIATE")
        shown = as_json(stored, LinkUsage(), "--try", "pack=lines,linger=10s")["try"]
    assert (shown["messages"], shown["stored"]) == (84, 84)
    assert shown["units"] == {"now": 84, "tried": 8 + 4}
    assert 9 <= shown["p99_s"]["tried"] <= 10.2 and shown["p99_s"]["now"] < 0.2
    assert shown["cannot"] == {"-/own": "own message ids"}
    assert stored.messages_db.read_bytes() == before


def test_the_outcome_is_said_in_one_line_and_a_fleet_by_it(stored: Layout) -> None:
    outcome = cost(stored, used(), "--try", "pack=lines,linger=10s", "--devices", "1000")
    assert outcome.status == 0
    assert outcome.out.startswith("84 -> 12 units, p99 +10.0 s, 1 of 2 streams cannot\n")
    assert "-/own cannot: own message ids" in outcome.out and "HUB UNITS" in outcome.out
    wrong = cost(stored, used(), "--try", "pack=tar")
    assert wrong.status == 2 and wrong.err.count("\n") == 1


def test_nothing_stored_is_nothing_to_try_with(layout: Layout) -> None:
    missing = cost(layout, used(), "--try", "pack=lines")
    assert missing.status == 1 and "does not exist yet" in missing.err
    with closing(MessageStore(layout.messages_db, ObedientClock())):
        pass
    empty = cost(layout, used(), "--try", "pack=lines")
    assert empty.status == 1 and "nothing is stored" in empty.out
