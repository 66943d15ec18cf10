"""Read errors: a store is never set aside for a disk that was away, and for a damaged file it is."""

from __future__ import annotations

import pytest

from runtime.core.ingest.read_errors import (
    LASTING_S,
    LOOK_EVERY_S,
    LOOKS,
    PASSES_S,
    Block,
    Look,
    ReadVerdict,
    UnreadableBlocks,
)

BAD, OTHER = Block("messages.db", 7), Block("messages.db", 8)
WELL = Look(frozenset(), 100, flushed=True)
PARTLY = Look(frozenset({BAD, OTHER}), 98, flushed=True)


def after(*looks: Look, every_s: float = LOOK_EVERY_S) -> ReadVerdict:
    """What is certain after these looks."""
    seen, now_s, verdict = UnreadableBlocks(), 1000.0, ReadVerdict()
    for look in looks:
        assert not verdict.damaged, "said too early"
        verdict, now_s = seen.add(look, now_s), now_s + every_s
    return verdict


def test_blocks_that_fail_at_every_look_are_gone_and_those_that_failed_at_some_are_not() -> None:
    sometimes = Look(frozenset({BAD}), 99, flushed=True)
    assert after(*[PARTLY] * (LOOKS - 1), sometimes) == ReadVerdict(True, {BAD})
    assert after(*[PARTLY] * (LOOKS - 1)) == ReadVerdict()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(WELL, id="it can be read again"),
        pytest.param(Look(frozenset({BAD, OTHER}), 0, flushed=True), id="nothing can be read"),
        pytest.param(Look(frozenset(), 0, flushed=False), id="no file can be opened"),
        pytest.param(Look(frozenset({BAD, OTHER}), 98, flushed=False), id="nothing is flushed"),
        pytest.param(Look(frozenset({Block("messages.db", 9)}), 99, flushed=True), id="another block fails"),
    ],
)
def test_a_disk_that_is_away_in_between_is_waited_for(other: Look) -> None:
    assert after(*[PARTLY] * (LOOKS - 1), other, *[PARTLY] * (LOOKS - 1)) == ReadVerdict()


def test_looks_in_quick_succession_prove_nothing() -> None:
    assert after(*[PARTLY] * 3 * LOOKS, every_s=LASTING_S / 20 / LOOKS) == ReadVerdict()


def test_what_can_be_read_and_makes_no_sense_twice_is_damaged() -> None:
    assert after(WELL) == ReadVerdict()
    assert after(WELL, WELL) == ReadVerdict(damaged=True)
    assert after(WELL, WELL, every_s=PASSES_S + 1) == ReadVerdict(), "a disk that hiccups now and then"
    assert after(WELL, PARTLY, WELL) == ReadVerdict()


def test_another_look_is_due_at_once_unless_a_part_was_just_found_unreadable() -> None:
    seen = UnreadableBlocks()
    seen.add(WELL, 10.0)
    assert seen.due(10.0)
    seen.add(PARTLY, 10.0)
    assert not seen.due(10.0 + LOOK_EVERY_S - 1)
    assert seen.due(10.0 + LOOK_EVERY_S)
