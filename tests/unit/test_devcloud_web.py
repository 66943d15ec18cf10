"""Times and durations as the platform writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.devcloud.http.web import optional_seconds, optional_time, rfc3339, timespan
from runtime.devcloud.state.lifetimes import Lifetimes
from runtime.devcloud.state.problems import Problem


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (None, None),
        (0, "00:00:00"),
        (59.5, "00:00:59.5000000"),
        (3661, "01:01:01"),
        (86400, "1.00:00:00"),
        (30 * 86400 - 0.0102053, "29.23:59:59.9897950"),
        (-90.25, "-00:01:30.2500000"),
    ],
)
def test_a_duration_is_written_as_the_platform_does(duration_s: float | None, text: str | None) -> None:
    assert timespan(duration_s) == text


@given(st.floats(0, 4e9))
def test_a_time_reads_back_as_written(moment_s: float) -> None:
    written = rfc3339(moment_s)
    assert written is not None
    assert written.endswith("Z")
    assert optional_time({"at": written}, "at") == pytest.approx(moment_s, abs=1e-5)


@pytest.mark.parametrize(
    "text", ["tomorrow", "2030-01-01T00:00:00", "", 7, "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z"]
)
def test_what_is_not_a_time_with_a_zone_is_refused(text: object) -> None:
    with pytest.raises(Problem):
        optional_time({"at": text}, "at")


@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan"), float("inf"), 1e300, []])
def test_what_is_not_a_number_above_zero_is_refused(value: object) -> None:
    with pytest.raises(Problem):
        optional_seconds({"n": value}, "n")
    with pytest.raises(Problem):
        Lifetimes().merge({"sas_s": value})


def test_only_registration_tokens_may_live_for_ever() -> None:
    assert Lifetimes().merge({"registration_token_s": None}).registration_token_s is None
    for name in ("sas_s", "grace_s", "unknown"):
        with pytest.raises(Problem):
            Lifetimes().merge({name: None})
