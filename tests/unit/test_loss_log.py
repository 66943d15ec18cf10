"""The loss log: every loss is logged, by count and by id; not all of them at once."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest.loss_log import MOST_KEYS, RANGES_AT_ONCE, LossLog

STREAM = ("s", "drop-oldest")


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2), st.floats(0, 90))))
def test_whatever_is_lost_is_said_once_with_every_id(lost: list[tuple[int, int, float]]) -> None:
    losses, now_s, next_id = LossLog(60.0), 0.0, 1
    ids, said, lines = [], [], []
    for messages, gap, wait_s in lost:
        first, next_id, now_s = next_id + gap, next_id + gap + messages, now_s + wait_s
        ids += range(first, next_id)
        losses.add(STREAM, messages, [[first, next_id - 1]])
        for _, gathered in losses.due(now_s):
            lines.append(now_s)
            said.append(gathered)
    said += [gathered for _, gathered in losses.due(math.inf)]
    assert [i for each in said for first, last in each.ranges for i in range(first, last + 1)] == ids
    assert sum(each.messages for each in said) == len(ids)
    assert all(later - earlier >= 60.0 for earlier, later in itertools.pairwise(lines))
    assert not list(losses.due(math.inf)), "said twice"


def test_what_comes_together_is_bounded_and_other_places_do_not_wait() -> None:
    losses = LossLog(60.0)
    for number in range(3 * RANGES_AT_ONCE):
        losses.add(STREAM, 1, [[2 * number, 2 * number]])
        assert all(len(gathered.ranges) <= RANGES_AT_ONCE for _, gathered in losses.due(1.0))
    losses.add(("other", "expired"), 1, [[1, 1]])
    assert [place for place, _ in losses.due(1.0)] == [("other", "expired")]


def test_streams_that_come_and_go_are_not_remembered_for_ever() -> None:
    losses = LossLog(60.0)
    for number in range(5 * MOST_KEYS):
        losses.add((f"invented-{number}", "expired"), 1, [[number, number]])
        assert len(list(losses.due(number))) == 1
    assert len(losses._logged_s) <= MOST_KEYS + 1
