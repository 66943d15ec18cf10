"""`edgectl version`: what is installed, and what it was built from."""

from __future__ import annotations

import argparse

from runtime.cli import Commands


def register(commands: Commands) -> None:
    version = commands.add_parser(
        "version",
        help="what is installed, and what it was built from",
        description="What is installed: the version and, from a package, the commit and the builder. "
        "--json adds every library with its version",
    )
    version.add_argument("--json", action="store_true", help="for a program")
    version.set_defaults(homeless=True, run=_version)


def _version(arguments: argparse.Namespace) -> int:
    from runtime.cli.terminal import write_json, write_lines
    from runtime.operations.provenance import provenance

    facts = provenance()
    if arguments.json:
        write_json(facts)
        return 0
    write_lines(f"edgectl {facts['version']}")
    for name in ("package", "commit", "builder", "python"):
        if facts[name]:
            write_lines(f"{name:<9} {facts[name]}")
    return 0
