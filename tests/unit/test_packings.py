"""A message keeps the packing that it may have been sent with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.envelope import Compression, Packing
from runtime.core.delivery.packings import AHEAD, MOST_CHANGES, MOST_STREAMS, Packings
from runtime.core.message import StreamName

STREAM, OTHER = StreamName(None, "s"), StreamName("g", "s")
PLAIN, SMALL = Packing(), Packing(Compression.SMALLEST, 1000, 3, "site")
STORE = "uuid"


def next_life(packings: Packings) -> Packings:
    return Packings.of_json(json.loads(json.dumps(packings.to_json())))


def test_what_may_have_been_sent_keeps_its_packing_and_what_comes_behind_is_packed_as_configured() -> None:
    before = Packings()
    before.sending(STORE, STREAM, 10, PLAIN)
    found = next_life(before)
    assert found.of(STORE, STREAM, 10, SMALL) == PLAIN
    assert found.of(STORE, STREAM, 10 + AHEAD, SMALL) == PLAIN
    assert found.of(STORE, STREAM, 11 + AHEAD, SMALL) == SMALL
    assert found.of(STORE, OTHER, 10, SMALL) == SMALL, "another stream sent nothing"


def test_what_is_stored_after_the_restart_is_packed_as_configured_however_far_was_remembered_ahead() -> None:
    """Else a message that comes back from quarantine, under a new id, was cut as before."""
    before = Packings()
    before.sending(STORE, STREAM, 10, PLAIN)
    found = next_life(before)
    found.begin(STORE, 12)
    assert found.of(STORE, STREAM, 12, SMALL) == PLAIN
    assert found.of(STORE, STREAM, 13, SMALL) == SMALL


def test_a_store_that_was_begun_anew_has_nothing_that_was_sent() -> None:
    before = Packings()
    before.sending(STORE, STREAM, 10, PLAIN)
    assert next_life(before).of("another", STREAM, 10, SMALL) == SMALL
    before.sending("another", STREAM, 1, SMALL)
    assert next_life(before).of("another", STREAM, 1, PLAIN) == SMALL


def test_many_messages_are_remembered_by_few_writes() -> None:
    packings, writes = Packings(), 0
    for id in range(10 * AHEAD):
        packings.sending(STORE, STREAM, id, PLAIN)
        if packings.changed:
            writes += 1
            packings.to_json()
    assert writes <= 10


def test_streams_without_end_do_not_fill_the_file() -> None:
    packings = Packings()
    for n in range(2 * MOST_STREAMS):
        packings.sending(STORE, StreamName(None, str(n)), n, PLAIN)
    assert len(packings.to_json()["streams"]) == MOST_STREAMS


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"store": 1},
        {"store": "u", "streams": [[1]]},
        {"store": "u", "streams": [["g", "s", [[1, "ODD", 0, 0, None]]]]},
    ],
)
def test_what_is_damaged_counts_as_nothing(said: Any) -> None:
    assert Packings.of_json(said).of("u", STREAM, 1, SMALL) == SMALL


@given(st.lists(st.tuples(st.integers(1, 2_000), st.sampled_from([PLAIN, SMALL])), max_size=60))
def test_a_repeat_in_any_later_life_is_packed_as_the_first_time(lives: list[tuple[int, Packing]]) -> None:
    """Each life sends one message under its configuration, the ids in any order."""
    packings = Packings()
    sent: dict[int, Packing] = {}
    changes = 0
    before = None
    for id, configured in lives:
        packings = next_life(packings)
        changes += configured != before
        before = configured
        packing = packings.of(STORE, STREAM, id, configured)
        packings.sending(STORE, STREAM, id, configured)
        if changes <= MOST_CHANGES:
            assert sent.setdefault(id, packing) == packing


def test_a_stream_that_packs_from_now_on_sends_alone_what_may_have_been_sent_alone() -> None:
    alone, packed = Packing(), Packing(packs=True)
    before = Packings()
    before.sending(STORE, STREAM, 10, alone)
    found = next_life(before)
    found.begin(STORE, 500, 3)
    assert not found.of(STORE, STREAM, 10, packed).packs and not found.packed(STREAM)
    assert found.of(STORE, STREAM, 500, packed).packs
    found.sending(STORE, STREAM, 500, packed)
    assert next_life(found).packed(STREAM)


def test_what_has_left_the_store_is_forgotten_at_the_start() -> None:
    before = Packings()
    before.sending(STORE, STREAM, 10, Packing(packs=True))
    found = next_life(before)
    found.begin(STORE, 400, 300)
    assert not found.packed(STREAM)
