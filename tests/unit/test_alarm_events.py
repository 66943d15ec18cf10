"""An operator is told of each alarm's beginning and end, and is not rung up all night for one that flaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.operations.alarm_events import HOUR_S, MOST_AN_HOUR, AlarmEvent, AlarmEvents


def test_a_beginning_is_told_at_once_and_the_end_after_a_while() -> None:
    events = AlarmEvents(60.0)
    assert events.look(["full"], 0.0) == [AlarmEvent("full", began=True)]
    assert events.look(["full"], 1.0) == []
    assert events.look([], 30.0) == [], "it may come back"
    assert events.look([], 61.0) == [AlarmEvent("full", began=False)]
    assert events.look([], 62.0) == []


def test_one_that_flaps_is_told_once_in_a_while() -> None:
    events = AlarmEvents(60.0)
    told = [events.look(["hub"] if second % 2 else [], float(second)) for second in range(600)]
    assert sum(map(len, told)) <= 11


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), max_size=60), st.floats(0, 5000))
def test_beginnings_and_ends_alternate_and_an_hour_has_a_bound(looks: list[set[str]], every_s: float) -> None:
    events, now_s = AlarmEvents(every_s), 0.0
    last: dict[str, bool] = {}
    sent: list[float] = []
    for alarms in looks:
        for event in events.look(sorted(alarms), now_s):
            assert last.get(event.alarm, False) is not event.began
            assert event.began is (event.alarm in alarms)
            last[event.alarm] = event.began
            sent.append(now_s)
        assert sum(now_s - at_s < HOUR_S for at_s in sent) <= MOST_AN_HOUR
        now_s += 400.0


def test_the_memory_of_alarms_is_bounded() -> None:
    events = AlarmEvents(0.0)
    for number in range(500):
        events.look([f"alarm {number}"], number * 400.0)
    assert len(events._told) < 30
