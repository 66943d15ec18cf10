"""Deliveries wait for a message in whose commit they are noted: a quiet device writes once for both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import EARLIER_S, DeliveryReporter
from runtime.adapters.process.process import Stop
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.settlement import Settled
from runtime.producer import Producer
from runtime.workers.ingest import IngestLoop
from tests.support.harness import Home, eventually
from tests.support.store_tools import ObedientClock, copy_as_killed, waiting_ids


class Turning:
    """Ingest, turned by the test, on a clock that only the test moves."""

    def __init__(self, home: Home) -> None:
        self.home, self.clock = home, ObedientClock()
        self.path = home.layout.messages_db
        self.loop = IngestLoop(home.config, Stop(), self.clock)
        self.reporter = DeliveryReporter(home.layout, clock=ObedientClock())
        self.done: set[int] = set()
        self.producer = Producer(home.config.producer_endpoint(), answer_timeout_s=20)

    def until(self, fact: Callable[[], object]) -> None:
        def turned() -> object:
            self.loop.turn()
            self.done |= self.reporter.confirmed()
            return fact()

        eventually(turned)

    def put(self, payload: bytes) -> None:
        self.meanwhile(lambda: self.producer.put(payload))

    def meanwhile(self, ask: Callable[[], object]) -> None:
        """Turn ingest until a producer has its answer."""
        asking = threading.Thread(target=ask)
        asking.start()
        self.until(lambda: not asking.is_alive())
        asking.join()

    def report(self, number: int) -> None:
        """Report a delivery, which ingest holds from then on."""
        self.reporter.report(Settled(delivered=[number]))
        self.until(lambda: self.loop._hold.left_s(self.clock.boot) <= 5)


@pytest.fixture
def turning(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turning]:
    monkeypatch.setattr("runtime.workers.ingest.IDLE_S", 0.005)
    home.write_config("[store]\nfold_s = 5\nmin_free_bytes = 0\n")
    made = Turning(home)
    made.put(b"first")
    made.put(b"second")
    yield made
    made.producer.close()
    made.reporter.close()
    with suppress(Exception):
        made.loop.close()


def after_a_cut(turning: Turning, folder: Path) -> list[int]:
    """What is waiting where the power fails now."""
    copy = copy_as_killed(turning.path, folder)
    MessageStore(copy, ObedientClock()).leave()
    return waiting_ids(copy)


def test_a_delivery_waits_for_a_message_and_is_confirmed_with_it(turning: Turning, tmp_path: Path) -> None:
    turning.report(1)
    turning.clock.boot += 4.9
    turning.until(lambda: True)
    assert turning.done == set()
    assert after_a_cut(turning, tmp_path / "cut") == [1, 2], "so much may be sent again"
    turning.put(b"third")
    turning.until(lambda: turning.done == {1})
    assert after_a_cut(turning, tmp_path / "later") == [2, 3]


def test_without_a_message_it_is_written_down_in_time(turning: Turning, tmp_path: Path) -> None:
    turning.report(1)
    turning.clock.boot += 5
    turning.until(lambda: turning.done == {1})
    assert after_a_cut(turning, tmp_path / "cut") == [2]


def test_a_reporter_that_leaves_does_not_wait(turning: Turning) -> None:
    turning.reporter.report(Settled(delivered=[1]))
    turning.reporter.hurry()
    turning.until(lambda: turning.done == {1})
    turning.reporter.report(Settled(delivered=[2]))
    turning.until(lambda: turning.done == {1, 2})
    assert turning.reporter.unconfirmed == set()


def test_what_a_dead_upload_had_reported_is_not_sent_again(turning: Turning) -> None:
    """The next one read the rows that ingest held back, and sent up to 64 messages twice."""
    turning.report(1)
    turning.reporter.close()  # it was killed
    turning.reporter = DeliveryReporter(turning.home.layout, clock=ObedientClock(), hold_s=5)
    assert not turning.reporter.earlier_settled
    turning.until(lambda: turning.reporter.earlier_settled)
    assert waiting_ids(turning.path) == [2]


def test_an_ingest_that_does_not_answer_keeps_upload_from_nothing(home: Home) -> None:
    clock = ObedientClock()
    with closing(DeliveryReporter(home.layout, clock=clock, hold_s=5)) as reporter:
        assert not reporter.earlier_settled
        clock.boot += EARLIER_S
        assert reporter.earlier_settled


def test_an_ingest_that_ends_carries_out_what_it_holds(turning: Turning) -> None:
    turning.report(1)
    turning.loop.close()
    assert waiting_ids(turning.path) == [2]
    with closing(StoreReader(turning.path)) as reader:
        assert reader.ledger_and_rows()[1:] == (1, 0)


def test_a_request_that_stores_nothing_carries_no_delivery(turning: Turning) -> None:
    """Each of a flood of pings would have had a commit of its own."""
    turning.report(1)
    turning.meanwhile(turning.producer.ping)
    turning.until(lambda: True)
    assert turning.done == set()


def test_what_is_held_is_room_for_the_message_that_carries_it(home: Home, turning: Turning) -> None:
    """A full store that refuses, though the hub has the message that fills it, would refuse for `fold_s`."""
    home.write_config("[store]\nfold_s = 5\nmin_free_bytes = 0\nmax_messages = 2\n")
    turning.loop._reconfigure(home.config)
    turning.report(1)
    turning.until(lambda: True)
    assert turning.done == set()
    turning.put(b"third")
    turning.until(lambda: turning.done == {1})
    assert waiting_ids(turning.path) == [2, 3]
