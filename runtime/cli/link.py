"""`edgectl link`: what was sent over the link, and its kill switch."""

from __future__ import annotations

import argparse

from runtime.cli import Commands, load_config
from runtime.cli.terminal import tell, tell_json


def register(commands: Commands) -> None:
    link = commands.add_parser("link", help="what was sent today and this month; switch the link off and on")
    link.add_argument("switch", nargs="?", choices=("on", "off"), help="off: nothing is sent until on")
    link.add_argument("--json", action="store_true", help="for a program")
    link.set_defaults(run=_link)


def _link(arguments: argparse.Namespace) -> int:
    from runtime.adapters.link_usage import LinkUsage

    config = load_config(arguments)
    usage = LinkUsage(config.layout)
    if arguments.switch:
        config.layout.create()
        usage.switch(on=arguments.switch == "on")
    sent = usage.load()
    off = usage.switched_off()
    if arguments.json:
        today = {"day": sent.day or None, "messages": sent.day_messages, "bytes": sent.day_bytes}
        month = {"month": sent.month or None, "messages": sent.month_messages, "bytes": sent.month_bytes}
        tell_json({"switched_off": off, "today": today, "month": month})
        return 0
    tell(
        f"link   {'off: nothing is sent' if off else 'on'}",
        f"today  {sent.day_messages} messages, {sent.day_bytes} bytes ({sent.day or 'no day yet'} UTC)",
        f"month  {sent.month_messages} messages, {sent.month_bytes} bytes ({sent.month or 'none yet'})",
    )
    return 0
