"""`edgectl config`: the settings in force, and the source of each value."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import draw, write_json, write_lines

if TYPE_CHECKING:
    from runtime.config import Config
    from runtime.setting_rule import Key


def register(commands: Commands) -> None:
    config = commands.add_parser("config", help="print the settings in force and where each came from")
    config.add_argument("--json", action="store_true", help="for a program")
    config.add_argument(
        "--example", action="store_true", help="print an edge.toml with the settings explained"
    )
    config.add_argument(
        "--advanced", "--all", action="store_true", help="the settings that no device is known to need, too"
    )
    config.set_defaults(run=_config)


def _config(arguments: argparse.Namespace) -> int:
    if arguments.example:
        draw(example(advanced=arguments.advanced))
        return 0
    config = load_config(arguments)
    if arguments.json:
        from runtime.operations.settings_report import settings_report

        write_json({"home": str(config.layout.home), "settings": settings_report(config)})
        return 0
    write_lines(
        f"# home {config.layout.home}", f"# file {config.file or 'none'}", *_rows(config, arguments.advanced)
    )
    return 0


def _rows(config: Config, advanced: bool) -> list[str]:
    """The users' settings and those of the others that are set, or all where `advanced` says so."""
    from runtime.operations.settings_report import shown as shown_value
    from runtime.settings import keys

    sources = {name: origin.source for name, origin in config.origins.items()}
    shown = [key for key in keys() if advanced or not key.advanced or sources[key.dotted] != "default"]
    width = max(len(key.dotted) for key in shown)
    rows = [
        f"{key.dotted:<{width}} = {_toml(shown_value(config, key)):<24} # {sources[key.dotted]}"
        for key in shown
    ]
    hidden = len(keys()) - len(shown)
    return [*rows, f"# {hidden} advanced settings at their defaults: --advanced"] if hidden else rows


def example(*, advanced: bool = False) -> str:
    """An edge.toml with every setting at its default, commented out, and explained.

    Advanced settings come last in their table: TOML allows a table only once, so they cannot be a part of
    the file.
    """
    from runtime.setting_rule import keys_of
    from runtime.settings import StreamSettings, tables
    from runtime.settings_management import ProgramSettings

    command = f"edgectl config --example{' --advanced' * advanced}"
    lines = [
        f"# Configuration of the edge runtime: settings at their defaults, by `{command}`.",
        "# Uncomment what you change, then `edgectl reload`. A variable EDGE_<TABLE>_<KEY> in the",
        "# environment wins over this file; `edgectl config` shows what is in force.",
    ]
    for table in tables():
        section = type(table.default)
        lines += _table(f"[{table.name}]", section.__doc__, list(keys_of(table.name, section)), advanced)
    lines += _table(
        "#[management.program.NAME]",
        ProgramSettings.__doc__,
        list(keys_of("management.program.NAME", ProgramSettings)),
        advanced,
    )
    lines += _table(
        "#[stream.NAME]", StreamSettings.__doc__, list(keys_of("stream.NAME", StreamSettings)), advanced
    )
    return "\n".join(lines) + "\n"


def _table(title: str, doc: str | None, keys: list[Key], advanced: bool) -> list[str]:
    lines = ["", title, f"# {(doc or '').strip()}"]
    for key in keys:
        lines += [] if key.advanced else _explained(key)
    rest = [key for key in keys if key.advanced and advanced]
    if rest:
        lines += ["", "# Advanced: no device is known that needs another value."]
    for key in rest:
        lines += _explained(key)
    return lines


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
    """A value as it is written in TOML, a missing one as an empty text."""
    from runtime.setting_rule import spelled

    return json.dumps("" if value is None else spelled(value))
