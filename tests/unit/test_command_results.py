"""What the cloud is told of an ended command, and how long it is remembered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runtime.core.management.command_record import CommandRow, CommandState, Instant
from runtime.core.management.command_results import forgettable, result_message
from runtime.core.moment import Moment

DONE = CommandRow(
    7,
    "9f",
    "recipe",
    b"payload",
    Moment(1e9, 100.0, "boot"),
    state=CommandState.DONE,
    attempts=2,
    status=200,
    ended=Moment(1e9, 130.0, "boot"),
    ended_token=2,
    result_stored=True,
)
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (b'{"loaded":true}', {"result": {"loaded": True}}),
        (b"fine", {"result": "fine"}),
        (b"NaN", {"result": "NaN"}),
        (b"\xff\x00", {"result_hex": "ff00"}),
        (b"", {}),
    ],
)
def test_the_message_says_how_a_command_ended(result: bytes, said: dict[str, object]) -> None:
    assert json.loads(result_message(replace(DONE, result=result))) == {
        "command": 7,
        "id": "9f",
        "name": "recipe",
        "state": "done",
        "status": 200,
        "attempts": 2,
        "age_s": 30.0,
        **said,
    }


def test_the_message_says_why_and_for_which_leaf_and_that_no_clock_can_tell_the_age() -> None:
    ended = replace(DONE, reason="no", leaf="press-7", ended=Moment(0.0, 50.0, "another"))
    message = json.loads(result_message(ended))
    assert (message["reason"], message["leaf"], message["age_s"]) == ("no", "press-7", None)


@pytest.mark.parametrize(
    ("days", "newer", "forgotten"),
    [
        (1.0, 50_000, False),  # the hub may repeat it
        (1.0, 100_000, True),
        (3.0, 9_999, False),
        (3.0, 10_000, True),
        (31.0, 0, True),
    ],
)
def test_an_ended_command_is_remembered_while_the_hub_may_repeat_it(
    days: float, newer: int, forgotten: bool
) -> None:
    now = Instant(Moment(1e9, 130.0 + days * DAY_S, "boot"), True)
    assert forgettable(DONE, newer, now) is forgotten
    for kept in (
        replace(DONE, result_stored=False),
        replace(DONE, state=CommandState.DEAD),
        replace(DONE, state=CommandState.UNCERTAIN),
        replace(DONE, state=CommandState.QUEUED),
    ):
        assert not forgettable(kept, newer, now)
    dropped = replace(DONE, state=CommandState.DEAD, dropped=True)
    assert forgettable(dropped, newer, now) is forgotten, "an operator is done with it"


def test_what_no_clock_can_date_is_forgotten_by_number() -> None:
    now = Instant(Moment(1e9, 5.0, "another"), False)
    assert not forgettable(DONE, 9_999, now)
    assert forgettable(DONE, 10_000, now)
