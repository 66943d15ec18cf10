"""One command is built without the others, and nothing about it differs."""

from __future__ import annotations

import pytest

from runtime.cli import GROUPS, groups, parser
from runtime.cli.workers import plain_worker
from runtime.layout import PROGRAMS


def choices(words: list[str]) -> dict[str, object]:
    (commands,) = [action for action in parser(words)._actions if action.choices is not None]
    return dict(commands.choices or {})


@pytest.mark.parametrize(("group", "commands"), GROUPS.items(), ids=GROUPS)
def test_each_group_has_the_commands_that_it_is_listed_with(group: str, commands: tuple[str, ...]) -> None:
    assert tuple(choices([commands[0]])) == commands
    assert [module.__name__ for module in groups(commands[0])] == [f"runtime.cli.{group}"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["--version"], ["nonsense"], ["--home"], ["--home", "status"], ["--home=x"], [""]],
)
def test_without_a_command_that_is_known_all_are_there(words: list[str]) -> None:
    assert set(choices(words)) == {command for commands in GROUPS.values() for command in commands}


@pytest.mark.parametrize(
    "words", [["status"], ["--home", "up", "status"], ["--home=up", "--config", "x", "status", "--json"]]
)
def test_a_folder_that_is_called_as_a_command_is_no_command(words: list[str]) -> None:
    assert set(choices(words)) == {"status"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_worker_is_started_without_a_parser_and_as_the_parser_would_start_it(name: str) -> None:
    words = ["worker", name]
    assert plain_worker(words) == parser(words).parse_args(words)
    for others in (["worker"], ["worker", "another"], ["worker", name, "--help"], ["--home", "/x", *words]):
        assert plain_worker(others) is None
