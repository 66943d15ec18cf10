"""Durations and instants as the platform writes them, and garbage as anybody might."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.identity.lifetime import duration_s, http_date_s, instant_s, left_s, retry_after_s, spoken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("29.23:59:59.9947829", 2_591_999.9947829),
        ("00:00:30", 30),
        ("-00:00:01.5", -1.5),
        ("-1.00:00:00", -86_400),
        ("10675199.02:48:05.4775807", 922_337_203_685.4775807),
    ],
)
def test_a_duration_is_read_as_the_platform_writes_it(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@given(st.integers(-(10**7), 10**7), st.integers(0, 9_999_999))
def test_every_duration_survives_the_way_there_and_back(whole_s: int, ticks: int) -> None:
    sign, rest = ("-" if whole_s < 0 else ""), abs(whole_s)
    days, hours, minutes = rest // 86_400, rest // 3600 % 24, rest // 60 % 60
    text = f"{sign}{days}.{hours:02}:{minutes:02}:{rest % 60:02}.{ticks:07}"
    expected_s = abs(whole_s) + ticks / 1e7
    assert duration_s(text) == pytest.approx(-expected_s if whole_s < 0 else expected_s)


@pytest.mark.parametrize(
    ("by_server_s", "by_us_s", "left"),
    [
        (86_400, -1e9, 86_400),  # our clock is of no interest where the server's can be right
        (12, 86_400, 12),
        (-2 * 86_400, 1800, 1800),
        (0, 86_400, 3600),  # of two clocks one is wrong: not believed for long
        (-5, -5, 300),
        (9, 1e9, 3600),
    ],
)
def test_what_was_just_received_is_not_over_whatever_the_clocks_say(
    by_server_s: float, by_us_s: float, left: float
) -> None:
    ends_s = 1.8e9
    assert left_s(ends_s, ends_s - by_server_s, ends_s - by_us_s) == left


@given(st.text())
def test_any_other_text_is_a_value_error_and_nothing_worse(text: str) -> None:
    for read in (duration_s, instant_s, http_date_s):
        try:
            read(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 23 Nov 99999999999 12:00:00 GMT",
        "Mon, 23 Nov 2026 99999999999999999999:00:00 GMT",
        "Mon, 23 Nov 2026 12:00:00 +9999999999999999999999",
    ],
)
def test_a_date_beyond_every_calendar_crashes_nobody(text: str) -> None:
    with pytest.raises(ValueError):
        http_date_s(text)
    assert retry_after_s(text, 0.0) is None


@pytest.mark.parametrize("text", ["", "1", "24:00:00", "00:60:00", "1:2:3", "٠٠:٠٠:٠١", "00:00:00\n00"])
def test_a_duration_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T12:00:00Z", datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()),
        ("2026-11-24T13:00:00.1234567+01:00", datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() + 0.1234567),
        ("1970-01-01t00:00:00z", 0.0),
    ],
)
def test_an_instant_is_read_with_its_zone_and_seven_digits(text: str, expected: float) -> None:
    assert instant_s(text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["2026-11-24T12:00:00", "2026-13-01T00:00:00Z", "yesterday", "2026-11-24"])
def test_an_instant_without_a_zone_or_out_of_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        instant_s(text)


def test_retry_after_is_a_number_or_a_date_by_the_servers_own_clock() -> None:
    now_s = http_date_s("Mon, 23 Nov 2026 12:00:00 GMT")
    assert retry_after_s("120", None) == 120
    assert retry_after_s("Mon, 23 Nov 2026 12:02:00 GMT", now_s) == 120
    assert retry_after_s("Mon, 23 Nov 2026 11:00:00 GMT", now_s) == 0
    for silent in (None, "", "soon", "-5", "1.5"):
        assert retry_after_s(silent, now_s) is None


def test_people_read_two_units_at_most() -> None:
    assert [spoken(s) for s in (None, 45, 125, 7260, 90_000, -60)] == [
        "never", "45 s", "2 min 5 s", "2 h 1 min", "1 d 1 h", "1 min 0 s ago",
    ]  # fmt: skip
