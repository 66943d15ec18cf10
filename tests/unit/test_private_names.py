"""Tests go in by the front door: what they reach for inside is named here, and why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
OF_LIBRARIES = {
    "_MID_LIMIT_CHARACTERS", "_SubParsersAction", "_actions", "_exit", "_fields", "_getframe", "_make",
    "_max_inflight_messages", "_mid_generate", "_migrations",
    "_op_manager", "_option_string_actions", "_paho",
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
    "_client": "the library's client below the connection: its line is cut, its ids come round",
    "_build": "the same",
    "_last_mid": "the same",
    "_credentials": "what upload has in hand, which nothing outside shows: no status holds a secret",
    "_watch": "the change of edge.toml is taken now, not at the next look",
    "_reconfigure": "the same",
    "_look_s": "the next look is due now",
    "_bound": "the same",
    "_holders": "the next look over 20,000 holders is due at once",
    "_look_at": "the same",
    "_hold": "a report has arrived and waits, which nothing outside shows",
    "_next_id": "a store whose ids are far on, without millions of rows",
    "_now_s": "a read that time cuts short at a row of the test's choice",
    "_receive": "requests stay where they are between receiving and the commit",
    "_manager": "the store is damaged at a moment that only the test knows",
    "_usable": "the same store, from inside its manager",
    "_programs": "a death without an end of the process: what the kernel would close is closed",
    "_hub": "the same",
    "_results": "the same",
    "_processes": "the same",
    "_resources": "the same",
    "_changed": "a death at a commit that has something to write",
    "_done": "the same",
    "_look": "the same",
    "_perform": "an action in a state of supervisord that lasts a moment",
    "_gate": "a file is held before a block of the test's choice",
    "_listen": "the words of a child process that no service would send",
    "_grant": "the platform's answer itself, without a platform",
    "_registration": "the same",
    "_levels": "memory is bounded: the size of what is kept is no figure of the status",
    "_streams": "the same",
    "_booked": "the same",
    "_usage": "the same",
    "_waiting": "the same",
    "_under_way": "the same",
    "_told": "the same",
    "_logged_s": "the same",
    "_looks": "the same",
    "_slots": "the same",
    "_thread": "a thread is still there, and which it is has no name outside",
    "_names": "the same",
    "_asked": "a program's socket is given nonsense behind its back",
    "_socket": "the same",
    "_sockets": "the endpoint that a worker bound, where the test chose none",
    "_path": "the store of a worker that the test built",
    "_heartbeat": "a report of progress is due now",
    "_figures": "the same",
    "_record": "the same, without the loop",
    "_read": "one read without the loop",
    "_reporter": "the same",
    "_call": "the clock of supervisord, which no command of ours shows",
    "_KINDS": "every kind of request has to be tried",
    "_PARSERS": "the same",
}
"""Why a test has no other way."""
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


def test_what_tests_reach_for_inside_has_a_reason() -> None:
    used = [(where, name) for where, name in private_uses() if name.startswith("_") and name[1:2] != "_"]
    known = OF_LIBRARIES | REASONS.keys()
    assert [use for use in used if use[1] not in known] == [], "go in by the front door, or say why not"
    assert known - {name for _, name in used} == set(), "a reason that is none any more"
