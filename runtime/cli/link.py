"""`edgectl link`: what was sent over the link, and its kill switch."""

from __future__ import annotations

import argparse

from runtime.cli import Commands, load_config


def register(commands: Commands) -> None:
    link = commands.add_parser("link", help="what was sent today and this month; switch the link off and on")
    link.add_argument("switch", nargs="?", choices=("on", "off"), help="off: nothing is sent until on")
    link.set_defaults(run=_link)


def _link(arguments: argparse.Namespace) -> int:
    from runtime.adapters.link_usage import LinkUsage

    config = load_config(arguments)
    usage = LinkUsage(config.layout)
    if arguments.switch:
        config.layout.create()
        usage.switch(on=arguments.switch == "on")
    sent = usage.load()
    print(f"link   {'off: nothing is sent' if usage.switched_off() else 'on'}")
    print(f"today  {sent.day_messages} messages, {sent.day_bytes} bytes ({sent.day or 'no day yet'} UTC)")
    print(f"month  {sent.month_messages} messages, {sent.month_bytes} bytes ({sent.month or 'none yet'})")
    return 0
