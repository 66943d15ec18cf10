"""`edgectl worker NAME`: be one of the supervised processes. supervisord.conf calls it; people rarely do."""

from __future__ import annotations

import argparse

from runtime.cli import Commands, load_config
from runtime.layout import WORKERS


def register(commands: Commands) -> None:
    worker = commands.add_parser("worker", help="run one worker in the foreground (supervisord does)")
    worker.add_argument("name", choices=(*WORKERS, "sentinel"))
    worker.set_defaults(run=_worker)


def _worker(arguments: argparse.Namespace) -> int:
    from runtime.workers import start

    start(arguments.name, load_config(arguments))
    return 0
