"""The command line. One module per group of commands, each with `register(commands)`; imports stay late."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from runtime import __version__

if TYPE_CHECKING:
    from runtime.config import Config

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the command line: all of it, or the one command that `words` name.

    A worker, a container's check or a script that sends would else pay 50 ms of CPU for the others.
    """
    root: argparse.ArgumentParser = Parser(
        prog="edgectl", description="The edge runtime: run it, look at it, send with it."
    )
    root.add_argument("--version", action="version", version=f"edgectl {__version__}")
    root.add_argument("--home", type=Path, metavar="DIR", help="folder of the runtime (EDGE_HOME)")
    root.add_argument("--config", type=Path, metavar="FILE", help="configuration file (EDGE_CONFIG)")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for group in groups(_command(argv)):
        group.register(commands)
    _describe(root)
    return root


def _describe(command: argparse.ArgumentParser) -> None:
    """Have every command explain itself in a sentence; without one of its own in the one that the list of
    commands shows.
    """
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                below = action.choices[choice.dest]
                text = (below.description or choice.help or "").strip().rstrip(".")
                below.description = f"{text[:1].upper()}{text[1:]}."
                _describe(below)


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one sentence, like every other error. Subcommands get the
    same.
    """

    def error(self, message: str) -> NoReturn:
        from runtime.core.printable import printable

        self.exit(2, f"{printable(f'{self.prog}: {message}')}; see {self.prog} --help\n")


def seconds(text: str) -> float:
    """A duration on the command line, in seconds; argparse reports anything else in a sentence."""
    value = float(text)
    if not 0 <= value < math.inf:  # nan as a deadline never comes
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A number of things on the command line, at least one; argparse reports anything else in a sentence."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def load_config(arguments: argparse.Namespace, *, warn: bool = True) -> Config:
    """The configuration that the command line asks for. Raises ConfigError; `warn`: prints warnings on
    stderr.
    """
    from runtime.cli.terminal import write_error
    from runtime.config import load

    config = load(os.environ, home=arguments.home, file=arguments.config)
    for warning in config.warnings if warn else ():
        write_error(f"warning: {warning}")
    return config


def enter_home(arguments: argparse.Namespace) -> None:
    """Before a command opens a file in its home: refuse a stranger's; as root become its owner.

    A command that needs no home says `homeless` (`config --example` needs none either); one that only sends
    says `sends_only`. Raises UsageError.
    """
    from runtime.adapters.process.home_owner import enter
    from runtime.config_file import find_home
    from runtime.errors import ConfigError

    if getattr(arguments, "homeless", False) or getattr(arguments, "example", False):
        return
    try:
        home = find_home(os.environ, arguments.home)
    except ConfigError:  # a command that needs a configuration reports this itself
        return
    enter(home, sends_only=getattr(arguments, "sends_only", False))


def groups(command: str = "") -> list[Group]:
    """The groups of commands in the order of `edgectl --help`; with `command` only the one that has it."""
    import importlib

    asked = [name for name, has in GROUPS.items() if not command or command in has]
    return [importlib.import_module(f"runtime.cli.{name}") for name in asked]  # type: ignore[misc]


def _command(argv: Sequence[str]) -> str:
    """The command that the words of a command line name; empty where they name none."""
    known = {command for commands in GROUPS.values() for command in commands}
    before = ""
    for word in argv:
        if not word.startswith("-") and before not in ("--home", "--config"):
            return word if word in known else ""
        before = word
    return ""


GROUPS = {
    "up": ("up", "down"),
    "reload": ("reload",),
    "status": ("status",),
    "ledger": ("ledger",),
    "trace": ("trace",),
    "bundle": ("bundle",),
    "top": ("top",),
    "tap": ("tap",),
    "health": ("health",),
    "doctor": ("doctor",),
    "logs": ("logs",),
    "send": ("send",),
    "keys": ("keys",),
    "identity": ("identity",),
    "provision": ("provision",),
    "deidentify": ("deidentify",),
    "quarantine": ("quarantine",),
    "management": ("twin", "commands", "call"),
    "link": ("link",),
    "workers": ("worker",),
    "settings": ("config",),
    "devcloud": ("devcloud",),
    "demo": ("demo",),
    "completion": ("completion",),
    "version": ("version",),
    "update": ("update",),
}
"""Modules of this package with their commands, in the order of `edgectl --help`."""


class Group:
    """The interface of this package's modules (for the type checker)."""

    @staticmethod
    def register(commands: Commands) -> None:
        """Add the group's commands."""
        raise NotImplementedError
