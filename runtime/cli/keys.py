"""`edgectl keys`: key pairs for producers that come over TCP."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.cli import Commands
from runtime.cli.terminal import write_json, write_lines


def register(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="make key pairs for producers that come over TCP (CURVE)")
    actions = keys.add_subparsers(metavar="ACTION", required=True)
    make = actions.add_parser("make", help="write NAME.secret (0600) and NAME.public")
    make.add_argument("name", metavar="NAME", help="whose keys: ingest, or a client")
    make.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where to (default: here)")
    make.add_argument("--json", action="store_true", help="for a program")
    make.set_defaults(homeless=True, run=_make)


def _make(arguments: argparse.Namespace) -> int:
    from runtime.adapters.bus.curve import make_keys
    from runtime.errors import UsageError

    if not arguments.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"{arguments.name!r} is no name for a file; use letters, digits, - _ and .")
    secret, public = make_keys(arguments.name, arguments.dir)
    if arguments.json:
        write_json({"secret_file": str(secret), "public_file": str(public)})
        return 0
    write_lines(
        f"{secret}  keep it secret: ingest.curve_secret_file, or the client's own",
        f"{public}  for the other side: ingest.curve_clients, or the client's server key",
    )
    return 0
