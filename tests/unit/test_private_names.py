"""Tests go in by the front door: what they reach for inside is named here, and why, and does not grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
OF_LIBRARIES = {
    "_MID_LIMIT_CHARACTERS", "_SubParsersAction", "_actions", "_exit", "_getframe", "_make",
    "_max_inflight_messages", "_migrations", "_op_manager", "_option_string_actions", "_paho",
    "_pending_operation_callbacks", "_replace", "_send_connect", "_send_pingreq", "_send_puback", "_sock",
    "_ssl_protocol", "_state", "_transport", "_unknown_operation_completions",
}  # fmt: skip
"""Of Python and of libraries, some of which have no other name for it: what we rely on is looked at."""
REASONS = {
    "_db": "damages rows on the connection of a store at work, and looks at what it left there",
    "_retry_for_s": "has a producer give up at once, in the midst of its life",
    "_numbering": "two processes that number alike: the damage that the keys are for",
    "_next": "the same",
    "_lookups": "the name servers that hang are the test's own",
    "_failed_s": "makes an address one that failed just now",
    "_acknowledge": "the negative control: acknowledges before it stores",
    "_store": "the same; and ingest without its store",
    "_last_input_at_s": "a hub that counts whole packets only",
    "_expires_at_s": "a token that ends now",
    "_handle": "counts the packets of a connection of the stand-in",
    "_on_acknowledged": "the negative control of the model: a wrong rule in the place of the right one",
    "_on_desired": "the same",
    "_on_program": "the same",
    "_requests_due": "the same",
    "_handed_out": "the same",
    "_answered": "the same",
    "_callers_over": "the same",
    "_gone": "the same",
    "_received": "the same",
    "_taken": "the same",
    "_KINDS": "every kind of request has to be tried",
    "_PARSERS": "the same",
}
"""Why a test has no other way."""
MOST_OTHERS = 110
"""Uses without a reason yet; it may only fall: give the part a public name, or go in by the front door."""


PRIVATE = re.compile(
    r"(?<!self)(?<!cls)\.\s*_[a-zA-Z]|^from runtime[\w.]* import (?:\([^)]*|.*)\b_[a-zA-Z]", re.MULTILINE
)
"""What a file has where a private name may be used: most have none, and are not parsed."""


def private_uses() -> Iterator[tuple[str, str]]:
    """(where, name) of every private name of another object that a test uses."""
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text()
        if not PRIVATE.search(text):
            continue  # nothing that a closer look would find
        file = path.relative_to(TESTS)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and not is_own(node.value):
                yield f"{file}:{node.lineno}", node.attr
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("runtime"):
                yield from ((f"{file}:{node.lineno}", name.name) for name in node.names)


def is_own(value: ast.expr) -> bool:
    """Whether an attribute of `value` is one of the object that the code belongs to."""
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def test_what_tests_reach_for_inside_has_a_reason_or_becomes_less() -> None:
    used = [(where, name) for where, name in private_uses() if name.startswith("_") and name[1:2] != "_"]
    others = [use for use in used if use[1] not in OF_LIBRARIES | REASONS.keys()]
    assert len(others) <= MOST_OTHERS, "\n".join(f"{where} {name}" for where, name in others)
