"""Output to a person's terminal: every command prints through this module.

A row is one row, also with foreign text in it (see `printable`). In a terminal it is folded to the
width and may have a colour; in a pipe it is one line without colour, for `grep`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

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


class Screen:
    """A screen of our own in the terminal: what stood there before comes back, however the command ends."""

    LOOK_EVERY_S = 0.1
    """How soon a change of its size is noticed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._size = shutil.get_terminal_size()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Screen:
        for number in (signal.SIGTERM, signal.SIGHUP):  # by default they would end us without the way back
            self._handlers[number] = signal.signal(number, _end)
        self._put("\x1b[?1049h\x1b[?25l")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._put("\x1b[?25h\x1b[?1049l")
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def draw(self, rows: Sequence[TextRow]) -> None:
        """Show these rows, one a line, as many as there is room for; the last line says how many are left."""
        self._size = shutil.get_terminal_size()
        columns, lines = self._size
        shown = list(rows)
        if len(shown) > lines:
            shown = [*shown[: lines - 1], TextRow(f"... {len(rows) - lines + 1} more")]
        text = "\x1b[K\r\n".join(_coloured(row, printable(row.text)[:columns], self._stream) for row in shown)
        self._put(f"\x1b[H{text}\x1b[K\x1b[J")

    def wait(self, seconds: float) -> bool:
        """Wait so long and return True; return False at once where the size of the terminal changes."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self.LOOK_EVERY_S))
            if shutil.get_terminal_size() != self._size:
                return False
        return True

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


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
    print(_coloured(row, text, stream), file=stream, flush=True)


def _coloured(row: TextRow, text: str, stream: TextIO) -> str:
    """The text of the row with its accent in colour, where the terminal shows colours."""
    if not (row.colour and text.startswith(row.accent) and wants_colour(_is_terminal(stream), os.environ)):
        return text
    return f"\x1b[{COLOURS[row.colour]}m{row.accent}\x1b[0m{text.removeprefix(row.accent)}"


def _folded(text: str, columns: float, indent: int) -> str:
    if len(text) <= columns:
        return text
    most = int(columns)
    hang = " " * (indent if indent < most // 2 else 4)
    lines = textwrap.wrap(text, most, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
