"""`edgectl config`: what is in force, and where each value came from."""

from __future__ import annotations

import argparse
import json
from typing import Any

from runtime.cli import Commands, load_config


def register(commands: Commands) -> None:
    config = commands.add_parser("config", help="print every setting in force and where it came from")
    config.add_argument("--json", action="store_true", help="for a program")
    config.set_defaults(run=_config)


def _config(arguments: argparse.Namespace) -> int:
    from runtime.config import keys
    from runtime.core.secret import Secret

    config = load_config(arguments)
    rows: list[tuple[str, Any, str]] = []
    for key in keys():
        value = getattr(getattr(config.settings, key.table), key.name)
        shown = "***" if isinstance(value, Secret) else value
        rows.append((key.dotted, shown, config.origins[key.dotted].source))
    if arguments.json:
        settings = {name: {"value": value, "source": source} for name, value, source in rows}
        print(json.dumps({"home": str(config.layout.home), "settings": settings}, indent=2, default=str))
        return 0
    print(f"# home {config.layout.home}\n# file {config.file or 'none'}")
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        print(f"{name:<{width}} = {_toml(value):<24} # {source}")
    return 0


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
