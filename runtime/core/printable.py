"""Words of others for a person's terminal: every character can be seen, and there is an end to them. Pure.

A proxy, a hub, a producer or an operator elsewhere chose them. A newline would forge a row of a table, an
escape sequence would command the terminal, and a mark of writing direction would reorder what is read.
"""

from __future__ import annotations

MOST_CHARACTERS = 2_000
"""Longer than any sentence of ours, shorter than a screen."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """One row: what cannot be seen is escaped as in Python, and what is too long is cut, with its length."""
    cut = "" if len(text) <= most else f"... ({len(text)} characters)"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most]) + cut
