"""A crash report says why, and never a secret: however it is held, named, nested, cut or raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.crash import KEEP_BYTES, count_crashes, describe, record_crash
from runtime.adapters.process.known_secrets import hidden
from runtime.adapters.process.logs import redact
from runtime.core.secret import Secret
from runtime.layout import Layout

TOKEN = "Zm9vYmFyYmF6cXV4MTIzNDU2"
HEX = "0123456789abcdef0123456789abcdef"
PLAIN = "correct horse battery staple"
"""Looks like nothing: only its name tells."""
IN_HAND = "nobody would take this for one"
SAS = f"SharedAccessSignature sr=hub%2Fdevices%2Fd&sig={TOKEN}%3D&se=1795537849"


@dataclass
class Held:
    token: str


class Talkative:
    def __repr__(self) -> str:
        return f"<session {TOKEN}>"


def report(crash: Callable[[], object]) -> dict[str, Any]:
    try:
        crash()
    except Exception as exc:
        return describe("upload", exc, exc.__traceback__)
    raise AssertionError("it did not crash")


def local(value: object) -> Callable[[], object]:
    def crash() -> None:
        harmless = value
        raise KeyError(len(repr(harmless)))

    return crash


HELD = {
    "a text": TOKEN,
    "a sas": SAS,
    "bytes": f"Authorization: DeviceToken {TOKEN}".encode(),
    "hexadecimal": HEX,
    "in a list in a dict": {"a": [{"b": (TOKEN,)}]},
    "by the name of its key": {"registrationToken": PLAIN},
    "by the name of its key in JSON": json.dumps({"registrationToken": PLAIN}),
    "by the name of its key in JSON in bytes": json.dumps({"password": PLAIN}).encode(),
    "by the name of a field": Held(PLAIN),
    "in a repr of its own": Talkative(),
    "a Secret": Secret(IN_HAND),
    "a Secret made plain": Secret(IN_HAND).reveal(),
    "a connection string": f"HostName=h;DeviceId=d;SharedAccessKey={TOKEN}=",
    "in an address": f"https://blob/c?sv=1&sig={TOKEN}",
    **{f"cut after {n}": "x" * n + " " + SAS for n in range(0, 200, 7)},
    **{f"bare, cut after {n}": "x" * n + " " + TOKEN for n in range(120, 170, 3)},
    **{f"cut after {n} bytes": b"x" * n + b" " + SAS.encode() for n in range(0, 200, 7)},
}


def leaks(text: str) -> list[str]:
    """Every piece of a secret that is long enough to be of use."""
    pieces = [secret[i : i + 9] for secret in (TOKEN, HEX, PLAIN, IN_HAND) for i in range(len(secret) - 8)]
    return [piece for piece in pieces if piece in text]


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_local_variable_shows_no_secret(held: object) -> None:
    hidden(Secret(IN_HAND))  # just now: of those that came in only so many are known
    assert leaks(json.dumps(report(local(held)))) == []


@pytest.mark.parametrize(
    "name", ["token", "sas", "password", "device_key", "authorization", "the_credentials"]
)
def test_a_variable_with_a_telling_name_is_not_shown_at_all(name: str) -> None:
    found = report(lambda: exec(f"{name} = {PLAIN!r}; 1 / 0", {}, {}))
    assert found["frames"][-1]["locals"] == {name: "***"}, "and with nothing else about it"


def test_the_words_of_an_exception_and_of_all_it_was_raised_from_show_no_secret() -> None:
    def crash() -> None:
        try:
            try:
                raise ValueError(f"refused {TOKEN}")
            except ValueError as exc:
                raise OSError(f"said {SAS}") from exc
        except OSError:
            raise RuntimeError({"token": PLAIN})  # noqa: B904  # raised from it without saying so

    found = report(crash)
    assert leaks(json.dumps(found)) == []
    assert len(found["causes"]) == 2


def test_what_it_was_raised_from_is_told() -> None:
    def crash() -> None:
        try:
            raise ValueError("the cause")
        except ValueError as exc:
            raise RuntimeError("the end") from exc

    found = report(crash)
    assert (found["reason"], found["causes"]) == ("RuntimeError: the end", ["ValueError: the cause"])


def test_exceptions_raised_from_each_other_in_a_circle_come_to_an_end() -> None:
    def crash() -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    assert report(crash)["causes"] == ["ValueError: second"]


def test_a_secret_that_was_in_hand_is_known_wherever_it_shows_up_again() -> None:
    """Also in a log line, and without any name beside it."""
    text = hidden(Secret(IN_HAND)).reveal()
    assert redact(f"the hub says: {text}?") == "the hub says: ***?"
    assert redact("a short one: " + hidden(Secret("yes")).reveal()) == "a short one: yes"


@pytest.mark.parametrize("name", ["registrationToken", "connectionString"])
def test_a_token_in_an_answer_that_nobody_has_read_yet_is_known_by_its_field(name: str) -> None:
    answer = {name: "abc def.0123", "expirationTime": None}
    for text in (repr(answer), json.dumps(answer), json.dumps(json.dumps(answer)), repr(json.dumps(answer))):
        assert "0123" not in redact(text) and "expirationTime" in redact(text)


def test_a_value_that_cannot_even_be_shown_does_not_hide_the_crash() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def crash() -> None:
        rude: list[Rude] = [Rude()]
        raise KeyError(len(rude))

    found = report(crash)
    assert found["reason"] == "KeyError: 1"
    assert "Rude" in found["frames"][-1]["locals"]["rude"]


def test_ten_thousand_crashes_take_no_more_room_than_two_files(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    found = report(local("x" * 100_000))
    for number in range(2000):
        record_crash(layout, {**found, "reason": f"KeyError: {number}"})
    files = list(layout.log.iterdir())
    size = len(json.dumps(found)) + 20
    assert len(files) == 2 and sum(f.stat().st_size for f in files) <= 2 * (KEEP_BYTES + size)
    count, last = count_crashes(layout)
    assert 100 < count < 2000 and last == "upload: KeyError: 1999"
