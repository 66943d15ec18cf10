"""The congestion window on lines of different kinds, and the link budget: what a metered link may carry."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.link_budget import (
    LONGEST_DAY_S,
    LONGEST_MONTH_S,
    FilePermit,
    LinkBudget,
    LinkPolicy,
    LinkUsage,
    TimeWindow,
    parse_hours,
)
from runtime.core.delivery.window import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    OPENING_WINDOW,
    PROMPT_S,
    QUEUED_S,
    CongestionWindow,
)
from runtime.core.identity import lifetime

NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC


def drive(window: CongestionWindow, round_trip_s: float, per_s: float, acks: int = 20_000) -> float:
    """Send through a line with that delay and that capacity; messages per second at the end."""
    now, free_s = 0.0, 0.0
    flying: deque[tuple[float, float]] = deque()
    half = 0.0
    for n in range(acks):
        while len(flying) < window.size:
            free_s = max(free_s, now) + 1 / per_s
            flying.append((now, free_s + round_trip_s))
        sent_s, back_s = flying.popleft()
        now = max(now, back_s)
        window.acked(now - sent_s, len(flying) + 1)
        if n == acks // 2:
            half = now
    return (acks / 2) / (now - half)


@pytest.mark.parametrize(
    ("round_trip_s", "per_s", "share"),
    [(0.0005, 5000, 0.9), (0.05, 3000, 0.9), (0.2, 500, 0.9), (0.05, 100, 0.9), (0.6, 200, 0.9)],
)
def test_the_window_fills_a_line_whatever_its_delay_and_does_not_flood_it(
    round_trip_s: float, per_s: float, share: float
) -> None:
    window = CongestionWindow()
    assert drive(window, round_trip_s, per_s) >= share * per_s
    assert window.size <= min(LARGEST_WINDOW, 4 * per_s * (round_trip_s + 0.02) + 16)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.005, 0.2), (0.02, 0.3)])
def test_a_way_that_becomes_longer_within_a_connection_is_filled_again(
    before_s: float, after_s: float
) -> None:
    """A modem that falls back to a slower cell: at 16 in flight the backlog drained at a tenth for days."""
    window = CongestionWindow()
    drive(window, before_s, 800)
    assert drive(window, after_s, 800) >= 0.85 * 800
    assert window.size <= 4 * 800 * (after_s + 0.02)


def test_a_line_that_is_full_is_not_flooded_the_longer_it_lasts() -> None:
    """The look at the line's own delay must not take a queue for it."""
    window = CongestionWindow()
    sizes = []
    for _ in range(40):
        drive(window, 0.0, 100, acks=1000)
        sizes.append(window.size)
    assert sorted(sizes)[30] <= FIRST_WINDOW and max(sizes) <= 2 * FIRST_WINDOW


@pytest.mark.parametrize(("period_s", "awake_s"), [(0.1, 0.01), (0.15, 0.005)])
@pytest.mark.parametrize("before", ["anew", "after losses"])
def test_a_line_that_takes_all_there_is_now_and_then_is_not_kept_at_a_few_in_flight(
    period_s: float, awake_s: float, before: str
) -> None:
    """A busy processor, a radio that sleeps: at 16 in flight a backlog drained at 130 of 1000/s, for ever."""
    window, per_s = CongestionWindow(), 1000.0
    if before == "after losses":
        drive(window, 0.0, 100, acks=1000)
        for _ in range(10):
            window.lost()
            window.connected()
    now = free_s = 0.0
    flying: deque[tuple[float, float]] = deque()
    acked = 0
    while now < 60:
        while len(flying) < window.size:
            free_s = max(free_s, now) + 1 / per_s
            asleep_s = period_s - free_s % period_s if free_s % period_s > awake_s else 0.0
            flying.append((now, free_s + asleep_s))
        sent_s, back_s = flying.popleft()
        now = max(now, back_s)
        window.acked(now - sent_s, len(flying) + 1)
        acked += now > 30
    assert acked >= 0.9 * per_s * 30


