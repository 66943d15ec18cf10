"""Reports of what was delivered: none is lost for long, whatever ingest does."""

from __future__ import annotations

import contextlib

from runtime.adapters.bus.sockets import DeliveryReceiver, DeliveryReporter
from runtime.core.settlement import Report, Settled
from tests.support.harness import Home, eventually
from tests.support.store_tools import ObedientClock

Received = list[tuple[bytes, Report]]


def received(door: DeliveryReceiver, count: int = 1) -> Received:
    found: Received = []
    eventually(lambda: found.extend(door.receive()) or len(found) >= count)
    return found


def ids(reports: Received) -> list[list[int]]:
    return [sorted(report.settled.ids()) for _, report in reports]


def test_a_report_that_died_with_ingest_is_repeated_though_later_ones_are_confirmed(home: Home) -> None:
    """Each confirmation counted for all that waited: rows stayed, and went to the cloud a second time."""
    clock = ObedientClock()
    with (
        contextlib.closing(DeliveryReceiver(home.layout)) as door,
        contextlib.closing(DeliveryReporter(home.layout, clock=clock)) as reporter,
    ):
        reporter.report(Settled(delivered=[1]))
        assert ids(received(door)) == [[1]], "read, and never committed"
        reporter.report(Settled(delivered=[2]))
        reporter.report(Settled(delivered=[3]))
        later = received(door, 2)
        door.confirm(later)
        done: set[int] = set()
        eventually(lambda: done.update(reporter.confirmed()) or done >= {2, 3})
        assert clock.boot == 100.0, "no time has passed"
        again = received(door)
        assert ids(again) == [[1]], "the confirmation of a later one proved it lost"
        door.confirm(again)
        eventually(lambda: done.update(reporter.confirmed()) or done == {1, 2, 3})
        assert reporter.unconfirmed == set() and door.receive() == []


def test_reports_that_a_slow_ingest_has_not_come_to_are_not_repeated_for_nothing(home: Home) -> None:
    clock = ObedientClock()
    with (
        contextlib.closing(DeliveryReceiver(home.layout)) as door,
        contextlib.closing(DeliveryReporter(home.layout, clock=clock)) as reporter,
    ):
        for number in range(1, 6):
            reporter.report(Settled(delivered=[number]))
        waiting = received(door, 5)
        done: set[int] = set()
        for _ in range(5):
            clock.boot += 1.5
            door.confirm([waiting.pop(0)])
            before = len(done)
            eventually(lambda before=before: done.update(reporter.confirmed()) or len(done) > before)
            assert door.receive() == []
        assert done == {1, 2, 3, 4, 5}


def test_all_is_repeated_where_no_confirmation_comes_at_all(home: Home) -> None:
    clock = ObedientClock()
    with (
        contextlib.closing(DeliveryReceiver(home.layout)) as door,
        contextlib.closing(DeliveryReporter(home.layout, clock=clock)) as reporter,
    ):
        for number in (1, 2):
            reporter.report(Settled(delivered=[number]))
        received(door, 2)
        clock.boot += 2.5
        assert reporter.confirmed() == set()
        assert ids(received(door, 2)) == [[1], [2]]


def test_damage_that_lasts_for_days_is_reported_by_one_report_and_not_by_one_a_second(home: Home) -> None:
    """Where the disk has no room for a salvage none is confirmed: all were kept, and repeated together."""
    clock = ObedientClock()
    with (
        contextlib.closing(DeliveryReceiver(home.layout)) as door,
        contextlib.closing(DeliveryReporter(home.layout, clock=clock)) as reporter,
    ):
        for _ in range(200):
            clock.boot += 1.0
            reporter.report_damage("database disk image is malformed")
            reporter.confirmed()
        waiting = received(door)
        clock.boot += 2.5
        reporter.confirmed()
        again = received(door)
        assert {report.number for _, report in (*waiting, *again)} == {1}, "one report, repeated"
        assert len(waiting) < 200
        door.confirm(again)

        def is_confirmed() -> bool:
            door.confirm(door.receive())  # a copy that came by another connection of its sender
            return reporter.confirmed() == set() and not reporter._waiting()

        eventually(is_confirmed)
        reporter.report_damage("database disk image is malformed")
        later: set[int] = set()  # copies of the first may arrive yet
        eventually(lambda: later.update(report.number for _, report in received(door)) or later - {1})
