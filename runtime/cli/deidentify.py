"""`edgectl deidentify`: make a home that of no device, before an image is made of it."""

from __future__ import annotations

import argparse
import sys

from runtime.cli import Commands, load_config
from runtime.cli.terminal import write_error, write_lines

MOST_NAMED = 5


def register(commands: Commands) -> None:
    deidentify = commands.add_parser(
        "deidentify",
        help="make a home that of no device, before an image is made of it",
        description="Remove identity, tokens, stores, logs and status; the configuration stays. The next "
        "start is that of a new device. Nothing may run in the home",
        epilog="exit status: 0 removed, 1 not",
    )
    deidentify.add_argument(
        "--discard-messages", action="store_true", help="also where messages or results are not delivered"
    )
    deidentify.add_argument("--yes", action="store_true", help="do not ask")
    deidentify.set_defaults(run=_deidentify)


def _deidentify(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError
    from runtime.operations.deidentify import clear, shared_settings, undelivered

    config = load_config(arguments)
    layout = config.layout
    owed = undelivered(layout)
    if owed and not arguments.discard_messages:
        raise UsageError(
            f"{'; '.join(owed)}. Nothing was removed: let the device deliver them, or add --discard-messages"
        )
    if not arguments.yes and not _agreed(str(layout.home), owed):
        return 1
    cleared = clear(layout)
    what = "file is" if cleared.removed == 1 else "files are"
    write_lines(f"{cleared.removed} {what} removed; the next start in {layout.home} is that of a new device.")
    if cleared.left:
        named = ", ".join(map(str, cleared.left[:MOST_NAMED]))
        more = len(cleared.left) - MOST_NAMED
        write_lines(
            f"Left, as the runtime did not make it: {named}" + (f" and {more} more" if more > 0 else "")
        )
    for sentence in shared_settings(config):
        write_error(f"warning: {sentence}")
    return 0


def _agreed(home: str, owed: list[str]) -> bool:
    """Ask a person. Raises UsageError where there is none."""
    from runtime.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError("deidentify asks a question; without a terminal add --yes")
    lost = f" For ever: {'; '.join(owed)}." if owed else ""
    question = f"Remove identity, tokens, messages and logs in {home}?{lost} [y/N] "
    return input(question).strip().lower() == "y"
