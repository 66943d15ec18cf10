"""The memory of a producer never says "stored" of what was not added, and is bounded."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest import sequences
from runtime.core.ingest.sequences import CONTENT_BITS, Fate, Sequences, content_of


def test_an_honest_producer_has_one_interval_however_long_it_runs() -> None:
    memory = Sequences()
    for sequence in range(1, 1001):
        memory.add(sequence, sequence, 5000 + sequence)
    assert memory.seen == [(1, 1000)]
    assert memory.recent == [(1, 1000, 5001)]
    assert memory.expected == 1001


def test_a_message_that_fell_into_a_gap_is_new_when_it_comes_late() -> None:
    memory = Sequences()
    memory.add(1, 3, 10)
    memory.add(7, 9, 20)
    assert [memory.fate(s) for s in (3, 4, 6, 7)] == [Fate.STORED, Fate.NEW, Fate.NEW, Fate.STORED]
    memory.add(4, 6, 30)
    assert memory.seen == [(1, 9)]


def test_ids_of_a_repeat_are_the_first_ones() -> None:
    memory = Sequences()
    memory.add(1, 3, 10)
    memory.add(4, 5, 90)
    assert [memory.id_of(s) for s in (1, 3, 4, 5, 6)] == [10, 12, 90, 91, None]


def test_beyond_the_bound_the_oldest_is_forgotten_and_never_called_new_or_stored() -> None:
    memory = Sequences()
    for number in range(sequences.MAX_INTERVALS + 1):
        memory.add(10 * number, 10 * number, number)
    assert len(memory.seen) == sequences.MAX_INTERVALS
    assert memory.fate(0) is Fate.FORGOTTEN
    assert memory.fate(5) is Fate.NEW  # above the floor: certainly never stored


def test_damaged_bytes_are_refused() -> None:
    memory = Sequences()
    memory.add(1, 3, 10)
    for broken in (b"", memory.pack()[:-8], memory.pack()[:9]):
        with pytest.raises(ValueError):
            Sequences.unpack(broken)


def test_no_flipped_bit_calls_stored_what_never_came() -> None:
    """It would be acknowledged, and never be kept."""
    memory = Sequences()
    for number in range(4):
        memory.add(10 * number, 10 * number + 3, 100 * number)
    packed = memory.pack()
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            Sequences.unpack(bytes(flipped))


def test_a_memory_of_before_there_was_a_checksum_is_read() -> None:
    memory = Sequences()
    memory.add(1, 3, 10)
    assert Sequences.unpack(array("q", [0, 1, 1, 3, 1, 3, 10]).tobytes()).pack() == memory.pack()


runs = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=60)


@given(runs)
def test_memory_agrees_with_a_plain_dictionary(asked: list[tuple[int, int]]) -> None:
    """Whatever is asked for in whatever order: what is new is added, and the model is a dict."""
    memory, model = Sequences(), {}
    next_id = 100
    for first, count in asked:
        for sequence in range(first, first + count):
            assert memory.fate(sequence) is (Fate.STORED if sequence in model else Fate.NEW)
            if sequence not in model:
                memory.add(sequence, sequence, next_id)
                model[sequence] = next_id
                next_id += 1
        memory = Sequences.unpack(memory.pack())
    for sequence, stored_id in model.items():
        assert memory.id_of(sequence) in (stored_id, None)
    lows = [low for low, _ in memory.seen]
    assert lows == sorted(lows)
    assert all(high + 1 < low for (_, high), (low, _) in zip(memory.seen, memory.seen[1:], strict=False))


@given(st.lists(st.integers(0, 400), max_size=300))
def test_with_a_small_memory_nothing_stored_is_ever_called_new(asked: list[int]) -> None:
    """Six intervals instead of 64, so that forgetting comes at once."""
    before, sequences.MAX_INTERVALS = sequences.MAX_INTERVALS, 6
    try:
        memory, model = Sequences(), set()
        for sequence in asked:
            fate = memory.fate(sequence)
            assert fate is not Fate.NEW or sequence not in model
            assert fate is not Fate.STORED or sequence in model
            if fate is Fate.NEW:
                memory.add(sequence, sequence, 1)
                model.add(sequence)
            assert len(memory.seen) <= 6
    finally:
        sequences.MAX_INTERVALS = before


def test_a_request_with_another_content_under_remembered_sequences_is_another_one() -> None:
    memory = Sequences()
    memory.add(1, 3, 10)
    memory.note_content(1, 3, 7)
    memory.add(4, 4, 13)
    memory.note_content(4, 4, 8)
    memory = Sequences.unpack(memory.pack())
    assert memory.is_another(1, 3, 8) and memory.is_another(4, 4, 7)
    assert not memory.is_another(1, 3, 7) and not memory.is_another(4, 4, 8)
    assert not memory.is_another(1, 2, 8), "other bounds are no evidence"
    memory.store_again(4, 4, 99)
    memory.note_content(4, 4, 9)
    assert memory.id_of(4) == 99 and not memory.is_another(4, 4, 9)


contents = st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 2**CONTENT_BITS - 2)), max_size=150)


@given(st.integers(1, 2**61), contents)
def test_the_latest_contents_come_back_from_the_disk(first: int, asked: list[tuple[int, int]]) -> None:
    memory, told = Sequences(), []
    for count, content in asked:
        last = first + count - 1
        memory.add(first, last, first)
        memory.note_content(first, last, content)
        told.append((first, last, content))
        first = last + 1
    again = Sequences.unpack(memory.pack())
    assert again.contents == memory.contents == told[-sequences.MAX_CONTENTS :]
    assert again.recent == memory.recent
    assert len(memory.pack()) < 400, "it is written with every commit"


def test_an_older_runtime_reads_a_memory_with_contents() -> None:
    """It takes all behind the intervals for runs: those hold no sequence, and the true ones come last."""
    memory = Sequences()
    memory.add(1, 3, 10)
    memory.note_content(1, 3, 7)
    flat = array("q", memory.pack())
    runs = list(zip(flat[4::3], flat[5::3], flat[6::3], strict=True))
    assert runs[-1] == (1, 3, 10)
    assert all(not first <= sequence <= last for first, last, _ in runs[:-1] for sequence in range(-1, 5))


def test_order_and_lengths_count_in_a_content() -> None:
    parts = [[b"a", b"bc"], [b"ab", b"c"], [b"bc", b"a"], [b"abc"], [b"", b"a", b"bc"]]
    assert len({content_of(one) for one in parts}) == len(parts)
