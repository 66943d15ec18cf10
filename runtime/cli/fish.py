"""Completion for fish, made from the command line itself: shtab supports bash, zsh and tcsh."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "edgectl"
_FUNCTIONS = """\
# The commands typed so far, without options and their values.
function __edgectl_path
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
        else if contains -- $word {valued}
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end
function __edgectl_at
    set -l path (string join ' ' -- (__edgectl_path))
    test "$path" = "$argv[1]"
end
function __edgectl_under
    set -l path (string join ' ' -- (__edgectl_path))
    test "$path" = "$argv[1]"; or string match -q -- "$argv[1] *" "$path"
end
complete -c edgectl -f
"""


def script(root: argparse.ArgumentParser) -> str:
    """The output of `edgectl completion fish`."""
    parsers = dict(_parsers(root, ()))
    valued = {flag for command in parsers.values() for action in command._actions for flag in _valued(action)}
    lines = [line for path, command in parsers.items() for line in _lines(path, command)]
    return _FUNCTIONS.format(valued=" ".join(sorted(valued))) + "\n".join(lines) + "\n"


def _parsers(
    command: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Each command and subcommand with its parser."""
    yield path, command
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _parsers(below, (*path, name))


def _lines(path: tuple[str, ...], command: argparse.ArgumentParser) -> Iterator[str]:
    here = " ".join(path)
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield _complete("__edgectl_at", here, "-a", choice.dest, choice.help)
        elif action.option_strings:
            yield _option(here, action)
        elif action.choices:
            for value in action.choices:
                yield _complete("__edgectl_at", here, "-a", str(value), action.help)


def _option(here: str, action: argparse.Action) -> str:
    flags = []
    for flag in action.option_strings:
        flags += ["-l", flag[2:]] if flag.startswith("--") else ["-s", flag[1:]]
    if _valued(action):
        if action.choices:
            flags += ["-x", "-a", _quoted(" ".join(map(str, action.choices)))]
        else:
            flags.append("-rF" if action.type is Path else "-x")
    condition = _quoted(f"__edgectl_under {_quoted(here)}") if here else ""
    return _joined(
        "complete -c", PROGRAM, *(("-n", condition) if here else ()), *flags, *_description(action.help)
    )


def _complete(function: str, here: str, flag: str, word: str, meaning: str | None) -> str:
    condition = _quoted(f"{function} {_quoted(here)}")
    return _joined("complete -c", PROGRAM, "-n", condition, flag, _quoted(word), *_description(meaning))


def _valued(action: argparse.Action) -> list[str]:
    """The flags that take a value."""
    return list(action.option_strings) if action.nargs != 0 else []


def _description(meaning: str | None) -> list[str]:
    if not meaning or meaning == argparse.SUPPRESS:
        return []
    return ["-d", _quoted(meaning.replace("%(default)g", "").replace("%(default)s", ""))]


def _joined(*words: str) -> str:
    return " ".join(words)


def _quoted(text: str) -> str:
    """Quoted for fish: within single quotes only these two characters have a meaning."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
