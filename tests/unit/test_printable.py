"""Words of others are one row, in which every character can be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli.terminal import wants_colour
from runtime.core.printable import MOST_CHARACTERS, printable


@given(st.text(alphabet=st.characters(), max_size=3 * MOST_CHARACTERS))
def test_whatever_the_text_it_is_one_printable_row_with_an_end(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or shown == ""
    assert len(shown) <= 10 * MOST_CHARACTERS + 30


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nHEALTHY", r"a\nHEALTHY"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202edef", r"abc\u202edef"),
        ("a\u2028b\u200bc", r"a\u2028b\u200bc"),
        ("\udcff", r"\udcff"),
        ("Zürich, 東京", "Zürich, 東京"),
    ],
)
def test_what_cannot_be_seen_is_escaped_and_what_can_is_not(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_text_without_end_is_cut_and_says_how_long_it_was() -> None:
    assert printable("x" * 5_000, 10) == "x" * 10 + "... (5000 characters)"


@pytest.mark.parametrize(
    ("terminal", "environ", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_colour_is_where_a_terminal_wants_it(terminal: bool, environ: dict[str, str], wanted: bool) -> None:
    assert wants_colour(terminal, environ) is wanted
