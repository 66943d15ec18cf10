"""The demo's verdict has to notice every kind of broken promise."""

from __future__ import annotations

import pytest

from runtime.demo.tally import Arrival, CommandTally, command_table, count, table


def arrivals(*numbers: int) -> list[Arrival]:
    return [Arrival(("p", n), f"id-{n}") for n in numbers]


ACKNOWLEDGED = {("p", n) for n in range(3)}


def test_all_well() -> None:
    tally = count(ACKNOWLEDGED, 3, arrivals(0, 1, 2), {"upload": 1})
    assert tally.ok
    assert "upload 1" in table(tally)[-1]


def test_a_lost_message_is_noticed() -> None:
    tally = count(ACKNOWLEDGED, 3, arrivals(0, 2), {})
    assert not tally.ok
    assert tally.lost == (("p", 1),)


def test_a_ledger_that_does_not_close_is_noticed() -> None:
    tally = count(ACKNOWLEDGED, 3, arrivals(0, 1, 2), {}, difference=1)
    assert not tally.ok
    assert any("unaccounted for          1" in line for line in table(tally))


def test_a_repeat_of_a_known_id_is_a_duplicate_and_no_harm() -> None:
    tally = count(ACKNOWLEDGED, 3, arrivals(0, 1, 0, 1, 2), {})
    assert tally.ok
    assert tally.repeated == 2


def test_a_message_under_two_ids_was_stored_twice() -> None:
    tally = count(ACKNOWLEDGED, 3, [*arrivals(0, 1, 2), Arrival(("p", 1), "another")], {})
    assert not tally.ok
    assert tally.twice == (("p", 1),)


def test_first_arrivals_out_of_order_are_noticed() -> None:
    tally = count(ACKNOWLEDGED, 3, arrivals(0, 2, 1), {})
    assert not tally.ok
    assert tally.disorder == (("p", 1),)


def test_streams_of_one_sender_may_overtake_each_other() -> None:
    order = [(0, "cpu"), (2, "memory"), (1, "cpu")]
    tally = count(ACKNOWLEDGED, 3, [Arrival(("p", n), f"id-{n}", stream) for n, stream in order], {})
    assert tally.ok


def test_disorder_within_a_stream_is_noticed_between_others() -> None:
    order = [(1, "cpu"), (2, "memory"), (0, "cpu")]
    tally = count(ACKNOWLEDGED, 3, [Arrival(("p", n), f"id-{n}", stream) for n, stream in order], {})
    assert tally.disorder == (("p", 0),)


def test_what_nobody_was_told_is_stored_is_no_part_of_the_promise() -> None:
    tally = count(ACKNOWLEDGED, 4, arrivals(0, 1, 2, 3), {})
    assert not tally.ok  # producers here wait for every acknowledgement, so it means a stray message
    assert tally.unknown == (("p", 3),)


@pytest.mark.parametrize(
    ("tally", "ok", "row"),
    [
        (CommandTally(3, 3, 0, True), True, "commands done            3"),
        (CommandTally(3, 2, 0, True), False, "commands lost            1"),
        (CommandTally(3, 3, 1, True), False, "done twice               1"),
        (CommandTally(3, 3, 0, False), False, "twin equal              no"),
    ],
)
def test_a_command_that_is_lost_or_done_twice_is_noticed(tally: CommandTally, ok: bool, row: str) -> None:
    assert tally.ok is ok
    assert any(row in line for line in command_table(tally))
