"""`edgectl worker NAME`: run one of the supervised processes. supervisord.conf calls it; people rarely do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config
from runtime.cli.terminal import write_error
from runtime.layout import PROGRAMS

if TYPE_CHECKING:
    from runtime.config import Config

NO_HOME = Path("/nonexistent")
"""A home without a file, by the name that Debian gives it."""


def register(commands: Commands) -> None:
    worker = commands.add_parser("worker", help="run one worker in the foreground (supervisord does)")
    worker.add_argument("name", choices=PROGRAMS)
    worker.set_defaults(run=_worker)


def plain_worker(words: Sequence[str]) -> argparse.Namespace | None:
    """The arguments of `worker NAME` as supervisord calls it, without a parser; None for any other words."""
    if len(words) != 2 or words[0] != "worker" or words[1] not in PROGRAMS:
        return None
    return argparse.Namespace(home=None, config=None, name=words[1], run=_worker)


def _worker(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.process import supervised
    from runtime.workers import start

    start(arguments.name, load_or_last_accepted(arguments, alone=supervised(), warn=False))
    return 0


def rehearse() -> None:
    """Read a configuration, as each worker does at its start: what is imported, compiled and worked out for
    that is shared by all that are forked from here on. Not the one of this home: it may be wrong, and hold
    secrets.
    """
    from runtime.config import load

    load({"EDGE_PLATFORM_INSTANCE": "platform.example:443"}, home=NO_HOME)


def load_or_last_accepted(arguments: argparse.Namespace, *, alone: bool, warn: bool = True) -> Config:
    """The configuration; where it is invalid and no person is there to see it (`alone`), the last valid
    one.
    """
    import os

    from runtime.adapters.process.home_mount import check_home
    from runtime.adapters.process.last_good_config import accepted_file, remember
    from runtime.config import load
    from runtime.config_file import find_home
    from runtime.errors import ConfigError
    from runtime.layout import Layout

    try:
        config = load_config(arguments, warn=warn)
    except ConfigError as exc:
        home = find_home(os.environ, arguments.home)
        kept = accepted_file(Layout(home))
        if not alone or not kept.is_file():
            raise
        write_error(f"{exc}; going on with the configuration that was last in order")
        return load(os.environ, home=home, file=kept)
    check_home(config.layout.home)
    config.layout.create()
    remember(config)
    return config