@pytest.mark.parametrize("per_s", [5, 20, 100])
def test_what_a_full_line_is_tried_with_in_vain_is_tried_more_and_more_seldom(per_s: float) -> None:
    window, wide = CongestionWindow(), 0
    now, free_s = 0.0, 0.0
    flying: deque[tuple[float, float]] = deque()
    for _ in range(50_000):
        while len(flying) < window.size:
            free_s = max(free_s, now) + 1 / per_s
            flying.append((now, free_s + 0.05))
        sent_s, back_s = flying.popleft()
        now = max(now, back_s)
        window.acked(now - sent_s, len(flying) + 1)
        wide += window.size > FIRST_WINDOW + 4
    assert wide < 50_000 * 0.06


@given(
    st.lists(st.tuples(st.sampled_from(["full"] * 40 + ["half", "lost", "connected"]), st.floats(1e-4, 2)))
)
def test_a_window_stays_within_its_bounds_whatever_happens(events: list[tuple[str, float]]) -> None:
    window = CongestionWindow()
    for what, round_trip_s in events * 20:
        before = window.size
        match what:
            case "lost":
                window.lost()
                assert window.size <= max(1, before // 2, FIRST_WINDOW // 2, LARGEST_WINDOW // 2)
            case "connected":
                window.connected()
            case _:
                window.acked(round_trip_s, window.size if what == "full" else max(1, window.size // 2))
        assert 1 <= window.size <= LARGEST_WINDOW


def test_round_trips_that_vary_by_themselves_do_not_starve_the_backlog() -> None:
    """A busy processor, a radio that sleeps: most answers take long, some are quick, and nothing queues."""
    window = CongestionWindow()
    for n in range(2000):
        if n % 500 == 100:
            window.lost()
        window.acked(0.001 if n % 10 == 0 else 0.2, window.size)
    assert window.size >= FIRST_WINDOW


def test_a_connection_opens_with_a_few_and_its_first_acknowledgement_opens_the_window() -> None:
    window = CongestionWindow()
    drive(window, 0.05, 3000)
    before = window.size
    assert before >= 8 * FIRST_WINDOW
    window.connected()
    assert window.size == OPENING_WINDOW
    window.acked(PROMPT_S, 2)
    assert window.size == FIRST_WINDOW, "no queue at the hub"
    acks = 0
    while window.size < before / 2 and acks < 10 * before:
        window.acked(0.05, window.size)
        acks += 1
    assert acks <= before, "up to where it was it doubles"
    window.connected()
    window.acked(PROMPT_S + 0.1, 2)
    assert window.size == OPENING_WINDOW, "there may be one"


def test_a_queue_of_seconds_at_the_hub_shrinks_the_window_to_one_though_no_round_trip_was_shorter() -> None:
    """A throttled fleet: there is no short round trip to compare with, and every try would pay its device."""
    window, sizes = CongestionWindow(), set()
    window.connected()
    for _ in range(300):
        window.acked(4 * QUEUED_S, window.size)
        sizes.add(window.size)
    assert window.size == 1 and max(sizes) == OPENING_WINDOW
    for _ in range(2 * FIRST_WINDOW):
        window.acked(0.2, window.size)
    assert window.size >= FIRST_WINDOW, "the throttle is over"


def test_a_window_that_is_fixed_stays() -> None:
    window = CongestionWindow(7)
    window.connected()
    drive(window, 0.05, 3000)
    window.lost()
    assert window.size == 7


def test_a_loss_halves_the_window_and_a_throttled_line_shrinks_it() -> None:
    window = CongestionWindow()
    drive(window, 0.05, 5000)
    before = window.size
    window.lost()
    assert window.size == before // 2
    drive(window, 0.05, 40, acks=2000)
    assert window.size <= 16


def test_a_rate_is_kept_over_any_time_and_a_burst_is_a_second_of_it() -> None:
    link = LinkBudget(LinkPolicy(messages_per_s=10))
    now, sent = 0.0, 0
    while now < 60:
        while link.allows(4, now):
            link.sent(100)
            sent += 1
        now += max(0.001, link.wait_s(now))
    assert 600 <= sent <= 612


def test_bytes_a_second_count_too_and_a_large_message_is_paid_for_afterwards() -> None:
    link = LinkBudget(LinkPolicy(bytes_per_s=1000))
    assert link.allows(4, 0.0)
    link.sent(5000)
    assert not link.allows(4, 1.0)
    assert link.wait_s(1.0) == pytest.approx(3.0, abs=0.01)
    assert link.allows(4, 4.1)


@pytest.mark.parametrize(("messages", "files"), [(True, True), (True, False), (False, True)])
def test_a_file_and_messages_share_a_rate_and_who_is_alone_has_all_of_it(messages: bool, files: bool) -> None:
    """A file took all of it, two took twice as much, and messages waited until they were through."""
    per_s, block, until_s = 100_000.0, 1_048_576, 500.0
    link = LinkBudget(LinkPolicy(bytes_per_s=per_s))
    now, as_messages, as_files = 0.0, 0, 0
    while now < until_s:
        while messages and link.allows(4, now):
            link.sent(1_000)
            as_messages += 1_000
        if files and link.files(now) is FilePermit.ALL:
            link.uploaded(block)
            as_files += block
        now += max(0.001, min(1.0, link.wait_s(now)))
    assert 0.97 * per_s * until_s <= as_messages + as_files <= per_s * (until_s + 1) + block
    least = 0.45 if messages and files else 0.95
    for used, bytes_ in ((messages, as_messages), (files, as_files)):
        assert bytes_ >= used * least * per_s * until_s


def test_files_stop_where_messages_would_and_the_urgent_go_on() -> None:
    link = LinkBudget(LinkPolicy(bytes_per_day=1000, urgent_priority=8))
    link.set_time(NOON, 0.0)
    assert link.files(0.0) is FilePermit.ALL
    link.uploaded(1000)
    assert link.files(0.0) is FilePermit.URGENT
    link.off = True
    assert link.files(0.0) is FilePermit.NONE


def test_a_budget_is_renewed_by_a_later_day_and_by_nothing_else() -> None:
    link = LinkBudget(LinkPolicy(messages_per_day=2), LinkUsage())
    link.set_time(NOON, 0.0)
    link.sent(1)
    link.sent(1)
    assert link.barred() == "the day's budget of messages is used up"
    assert not link.allows(4, 0.0)
    for wall_s in (0.0, NOON - 400 * 86_400, NOON + 3600):  # no clock; a jump back; later the same day
        link.set_time(wall_s, 0.0)
        assert link.barred()
    link.set_time(NOON + 43_201, 0.0)
    assert link.barred() is None


def test_budgets_of_bytes_and_months_survive_a_restart() -> None:
    usage = LinkUsage()
    link = LinkBudget(LinkPolicy(bytes_per_month=1000), usage)
    link.set_time(NOON, 0.0)
    link.sent(600)
    link.uploaded(600)
    again = LinkBudget(
        LinkPolicy(bytes_per_month=1000),
        LinkUsage.of({"month": usage.month, "month_bytes": usage.month_bytes}),
    )
    again.set_time(NOON + 86_400, 0.0)
    assert again.barred() == "the month's budget of bytes is used up"
    again.set_time(NOON + 20 * 86_400, 0.0)
    assert again.barred() is None
    assert LinkUsage.of({"day": 7, "day_messages": "x"}) == LinkUsage()


def test_hours_may_span_midnight_and_nothing_goes_while_nobody_knows_the_hour() -> None:
    link = LinkBudget(LinkPolicy(hours=parse_hours(["22:00-06:00", "12:00-12:30"])))
    for hour, open_ in ((0, True), (5.9, True), (6, False), (12.2, True), (12.6, False), (22.5, True)):
        link.set_time(NOON - 43_200 + hour * 3600, 0.0)
        assert (link.barred() is None) is open_, hour
    link.set_time(100.0, 0.0)
    assert link.barred() == "outside the allowed hours"
    for wrong in ("25:00-06:00", "6-7", ""):
        with pytest.raises(ValueError, match="HH:MM-HH:MM"):
            parse_hours([wrong])


def test_hours_that_end_when_they_begin_are_a_slip_and_do_not_shut_the_link_for_ever() -> None:
    """00:00-00:00, meant as all day, was never."""
    for wrong in ("00:00-00:00", "06:00 - 06:00"):
        with pytest.raises(ValueError, match="another time"):
            parse_hours([wrong])
    windows = parse_hours(["00:00-24:00", "06:00 - 06:01"])
    assert windows == (TimeWindow(0, 1440), TimeWindow(360, 361))
    assert [str(window) for window in windows] == ["00:00-24:00", "06:00-06:01"]


def test_a_share_of_the_hub_counts_sends_whatever_their_size_and_urgent_ones_are_owed() -> None:
    link = LinkBudget(LinkPolicy(sends_per_s=0.1, urgent_priority=8))
    went = []
    for now in range(100):
        if link.allows(0, float(now)):
            link.sent(1 if now % 20 else 200_000)
            went.append(now)
    assert len(went) == 10 and link.wait_s(95.0) <= 5.1
    link.sent(1, priority=8)
    assert link.allows(8, 102.0), "urgent ones do not wait"
    assert next(now for now in range(102, 200) if link.allows(0, float(now))) - went[-1] >= 20
    link.set_policy(LinkPolicy())
    assert link.allows(0, 103.0)


def test_the_urgent_pass_budgets_and_hours_but_neither_the_kill_switch_nor_a_quota() -> None:
    link = LinkBudget(LinkPolicy(messages_per_day=1, urgent_priority=8))
    link.set_time(NOON, 0.0)
    link.sent(1)
    assert link.allows(8, 0.0) and not link.allows(7, 0.0)
    link.off = True
    assert link.shut(0.0) == "switched off"
    link.off = False
    link.record_quota_used_up(0.0, NOON, 0.0)
    assert link.shut(1.0) == "the hub's daily quota is used up until 00:00 UTC"
    assert link.shut(43_199.0) and link.shut(43_201.0) is None


@pytest.mark.parametrize("spread_s", [120, 600])
def test_devices_that_a_quota_parked_together_do_not_come_back_together(spread_s: int) -> None:
    ends = []
    for draw in (0.0, 0.5, 1.0):
        link = LinkBudget(LinkPolicy(reset_spread_s=spread_s) if spread_s != 120 else None)
        link.record_quota_used_up(0.0, NOON, draw)
        ends.append(next(s for s in range(43_190, 44_000) if link.shut(float(s)) is None))
    assert ends == [43_200, 43_200 + spread_s / 2, 43_200 + spread_s]


def test_a_quota_is_asked_about_once_an_hour_and_believed_when_it_is_renewed() -> None:
    link = LinkBudget()
    assert not link.ask_again(0.0)
    link.record_quota_used_up(0.0, NOON, 0.0)
    asked = [now for now in range(0, 50_000, 2) if link.ask_again(float(now))]
    assert asked == [3_600 * n for n in range(1, 12)], "and no more once the day is over"
    link.record_quota_used_up(0.0, NOON, 0.0)
    link.off = True
    assert not link.ask_again(3_600.0), "switched off means off"
    link.off = False
    link.record_quota_renewed()
    assert link.shut(1.0) is None and not link.ask_again(3_600.0)


def test_a_clock_that_was_years_ahead_does_not_bar_the_link_for_years() -> None:
    year_s, day_s = 366 * 86_400.0, 86_400.0
    link = LinkBudget(LinkPolicy(messages_per_day=2, messages_per_month=3))
    link.set_time(NOON + 14 * year_s, 0.0)
    link.sent(1)
    link.sent(1)
    link.set_time(NOON, 10.0)
    link.set_time(NOON + day_s - 20, LONGEST_DAY_S - 1)
    assert link.barred() == "the day's budget of messages is used up", "what was sent was sent"
    link.set_time(NOON + day_s, LONGEST_DAY_S)
    assert link.barred() is None
    link.sent(1)
    link.set_time(NOON + 30 * day_s, LONGEST_MONTH_S - 1)
    assert link.barred() == "the month's budget of messages is used up"
    link.set_time(NOON + 31 * day_s, LONGEST_MONTH_S)
    assert link.barred() is None


def test_a_clock_that_was_never_set_bars_the_link_for_a_day_and_not_for_good() -> None:
    link = LinkBudget(LinkPolicy(messages_per_day=2, messages_per_month=3))
    link.set_time(5.0, 0.0)
    for day, sent in ((0, 2), (1, 1), (2, 0), (31, 2), (32, 1)):
        now = day * float(LONGEST_DAY_S)
        link.set_time(5.0 + now, now)
        for _ in range(sent):
            assert link.allows(4, now)
            link.sent(1)
        for hour in range(24):
            link.set_time(5.0 + now, now + hour * 3_600)
            assert link.barred()


def test_a_month_of_the_wrong_year_ends_on_a_device_that_is_started_every_morning() -> None:
    """Running was counted from each start: the month of a clock that was years ahead never ended."""
    day_s, hour_s = 86_400.0, 3_600.0
    link = LinkBudget(LinkPolicy(messages_per_month=1))
    link.set_time(NOON + 14 * 366 * day_s, 0.0)
    link.sent(1)
    days = 0
    while link.barred():
        days += 1
        link = LinkBudget(link.policy, LinkUsage.of(asdict(link.usage)))
        for hour in range(9):
            link.set_time(NOON + days * day_s + hour * hour_s, 100.0 + hour * hour_s)
    assert days == -(-LONGEST_MONTH_S // (8 * 3_600))


def test_a_clock_that_is_wrong_after_every_reboot_gives_no_budget_anew() -> None:
    link = LinkBudget(LinkPolicy(messages_per_day=1))
    link.set_time(NOON, 0.0)
    link.sent(1)
    for reboot in range(5):
        link = LinkBudget(link.policy, link.usage)
        link.set_time(NOON - 400 * 86_400, 5.0)
        link.set_time(NOON + reboot, 60.0)
        assert link.barred() == "the day's budget of messages is used up"


@pytest.mark.parametrize("began_s", [0.0, 299.0, 590.0])
def test_a_day_gives_its_budget_once_and_not_again_just_before_midnight(began_s: float) -> None:
    """A day that began within a step of our running was over up to ten minutes before midnight, and gave all
    of its budget once more: every day, for as long as the process ran."""
    link = LinkBudget(LinkPolicy(messages_per_day=3))
    sent: dict[int, int] = {}
    for second in range(0, 3 * 86_400, 10):
        wall_s = (
            NOON + began_s + second - 8 * (second // 86_400)
        )  # a clock that is set back a little each day
        link.set_time(wall_s, 1000.0 + second)
        while link.allows(4, 1000.0 + second):
            link.sent(1)
            day = int(wall_s // 86_400)
            sent[day] = sent.get(day, 0) + 1
    assert list(sent.values()) == [3, 3, 3, 3]


def test_a_clock_set_back_over_midnight_gives_no_second_budget() -> None:
    link = LinkBudget(LinkPolicy(messages_per_day=1))
    link.set_time(NOON + 43_201, 0.0)
    link.sent(1)
    for wall_s in (NOON + 43_199, NOON + 43_201):
        link.set_time(wall_s, 0.0)
        assert link.barred() == "the day's budget of messages is used up"


def test_a_date_at_the_end_of_the_calendar_parks_for_a_day_and_ends_nobody() -> None:
    """The hub's clock, or a gateway's, said the 31st of December 9999: upload died of the day behind it."""
    link = LinkBudget()
    link.record_quota_used_up(0.0, lifetime.http_date_s("Fri, 31 Dec 9999 23:59:59 -2359"), 0.0)
    assert link.shut(60.0) and not link.shut(86_400.0)
