"""Faults on request: a wrong wish is refused in words, and PUBACKs never overtake one another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.devcloud.mqtt.puback_queue import PubackQueue
from runtime.devcloud.state.faults import BadFault, Faults

MANY = 1_000_000


def test_a_merge_keeps_what_it_does_not_name_and_null_takes_back() -> None:
    faults = Faults().merge({"ack_delay_ms": 50, "poison": "xx"}).merge({"poison": None, "silent": True})
    assert (faults.ack_delay_ms, faults.poison, faults.silent) == (50, None, True)
    assert Faults().merge(faults.to_json()) == faults
    assert json.loads(json.dumps(faults.to_json())) == faults.to_json()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"ack_delay": 1}, "unknown fault 'ack_delay'"),
        ({"silent": 1}, "silent = 1 is not true or false"),
        ({"ack_delay_ms": True}, "ack_delay_ms = True is not a number"),
        ({"ack_limit": 1.5}, "ack_limit = 1.5 is not a whole number"),
        ({"ack_delay_ms": -1}, "must be at least 0"),
        ({"ack_delay_ms": float("nan")}, "must be at least 0"),
        ({"refuse_connect_code": 0}, "must be 1 to 5"),
        ({"throttle_per_s": 0}, "must be at least 0.001"),
        ({"poison": 7}, "poison = 7 is not text"),
        ({"http": []}, "http must be an object"),
        ({"http": {"devices": {}}}, "METHOD /path-prefix"),
        ({"http": {"PUT /devices": {"stat": 1}}}, "unknown fault 'stat'"),
        ({"http": {"PUT /devices": {"status": 99}}}, "status = 99 must be 200 to 599"),
        ({"twin": {"DELETE": {}}}, "GET or PATCH"),
        ({"twin": {"GET": {"statu": 429}}}, "unknown fault 'statu'"),
        ({"twin": {"GET": {"lost": 1}}}, "lost = 1 is not true or false"),
        ({"twin_altered": [1]}, "twin_altered must be an object"),
        ({"drop_at": "lunch"}, "drop_at = 'lunch' is not one of subscribe, puback, twin-get"),
    ],
)
def test_a_wrong_wish_is_refused_in_words(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(BadFault) as caught:
        Faults().merge(asked)
    assert why in str(caught.value)


def test_the_longest_prefix_wins_and_times_run_out() -> None:
    faults = Faults().merge(
        {"http": {"PUT /devices": {"status": 503}, "PUT /devices/register": {"status": 401, "times": 1}}}
    )
    hits = [faults.next_http("PUT", "/devices/register") for _ in range(2)]
    assert [hit.status for hit in hits if hit] == [401, 503]
    assert faults.next_http("GET", "/devices/register") is None
    assert not faults.merge({"http": {"PUT /devices": None}}).next_http("PUT", "/devices/other")


def test_a_twin_fault_applies_to_its_request_as_often_as_asked() -> None:
    faults = Faults().merge({"twin": {"GET": {"status": 429, "times": 1}}, "drop_at": "puback"})
    assert [faults.next_twin("GET").status for _ in range(2)] == [429, None]
    assert faults.next_twin("PATCH").status is None
    assert Faults().merge(json.loads(json.dumps(faults.to_json()))) == faults
    assert not faults.merge({"twin": None, "drop_at": None}).twin


def test_a_delay_does_not_make_one_acknowledgement_wait_for_the_other() -> None:
    line = PubackQueue()
    line.add(range(1, 101), now_s=10.0, delay_s=0.05, per_s=None)
    assert line.due(10.049, MANY) == []
    assert line.next_due_s() == pytest.approx(10.05)
    assert line.due(10.051, MANY) == list(range(1, 101))


def test_a_throttle_lets_so_many_through_each_second() -> None:
    line = PubackQueue()
    line.add(range(1, 101), now_s=0.0, delay_s=0.0, per_s=10)
    assert len(line.due(1.0, MANY)) == 11
    assert line.lag_s(1.0) == pytest.approx(8.9)


def test_acknowledgements_do_not_wait_for_a_delay_that_is_over() -> None:
    line = PubackQueue()
    line.add([1, 2], now_s=0.0, delay_s=60.0, per_s=None)
    line.reschedule(now_s=1.0, delay_s=0.0, per_s=None)
    line.add([3], now_s=1.0, delay_s=0.0, per_s=None)
    assert line.due(1.0, MANY) == [1, 2, 3]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.floats(0, 3),
            st.floats(0, 2),
            st.none() | st.floats(1, 100),
            st.integers(0, 9),
            st.booleans(),
        )
    )
)
def test_acknowledgements_leave_in_order_and_once_whatever_the_faults_do(
    turns: list[tuple[int, float, float, float | None, int, bool]],
) -> None:
    line, now_s, owed, sent = PubackQueue(), 0.0, 0, list[int]()
    for count, passed_s, delay_s, per_s, most, changed in turns:
        now_s += passed_s
        if changed:
            line.reschedule(now_s, delay_s, per_s)
        line.add(range(owed, owed + count), now_s, delay_s, per_s)
        owed += count
        sent += line.due(now_s, most)
    sent += line.due(float("inf"), MANY)
    assert sent == list(range(owed))
    assert line.next_due_s() is None
