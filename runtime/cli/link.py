"""`edgectl link`: what was sent over the link, what it costs, and its kill switch."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from runtime.cli import Commands, link_cost, load_config
from runtime.cli.terminal import write_error, write_json, write_lines

if TYPE_CHECKING:
    from runtime.config import Config

STOPPED_WITHIN_S = 8.0
"""After this time upload has ended its connection: it may wait for acknowledgements of messages in flight."""


def register(commands: Commands) -> None:
    link = commands.add_parser(
        "link", help="what was sent today and this month, and what it costs; switch the link off and on"
    )
    link.add_argument("--json", action="store_true", help="for a program")
    link.set_defaults(run=_link, switch=None)
    actions = link.add_subparsers(metavar="ACTION")
    for name, meaning in (("on", "messages are sent again"), ("off", "nothing is sent until `link on`")):
        action = actions.add_parser(name, help=meaning)
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for a program")
        action.set_defaults(switch=name)
    link_cost.register(actions)


def _link(arguments: argparse.Namespace) -> int:
    from runtime.adapters.hub.usage_file import UsageFile

    config = load_config(arguments)
    usage = UsageFile(config.layout)
    if arguments.switch:
        config.layout.create()
        usage.switch(on=arguments.switch == "on")
        if arguments.switch == "off" and not _stopped(config):
            write_error(f"upload did not say within {STOPPED_WITHIN_S:g} s that it has stopped sending")
    sent, off = usage.load(), usage.switched_off()
    today = {"messages": sent.day_messages, "bytes": sent.day_bytes, "units": sent.day_units}
    month = {"messages": sent.month_messages, "bytes": sent.month_bytes, "units": sent.month_units}
    if arguments.json:
        periods = {
            "today": {"day": sent.day or None, **today},
            "month": {"month": sent.month or None, **month},
        }
        write_json({"switched_off": off, **periods})
        return 0
    budgets = config.settings.link
    write_lines(
        f"link   {'off: nothing is sent' if off else 'on'}",
        f"today  {_sent(today, budgets.units_per_day)} ({sent.day or 'no day yet'} UTC)",
        f"month  {_sent(month, budgets.units_per_month)} ({sent.month or 'none yet'})",
    )
    return 0


def _sent(counts: dict[str, int], most_units: int) -> str:
    budget = f" of {most_units}" if most_units else ""
    return f"{counts['messages']} messages, {counts['bytes']} bytes, {counts['units']}{budget} units of 4 KiB"


def _stopped(config: Config) -> bool:
    """Wait until upload reports that no transfer is under way; true if it does, or if upload does not run."""
    from runtime.adapters.process.clock import SystemClock
    from runtime.adapters.process.status_file import last_record
    from runtime.core.delivery.link_budget import SWITCHED_OFF

    clock, path = SystemClock(), config.layout.status_file("upload")
    since_s = clock.boot_s()
    while clock.boot_s() < since_s + STOPPED_WITHIN_S:
        record = last_record(path, clock.boot_id())
        pid, reported_s = record.number("pid"), record.number("progress_boot_s")
        if pid is None or reported_s is None or not _runs(int(pid)):
            return True
        if reported_s > since_s and record.text("barred") == SWITCHED_OFF and not record.number("in_flight"):
            return True
        time.sleep(0.1)
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
