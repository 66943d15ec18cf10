"""What happened within the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.recent_counts import SLOTS, SPAN_S, RecentCounts


def test_what_is_over_is_not_said_any_more() -> None:
    lately = RecentCounts()
    lately.add("store_full", 10.0)
    lately.add("store_full", 11.0)
    lately.add("bad_field", 40.0)
    assert lately.counts(60.0) == {"store_full": 2, "bad_field": 1}
    assert lately.counts(10.0 + SPAN_S) == {"bad_field": 1}
    assert lately.counts(1_000.0) == {}


@given(st.lists(st.floats(0, 300), max_size=60).map(sorted))
def test_nothing_of_the_last_minute_but_a_slot_is_forgotten(times_s: list[float]) -> None:
    lately = RecentCounts()
    for at_s in times_s:
        lately.add("x", at_s)
    counted = lately.counts(300.0).get("x", 0)
    within = sum(1 for at_s in times_s if at_s > 300.0 - SPAN_S)
    surely = sum(1 for at_s in times_s if at_s > 300.0 - SPAN_S * (1 - 1 / SLOTS))
    assert surely <= counted <= within
