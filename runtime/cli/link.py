"""`edgectl link`: the bytes sent over the link, and its kill switch."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config
from runtime.cli.terminal import write_error, write_json, write_lines

if TYPE_CHECKING:
    from runtime.config import Config

STOPPED_WITHIN_S = 8.0
"""After this time upload has ended its connection: it may wait for acknowledgements of messages in flight."""


def register(commands: Commands) -> None:
    link = commands.add_parser("link", help="what was sent today and this month; switch the link off and on")
    link.add_argument("switch", nargs="?", choices=("on", "off"), help="off: nothing is sent until on")
    link.add_argument("--json", action="store_true", help="for a program")
    link.set_defaults(run=_link)


def _link(arguments: argparse.Namespace) -> int:
    from runtime.adapters.hub.usage_file import UsageFile

    config = load_config(arguments)
    usage = UsageFile(config.layout)
    if arguments.switch:
        config.layout.create()
        usage.switch(on=arguments.switch == "on")
        if arguments.switch == "off" and not _stopped(config):
            write_error(f"upload did not say within {STOPPED_WITHIN_S:g} s that it has stopped sending")
    sent = usage.load()
    off = usage.switched_off()
    if arguments.json:
        today = {"day": sent.day or None, "messages": sent.day_messages, "bytes": sent.day_bytes}
        month = {"month": sent.month or None, "messages": sent.month_messages, "bytes": sent.month_bytes}
        today["units"], month["units"] = sent.day_units, sent.month_units
        write_json({"switched_off": off, "today": today, "month": month})
        return 0
    day = f"{sent.day_messages} messages, {sent.day_bytes} bytes, {sent.day_units} units of 4 KiB"
    month_ = f"{sent.month_messages} messages, {sent.month_bytes} bytes, {sent.month_units} units of 4 KiB"
    write_lines(
        f"link   {'off: nothing is sent' if off else 'on'}",
        f"today  {day} ({sent.day or 'no day yet'} UTC)",
        f"month  {month_} ({sent.month or 'none yet'})",
    )
    return 0


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
