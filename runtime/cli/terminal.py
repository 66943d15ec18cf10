"""Output to a person's terminal: every command prints through this module.

A row is one row, also with foreign text in it (see `printable`). In a terminal it is folded to the
width and may have a colour; in a pipe it is one line without colour, for `grep`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from runtime.core.printable import printable

COLOURS = {"green": 32, "yellow": 33, "red": 31, "bold": 1}
LEAST_WIDTH = 40
"""The least width to fold to: a folded row of three words a line is hard to read."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """The text of one row, and its form in a terminal."""

    text: str
    accent: str = ""
    """The beginning of the row, which is coloured."""
    colour: str = ""
    indent: int = 0
    """The column where the further lines of a folded row begin."""


def write_lines(*rows: TextRow | str) -> None:
    """Print on standard output, now."""
    for row in rows:
        _write(sys.stdout, row)


def write_error(sentence: str) -> None:
    """Print one sentence on standard error."""
    _write(sys.stderr, f"edgectl: {sentence}")


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Print for a program: JSON itself escapes what is not printable."""
    print(json.dumps(value, indent=indent, default=str), flush=True)


def draw(picture: str) -> None:
    """Print a picture of our own, of several rows."""
    sys.stdout.write(picture)
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> list[str]:
    """Rows with aligned columns. Where they do not fit, the columns of `spare` are left out, one by one."""
    left_out: list[str] = []
    for name in ("", *spare):
        left_out.append(name)
        kept = [i for i, title in enumerate(head) if title not in left_out]
        widths = {i: max(len(printable(row[i])) for row in [head, *rows]) for i in kept}
        if sum(widths.values()) + 2 * (len(kept) - 1) <= width(sys.stdout):
            break
    return ["  ".join(f"{printable(row[i]):<{widths[i]}}" for i in kept).rstrip() for row in [head, *rows]]


def width(stream: TextIO) -> float:
    """Columns of the terminal; unlimited in a pipe."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns) if _is_terminal(stream) else float("inf")


def wants_colour(terminal: bool, environ: Mapping[str, str]) -> bool:
    """True if colour was not refused: by no-color.org's variable, or by a terminal that knows none."""
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def _write(stream: TextIO | None, row: TextRow | str) -> None:
    if stream is None:  # closed by the parent
        return
    row = TextRow(row) if isinstance(row, str) else row
    text = _folded(printable(row.text), width(stream), row.indent)
    if row.colour and text.startswith(row.accent) and wants_colour(_is_terminal(stream), os.environ):
        text = f"\x1b[{COLOURS[row.colour]}m{row.accent}\x1b[0m{text.removeprefix(row.accent)}"
    print(text, file=stream, flush=True)


def _folded(text: str, columns: float, indent: int) -> str:
    if len(text) <= columns:
        return text
    most = int(columns)
    hang = " " * (indent if indent < most // 2 else 4)
    lines = textwrap.wrap(text, most, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
