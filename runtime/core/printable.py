"""Foreign text for an operator's terminal: every character is visible, and the length is bounded. Pure.

A proxy, a hub, a producer or an operator elsewhere chose it. A newline would forge a row of a table, an
escape sequence would command the terminal, and a mark of writing direction would reorder what is read.
"""

from __future__ import annotations

MOST_CHARACTERS = 2_000
"""Most characters that are shown: longer than any sentence of ours, shorter than a screen."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """One row: invisible characters are escaped as in Python; a longer text is cut, with its length."""
    cut = "" if len(text) <= most else f"... ({len(text)} characters)"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most]) + cut
