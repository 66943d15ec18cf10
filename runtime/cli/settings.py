"""`edgectl config`: the settings in force, and the source of each value."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import draw, write_json, write_lines

if TYPE_CHECKING:
    from runtime.config import Key


def register(commands: Commands) -> None:
    config = commands.add_parser("config", help="print every setting in force and where it came from")
    config.add_argument("--json", action="store_true", help="for a program")
    config.add_argument(
        "--example", action="store_true", help="print an edge.toml with every setting explained"
    )
    config.set_defaults(run=_config)


def _config(arguments: argparse.Namespace) -> int:
    from runtime.config import keys
    from runtime.core.secret import Secret

    if arguments.example:
        draw(example())
        return 0
    config = load_config(arguments)
    rows: list[tuple[str, Any, str]] = []
    for key in keys():
        value = getattr(getattr(config.settings, key.table), key.name)
        shown = "***" if isinstance(value, Secret) else value
        rows.append((key.dotted, shown, config.origins[key.dotted].source))
    if arguments.json:
        settings = {name: {"value": value, "source": source} for name, value, source in rows}
        write_json({"home": str(config.layout.home), "settings": settings})
        return 0
    write_lines(f"# home {config.layout.home}", f"# file {config.file or 'none'}")
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        write_lines(f"{name:<{width}} = {_toml(value):<24} # {source}")
    return 0


def example() -> str:
    """An edge.toml with every setting at its default, commented out, and explained."""
    import dataclasses

    from runtime.config import keys, keys_of
    from runtime.settings import Settings, StreamSettings

    lines = [
        "# Configuration of the edge runtime: every setting, at its default. Uncomment what you change, then",
        "# `edgectl reload`. A variable EDGE_<TABLE>_<KEY> of the environment wins over it; `edgectl config`",
        "# shows what is in force. This text is made by `edgectl config --example`.",
    ]
    tables = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    table = ""
    for key in keys():
        if key.table != table:
            table = key.table
            lines += ["", f"[{table}]", f"# {(tables[table].__doc__ or '').strip()}"]
        lines += _explained(key)
    lines += ["", f"# {(StreamSettings.__doc__ or '').strip()}", "#[stream.NAME]"]
    for key in keys_of("stream.NAME", StreamSettings):
        lines += _explained(key)
    return "\n".join(lines) + "\n"


def _explained(key: Key) -> list[str]:
    """Meaning, rule and default of one setting."""
    rule = key.rule
    limits = [f"at least {rule.low:,}"] if rule.low is not None else []
    limits += [f"at most {rule.high:,}"] if rule.high is not None else []
    limits += [" or ".join(rule.choices)] if rule.choices else []
    limits += [rule.text] if rule.text else []
    meaning = f"# {key.doc}" + (f" ({'; '.join(limits)})" if limits else "")
    return ["", meaning, f"#{key.name} = {_toml(key.default)}"]


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
