"""`edgectl demo`: the whole runtime at work in about a minute."""

from __future__ import annotations

import argparse
import signal
import sys

from runtime.cli import Commands, seconds


def register(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="see it work: the stand-in cloud, every worker, and disasters, in about a minute",
        epilog="exit status: 0 only if acknowledged = delivered, each command done once, and nothing lost",
    )
    demo.add_argument(
        "--yes",
        action="store_true",
        help="approve the device without a person (the default without a terminal)",
    )
    demo.add_argument(
        "--seconds", type=seconds, default=30.0, metavar="S", help="how long messages flow (30)"
    )
    demo.set_defaults(homeless=True, run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from runtime.cli.devcloud import require_extra

    require_extra()
    from runtime.demo.script import play

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end is the same as Ctrl-C
    return play(approve=arguments.yes or not sys.stdin.isatty(), seconds=arguments.seconds)
