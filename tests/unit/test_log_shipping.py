"""Logs go through the product within a budget, and never feed on themselves."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.operations.log_lines import LogLine
from runtime.core.operations.log_shipping import (
    BATCH_BYTES,
    LONGEST_LINE_BYTES,
    MINUTE_S,
    LogShipping,
    ShippingLimits,
    batches,
)


def line(n: int = 0, level: str = "WARNING", program: str = "upload", **fields: str) -> LogLine:
    return LogLine(program, 1_800_000_000.0 + n, level, f"line {n}", fields)


def messages(lines: list[bytes]) -> list[str]:
    return [json.loads(one)["message"] for one in lines]


def test_what_is_grave_enough_is_shipped() -> None:
    events = [line(1, "INFO"), line(2), line(3, "ERROR"), line(4, "DEBUG")]
    assert messages(LogShipping(ShippingLimits()).select(events, 0.0)) == ["line 2", "line 3"]
    assert messages(LogShipping(ShippingLimits(level="ERROR")).select(events, 0.0)) == ["line 3"]


def test_there_is_never_a_line_about_a_line() -> None:
    about = [line(1, program="observer"), line(2, program="ingest", stream="_logs")]
    assert LogShipping(ShippingLimits()).select(about, 0.0) == []


def test_a_storm_is_cut_and_the_next_line_says_how_much_is_missing() -> None:
    shipping = LogShipping(ShippingLimits(lines_per_minute=3))
    assert messages(shipping.select([line(n) for n in range(10)], 0.0)) == ["line 0", "line 1", "line 2"]
    assert shipping.select([line(10)], MINUTE_S / 2) == []
    assert messages(shipping.select([line(11)], MINUTE_S)) == ["8 lines were left out", "line 11"]


@given(
    st.lists(st.tuples(st.floats(0, 90_000), st.integers(0, 40)), max_size=30),
    st.integers(1, 20),
    st.integers(2_100, 20_000),
)
def test_an_hour_without_the_hub_stays_within_the_budget(
    looks: list[tuple[float, int]], per_minute: int, per_day: int
) -> None:
    shipping = LogShipping(ShippingLimits("WARNING", per_minute, per_day))
    now_s, sent = 0.0, list[tuple[float, int]]()
    logged = shown = left_out = 0
    for wait_s, count in looks:
        now_s += wait_s
        logged += count
        for one in shipping.select([line(n) for n in range(count)], now_s):
            sent.append((now_s, len(one)))
            missing = json.loads(one).get("left_out")
            left_out += missing or 0
            shown += missing is None
        assert sum(now_s - at_s < MINUTE_S for at_s, _ in sent) <= 2 * per_minute, "two windows at most"
        assert sum(size for at_s, size in sent if now_s - at_s < 86_400) <= 2 * per_day
    assert shown + left_out <= logged
    final = shipping.select([line(0)], now_s + 200_000.0)
    left_out += sum(json.loads(one).get("left_out") or 0 for one in final)
    if per_minute > 1:
        assert shown + left_out == logged, "what is not shown is counted"


def test_a_long_line_is_cut_and_a_batch_is_one_unit_of_the_hubs() -> None:
    (one,) = LogShipping(ShippingLimits()).select([LogLine("upload", 0.0, "ERROR", "é" * 9_999)], 0.0)
    assert len(one) <= LONGEST_LINE_BYTES and json.loads(one)["cut"] is True
    packed = batches([b"x" * 1_500] * 5)
    assert [len(one) for one in packed] == [3_001, 3_001, 1_500] and max(map(len, packed)) <= BATCH_BYTES
    assert b"\n".join(packed).count(b"x") == 7_500


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_no_line_is_shipped_where_none_was_logged(level: str) -> None:
    assert LogShipping(ShippingLimits(level=level)).select([], 0.0) == []
