"""`edgectl status`: what is known about a runtime, also when all of it is down."""

from __future__ import annotations

import argparse
import json
from typing import Any

from runtime.cli import Commands, load_config

WATCH_EVERY_S = 2.0


def register(commands: Commands) -> None:
    status = commands.add_parser(
        "status",
        help="show workers, backlog, hub, identity, disk and alarms",
        epilog="exit status: 0 healthy, 1 degraded, 2 down",
    )
    status.add_argument("--json", action="store_true", help="for a program")
    status.add_argument("--watch", action="store_true", help=f"again every {WATCH_EVERY_S:g} s, until Ctrl-C")
    status.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    import sys
    import time

    from runtime.adapters.clock import SystemClock
    from runtime.adapters.overview import take

    config = load_config(arguments)
    while True:
        found = take(config, SystemClock())
        text = json.dumps(found, indent=2) if arguments.json else render(found)
        if arguments.watch and sys.stdout.isatty():
            text = "\x1b[H\x1b[2J" + text
        print(text, flush=True)
        if not arguments.watch:
            return {"healthy": 0, "degraded": 1}.get(found["verdict"], 2)
        time.sleep(WATCH_EVERY_S)


def render(found: dict[str, Any]) -> str:
    """The overview as a person reads it."""
    lines = [f"{found['verdict'].upper()}  {found['home']}", ""]
    lines += [f"  {reason}" for reason in found["reasons"]] + ([""] if found["reasons"] else [])
    lines += _table(
        ["WORKER", "STATE", "PID", "UPTIME", "RESTARTS", "PROGRESS", "MEMORY"],
        [_worker_row(name, worker) for name, worker in found["workers"].items()],
    )
    for title in ("backlog", "hub", "identity", "disk"):
        facts = found[title]
        if facts:
            told = {name: value for name, value in facts.items() if value not in (None, "", {})}
            words = ", ".join(f"{_words(name)} {_figure(name, value)}" for name, value in told.items())
            lines.append(f"{title:<9} {words}")
    if found["crashes"]["count"]:
        lines.append(f"crashes   {found['crashes']['count']}, the last {found['crashes']['last']}")
    for alarm in found["alarms"]:
        lines.append(f"ALARM     {alarm['worker']}: {alarm['text']}")
    return "\n".join(lines)


def _worker_row(name: str, worker: dict[str, Any]) -> list[str]:
    return [
        name,
        worker["state"],
        str(worker["pid"] or "-"),
        duration(worker["uptime_s"]),
        str(worker["restarts"] if worker["restarts"] is not None else "-"),
        f"{duration(worker['progress_age_s'])} ago" if worker["progress_age_s"] is not None else "-",
        size(worker["memory_bytes"]),
    ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]
    ] + [""]


def _words(name: str) -> str:
    """A figure's name without its unit, which its value shows."""
    return name.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def _figure(name: str, value: Any) -> str:
    if name.endswith("_bytes") or name == "bytes":
        return size(value)
    if name.endswith("_s") and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, dict):
        return "; ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 4s, 3m05s, 2h10m, 5d03h."""
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
    """Bytes as a person says them."""
    if count_bytes is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count_bytes) < 1024:
            return f"{count_bytes:.0f} {unit}" if unit in ("B", "KiB") else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.1f} TiB"
