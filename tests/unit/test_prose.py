"""The house's language: what a thing is, in the trade's words, in sentences with a subject."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from tests.support.rooms import nodes, source

PACKAGE = Path(runtime.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
INDEFINITE = re.compile(r"\b(whoever|nobody|somebody|everybody|anybody)\b", re.IGNORECASE)
"""Sentences with these have no subject that a reader could look up: a producer, a worker, an operator."""
DIALECT = re.compile(r"\b(anew|for good)\b", re.IGNORECASE)
"""Words of the first days; "again" and "for ever" are the trade's."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and comment."""
    text = source(path)
    if not (INDEFINITE.search(text) or DIALECT.search(text)):
        return  # nothing that a closer look would find
    for node in nodes(path):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_sentence_has_a_subject_and_the_trades_words(path: Path) -> None:
    for line, text in prose(path):
        for found in (INDEFINITE.search(text), DIALECT.search(text)):
            assert found is None, f"{path.name}:{line}: say who or what, not {found[0]!r}"


def test_a_comment_and_a_docstring_would_be_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Whoever reads this."""\nx = 1  # for good\n"""Of x, anew."""\ny = "nobody"\n')
    assert [line for line, text in prose(module) if INDEFINITE.search(text) or DIALECT.search(text)] == [
        1,
        3,
        2,
    ]
