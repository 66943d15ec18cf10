"""The exchange of a producer with ingest: when it asks again, without a socket or a clock."""

from __future__ import annotations

import json

import pytest

from runtime.core.ingest.exchange import Exchange, Invalid, KeyedRequest, NoAnswer, Step
from runtime.core.ingest.protocol import BadRequest, Stored, decode_reply
from runtime.core.retry_plan import Ask, Pause

REQUEST = KeyedRequest({"producer": "p", "boot": "b", "sequence": 1}, [b"x"])


def refused(code: str, retry_after_ms: object = None) -> bytes:
    error = {"code": code, "message": "no", "retry_after_ms": retry_after_ms}
    return json.dumps({"ok": False, "error": error}).encode()


def test_an_answer_that_is_none_is_not_asked_for_without_a_pause() -> None:
    """It was asked for as fast as it came: a processor of each side was busy for a minute."""
    exchange, now_s, asked = Exchange(REQUEST, retry_for_s=60.0, timeout_s=1.0), 0.0, 0
    step: Step = exchange.begin(now_s)
    with pytest.raises(NoAnswer):
        while asked < 1_000:
            if isinstance(step, Pause):
                now_s += step.seconds
                step = exchange.paused(now_s)
            else:
                assert isinstance(step, Ask)
                asked += 1
                now_s += 0.001
                step = exchange.silence(now_s)
    assert asked < 15
    assert now_s == pytest.approx(60.0, abs=0.1)


def test_a_silence_that_lasted_is_followed_by_the_next_question_at_once() -> None:
    exchange = Exchange(REQUEST, retry_for_s=60.0, timeout_s=1.0)
    exchange.begin(0.0)
    assert exchange.silence(1.0) == Ask(1.5)


def test_a_refusal_by_a_code_that_is_not_known_yet_is_a_refusal() -> None:
    """A newer ingest's new code was taken for no answer, and asked again for ever."""
    exchange = Exchange(REQUEST, retry_for_s=60.0, timeout_s=1.0)
    exchange.begin(0.0)
    assert exchange.answered(decode_reply([refused("tired", 2_000)]), 0.0) == Pause(2.0)
    exchange.paused(2.0)
    with pytest.raises(Invalid, match="tired") as caught:
        exchange.answered(decode_reply([refused("tired")]), 2.0)
    assert caught.value.request == REQUEST, "whether it left anything behind is not known either"


@pytest.mark.parametrize("nonsense", ["soon", -1, True, 1e400])
def test_a_pause_that_is_none_is_no_answer(nonsense: object) -> None:
    """It ended the program with a TypeError, from inside `put`."""
    with pytest.raises(BadRequest):
        decode_reply([refused("store_full", nonsense)])


def test_an_answer_is_the_end_of_it() -> None:
    exchange = Exchange(REQUEST, retry_for_s=60.0, timeout_s=1.0)
    exchange.begin(0.0)
    assert exchange.answered(Stored([7]), 0.5) == Stored([7])


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_time_out_of_nothing_does_not_ask_six_thousand_times(timeout_s: float) -> None:
    exchange, now_s, asked = Exchange(REQUEST, retry_for_s=60.0, timeout_s=timeout_s), 0.0, 1
    step = exchange.begin(now_s)
    with pytest.raises(NoAnswer):
        while isinstance(step, Ask):
            now_s += step.timeout_s
            step = exchange.silence(now_s)
            asked += 1
    assert asked < 30
