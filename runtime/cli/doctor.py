"""`edgectl doctor`: checks from outside if this device can do its work, and names the remedy."""

from __future__ import annotations

import argparse

from runtime.cli import Commands, load_config
from runtime.cli.terminal import TextRow, write_json, write_lines

_MARKS = {"ok": ("ok     ", "green"), "warning": ("WARNING", "yellow"), "error": ("ERROR  ", "red")}


def register(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check configuration, disk, databases, clock and network, and say what helps",
        epilog="exit status: 0 all in order, 1 with a warning, 2 with an error",
    )
    doctor.add_argument("--json", action="store_true", help="for a program")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import dataclasses

    from runtime.core.operations.diagnosis import Check, worst
    from runtime.errors import ConfigError

    checks: list[Check] = []
    try:
        from runtime.operations.doctor import examine

        config = load_config(arguments)
        for check in examine(config):
            checks.append(check)
            if not arguments.json:
                _print(check)
    except ConfigError as exc:
        checks.append(Check("configuration", "error", str(exc), "correct it, then: edgectl reload"))
        if not arguments.json:
            _print(checks[-1])
    if arguments.json:
        write_json([dataclasses.asdict(check) for check in checks])
    return worst(checks)


def _print(check: object) -> None:
    from runtime.core.operations.diagnosis import Check

    assert isinstance(check, Check)
    mark, colour = _MARKS[check.verdict]
    write_lines(TextRow(f"{mark}  {check.name}: {check.text}", mark, colour, indent=9))
    if check.remedy:
        write_lines(TextRow(f"         -> {check.remedy}", indent=12))
