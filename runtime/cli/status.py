"""`edgectl status`: the state of a runtime, also when all of it is down."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import TextRow, draw, table, write_json, write_lines
from runtime.core.printable import printable

if TYPE_CHECKING:
    from runtime.layout import Layout
    from runtime.settings import Settings

WATCH_EVERY_S = 2.0
MOST_NAMES, MOST_OF_A_NAME = 5, 40
_CLEAR = "\x1b[H\x1b[J"
_VERDICTS = {"healthy": "green", "parked": "green", "degraded": "yellow", "down": "red", "unknown": "yellow"}
"""The colour of each verdict."""


def register(commands: Commands) -> None:
    status = commands.add_parser(
        "status",
        help="show workers, backlog, hub, identity, disk and alarms",
        epilog="exit status: 0 healthy or parked, 1 degraded, 2 down or unknown",
    )
    status.add_argument("--json", action="store_true", help="for a program; with --watch an object a line")
    status.add_argument("--watch", action="store_true", help=f"again every {WATCH_EVERY_S:g} s, until Ctrl-C")
    status.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    import sys
    import time

    from runtime.adapters.process.clock import SystemClock
    from runtime.operations.overview import observe

    while True:
        layout, settings, trouble = _layout(arguments)
        overview = observe(layout, SystemClock(), trouble, settings)
        if arguments.json:
            write_json(overview, indent=None if arguments.watch else 2)
        else:
            if arguments.watch and sys.stdout.isatty():
                draw(f"{_CLEAR}{time.strftime('%H:%M:%S')}\n")
            write_lines(*render(overview))
        if not arguments.watch:
            return {"healthy": 0, "parked": 0, "degraded": 1}.get(overview["verdict"], 2)
        time.sleep(WATCH_EVERY_S)


def _layout(arguments: argparse.Namespace) -> tuple[Layout, Settings | None, str]:
    """The layout of the runtime, its settings, and what is wrong with its configuration.

    With an invalid configuration it may well run on, with the last valid one.
    """
    import os

    from runtime.config_file import find_home
    from runtime.errors import ConfigError
    from runtime.layout import Layout

    try:
        config = load_config(arguments)
    except ConfigError as exc:
        return Layout(find_home(os.environ, arguments.home)), None, f"configuration: {exc}"
    return config.layout, config.settings, ""


def render(overview: dict[str, Any]) -> list[TextRow]:
    """The overview as text for a person."""
    why = f"  ({overview['hub']['barred']})" if overview["verdict"] == "parked" else ""
    verdict = overview["verdict"].upper()
    colour = _VERDICTS[overview["verdict"]]
    rows = [TextRow(f"{verdict}  {overview['home']}{why}", verdict, colour, 4), TextRow("")]
    rows += [TextRow(f"  {reason}", indent=4) for reason in overview["reasons"]]
    rows += [TextRow("")] if overview["reasons"] else []
    head, *workers = table(
        ["WORKER", "STATE", "PID", "UPTIME", "RESTARTS", "PROGRESS", "MEMORY"],
        [_worker_row(name, worker) for name, worker in overview["workers"].items()],
        spare=("PID", "RESTARTS", "MEMORY"),
    )
    rows += [TextRow(head, head, "bold"), *map(TextRow, workers), TextRow("")]
    for title, parts in (
        ("backlog", _backlog(overview["backlog"])),
        ("ledger", _ledger(overview["ledger"])),
        ("lasts", _lasts(overview["runway"])),
        ("hub", _hub(overview["hub"])),
        ("identity", _identity(overview["identity"])),
        ("disk", _disk(overview["disk"])),
    ):
        rows.append(TextRow(f"{title:<9} {', '.join(filter(None, parts)) or 'unknown'}", indent=10))
    if facts := overview.get("management"):
        rows.append(TextRow(f"managed   {', '.join(filter(None, _management(facts)))}", indent=10))
    if update := _update(overview.get("update") or {}):
        rows.append(TextRow(f"update    {update}", indent=10))
    if copied_at := overview["machine"]["copied_at"]:
        text = f"copied    found at the start of {copied_at}: another device may use this id (edgectl doctor)"
        rows.append(TextRow(text, indent=10))
    if overview["crashes"]["count"]:
        crashes = f"{overview['crashes']['count']}, the last {overview['crashes']['last']}"
        rows.append(TextRow(f"crashes   {crashes}", indent=10))
    for alarm in overview["alarms"]:
        rows.append(TextRow(f"ALARM     {alarm['worker']}: {alarm['text']}", "ALARM", "red", 10))
    return rows


def _update(facts: dict[str, Any]) -> str:
    """An update that is under way, or the last one where it came back."""
    last = facts.get("last")
    if facts.get("phase", "none") != "none":
        return f"to {facts['version']} under way: {facts['phase']}"
    return (
        f"to {last['version']} came back: {last['reason']}" if last and last["result"] == "came back" else ""
    )


def _worker_row(name: str, worker: dict[str, Any]) -> list[str]:
    age_s, restarts = worker["progress_age_s"], worker["restarts"]
    return [
        name,
        worker["state"],
        str(worker["pid"] or "-"),
        duration(worker["uptime_s"]),
        "-" if restarts is None else str(restarts),
        "-" if age_s is None else f"{duration(age_s)} ago",
        size(worker["memory_bytes"]),
    ]


def _backlog(facts: dict[str, Any]) -> list[str]:
    known = facts["messages"] is not None
    return [
        f"{_waiting(facts['messages'])} ({size(facts['bytes'])})" if known else "",
        _phrase("the oldest for {}", facts["oldest_age_s"], duration),
        f"{facts['quarantine']} in quarantine" if known else "",
        _counted("dropped", {k: n for k, n in facts["dropped"].items() if k != "quarantined"}),
        _counted("refused in the last minute", facts["refused_lately"]),
        _counted("refused since ingest started", facts["refused"]),
        _room(facts) + _phrase(" (full in {} at the present rate)", facts["full_in_s"], duration),
        f"store {facts['store']}" if facts["store"] not in ("open", None) else "",
    ]


def _waiting(messages: int) -> str:
    return "1 message waits" if messages == 1 else f"{messages or 'no'} messages wait"


def _room(facts: dict[str, Any]) -> str:
    """The space left, by the nearest of the limits."""
    if facts["room_limit"] == "messages":
        return f"room for {facts['room_messages']} messages"
    return _phrase("room for {}", facts["room_bytes"], size)


def _hub(facts: dict[str, Any]) -> list[str]:
    return [
        facts["state"],
        _phrase("connected since {}", facts["connected_since"])
        + _phrase(" ({})", facts["connected_s"], duration),
        _phrase("last PUBACK {} ago", facts["puback_age_s"], duration),
        _phrase("{:.0f} in flight", facts["in_flight"]),
        _phrase("{:.1f} messages/s", facts["rate_per_s"]),
        _phrase("{:.0f} delivered since upload started", facts["delivered"]),
        _phrase("{:.0f} under suspicion of ending connections", facts["suspects"] or None),
        _phrase("the link may not be used now: {}", facts["barred"]),
        _phrase("the budget gives a unit of 4 KiB every {}", facts.get("unit_every_s"), duration),
        "it cannot hold what comes" if facts.get("over_budget") else "",
        _phrase("device management {}", facts["management"]),
        _phrase("{:.0f} attempts to connect failed", facts["failed_attempts"] or None),
        _phrase("the connection was lost {:.0f} times", facts["losses"] or None),
        _phrase("the last time: {}", facts["last_loss"] or None),
    ]


def _management(facts: dict[str, Any]) -> list[str]:
    return [
        f"twin {facts['twin'] or 'unknown'}",
        _phrase("desired version {:.0f}", facts["desired_version"]),
        _counted("commands", facts["commands"]),
        _phrase("{:.0f} commands wait for room here", facts["commands_at_hub"] or None),
        _phrase("{:.0f} calls under way", facts["calls"] or None),
        _listed("not applied", facts["not_applied"]),
        _listed("refused by the hub", facts["refused"]),
        _listed("shown differently by the hub", facts["altered"]),
        _counted("results lost", facts["lost_results"]),
    ]


def _listed(words: str, names: Collection[str]) -> str:
    shown = [f"/{printable(name, MOST_OF_A_NAME)}" for name in list(names)[:MOST_NAMES]]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{words}: {' '.join(shown)}{more}" if names else ""


def _ledger(facts: dict[str, Any]) -> list[str]:
    """Where every message is that was ever stored. `edgectl ledger` has the streams and the reasons."""
    if facts["stored"] is None:
        return []
    lost = sum(facts["lost"].values())
    return [
        f"{facts['stored']} ever stored",
        f"{facts['delivered']} delivered",
        f"{facts['waiting']} waiting",
        f"{facts['set_aside']} set aside",
        f"{lost} lost",
        f"{facts['difference']} unaccounted for" if facts["difference"] else "",
    ]


def _lasts(facts: dict[str, Any]) -> list[str]:
    """How long it lasts; what is unknown is left out."""
    names = {
        "full_in_s": "the store is full {}",
        "drained_in_s": "nothing waits any more {}",
        "quota_in_s": "the quota of the day is used up {}",
    }
    return [
        *(_phrase(words, facts[name], _in_time) for name, words in names.items() if facts[name] != 0),
        _phrase("{} a day are written", facts["written_bytes_a_day"], size),
        _phrase("the hub bills {} units of 4 KiB a day", facts.get("units_a_day")),
    ]


def _in_time(seconds: float | str) -> str:
    return "never" if isinstance(seconds, str) else f"in {duration(seconds)}"


def _identity(facts: dict[str, Any]) -> list[str]:
    return [
        facts["state"] + _phrase(" as {}", facts["device_id"]),
        _phrase("next {}", facts["next"]) + _phrase(" in {}", facts["next_in_s"], duration),
        _phrase("the SAS is valid for {}", facts["sas_remaining_s"], duration),
        _phrase("the Registration Token for {}", facts["registration_remaining_s"], duration),
        _phrase("provisioning: {}", facts["provisioning"]),
        _phrase("the verification code is {}", facts["verification_code"]),
        _phrase("the last attempt failed: {}", facts["trouble"]),
        _phrase("{}", facts["reason"] or None),
    ]


def _disk(facts: dict[str, Any]) -> list[str]:
    return [
        _phrase("{} free", facts["free_bytes"], size) + _phrase(" of {}", facts["total_bytes"], size),
        _phrase("full in {} at the present rate", facts["full_in_s"], duration),
    ]


def _phrase(template: str, value: Any, spell: Any = None) -> str:
    """The text with the value in it; empty where the value is unknown."""
    return "" if value is None else template.format(spell(value) if spell else value)


def _counted(what: str, counts: dict[str, int]) -> str:
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"{what}: {named}" if named else ""


def duration(seconds: float | None) -> str:
    """Seconds in a form for people: 4s, 3m05s, 2h10m, 5d03h."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count_bytes: float | None) -> str:
    """Bytes in a form for people."""
    if count_bytes is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count_bytes) < 1024:
            return f"{count_bytes:.0f} {unit}" if unit in ("B", "KiB") else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.1f} TiB"
