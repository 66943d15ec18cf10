"""The rows of `edgectl top`, from two looks at the counters."""

from __future__ import annotations

import pytest

from runtime.core.message import StreamName
from runtime.core.moment import Moment
from runtime.core.operations.stream_figures import ORDERS, StreamLevel, StreamLook, stream_figures, total

A, B = StreamName(None, "a"), StreamName("g", "b")


def at(boot_s: float, boot_id: str = "boot") -> Moment:
    return Moment(1e9 + boot_s, boot_s, boot_id)


BEFORE = StreamLook(at(10), {A: StreamLevel(5, 50, 100, 95)})
NOW = StreamLook(
    at(12), {A: StreamLevel(1, 10, 104, 103), B: StreamLevel(2, 900, 2, 0)}, {A: at(11.5), B: at(4)}
)


def test_rates_come_from_two_looks_and_ages_from_the_oldest() -> None:
    first, second = stream_figures(BEFORE, NOW, "rate")
    assert (first.stream, first.stored_per_s, first.delivered_per_s, first.oldest_age_s) == ("-/a", 2, 4, 0.5)
    assert (second.stream, second.stored_per_s, second.messages, second.oldest_age_s) == ("g/b", 1, 2, 8.0)
    summed = total([first, second])
    assert (summed.stored_per_s, summed.messages, summed.bytes, summed.oldest_age_s) == (3, 3, 910, 8.0)


@pytest.mark.parametrize(
    ("order", "first"), [("rate", "-/a"), ("backlog", "g/b"), ("bytes", "g/b"), ("age", "g/b")]
)
def test_the_largest_comes_first(order: str, first: str) -> None:
    assert set(ORDERS) == {"rate", "backlog", "bytes", "age"}
    assert stream_figures(BEFORE, NOW, order)[0].stream == first


def test_what_cannot_be_known_is_not_invented() -> None:
    alone, _ = stream_figures(None, NOW, "rate")
    assert (alone.stored_per_s, alone.delivered_per_s) == (None, None)
    salvaged = StreamLook(at(14), {A: StreamLevel(1, 10, 3, 1)})
    assert stream_figures(NOW, salvaged, "rate")[0].stored_per_s is None, "the counters began again"
    same = stream_figures(NOW, NOW, "rate")[0]
    assert same.stored_per_s is None, "no time passed"
    delivered = StreamLook(at(14), {A: StreamLevel(0, 0, 3, 3)}, {A: at(1)})
    assert stream_figures(None, delivered, "rate")[0].oldest_age_s is None
    assert total([]).stored_per_s is None and total([]).oldest_age_s is None
