"""Delivery: a fault of the line, and a deadline of ours, is no evidence against a message."""

from __future__ import annotations

import pytest

from runtime.core.delivery.actions import PROBE, Candidate
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.events import Acked, Carried, Cause, Connected, Lost
from runtime.core.delivery.path_mtu import BELIEVED_S, SEGMENTS_BYTES
from runtime.core.delivery.poison import LONE_LOSSES
from tests.support.delivery_world import LIMITS, World

LARGE = 200_000


class Line(World):
    """A hub behind a line whose bytes are counted: so many of what was sent are with its TCP."""

    def large(self, id: int, stream: str = "s") -> None:
        self.offers[id] = Candidate(id, stream, 1, LARGE)
        assert self.offer(self.offers[id])

    def carry(self, heard: int, unheard: int) -> Carried:
        carried = Carried(self.client, heard, unheard, 1448)
        self.delivery.carried(carried, self.now)
        return carried

    def up(self) -> None:
        """A connection on which the hub takes the control, where there is one."""
        for _ in range(20):
            self.close()
            self.connect()
            self.step()
            while self.wire and self.wire[0][0] not in self.offers:
                self.receive(1)
                self.acknowledge()
                self.step()
            if self.delivery.connection.state is ConnectionState.UP and (self.wire or self.quarantined):
                return
            self.pass_time(max(0.01, self.delivery.wait_s(self.now)))
        raise AssertionError(self.delivery.connection.state)

    def wait_until_lost(self, at_most_s: float = 3000.0) -> float:
        """For how long nothing is given up though nothing happens."""
        began_s = self.now
        while not self.closing:
            self.pass_time(0.5)
            self.step()
            assert self.now - began_s < at_most_s
        return self.now - began_s


def test_a_message_that_takes_the_line_twenty_deadlines_is_waited_for_and_not_begun_again() -> None:
    """200 kB at 5 kB/s: quarantined after three minutes, and 943 kB were carried for it."""
    line = Line()
    line.large(1)
    line.up()
    for sent in range(0, LARGE, 1000):
        line.carry(sent, LARGE - sent)
        line.pass_time(LIMITS.ack_s / 10)
        line.step()
    line.carry(LARGE, 0)
    line.receive()
    line.acknowledge()
    line.step()
    assert (line.delivered, line.delivery.connection.losses) == ([1], 0)


def test_messages_that_leave_together_are_waited_for_until_the_last_of_them_came_through() -> None:
    """They are one TLS record, which the hub reads whole: the first was taken for one without an answer."""
    line = Line(window=16)
    for id in range(1, 17):
        line.store(id, "s")
    line.up()
    assert len(line.wire) == 16
    for sent in range(0, 1600, 50):
        line.carry(sent, 1600 - sent)
        line.pass_time(LIMITS.ack_s / 10)
        line.step()
    line.carry(1600, 0)
    line.receive()
    line.acknowledge()
    line.step()
    assert (len(line.delivered), line.delivery.connection.losses) == (16, 0)


def test_a_hub_that_has_all_of_a_message_must_acknowledge_it_though_pings_come_through() -> None:
    line = Line()
    line.store(1, "s")
    line.up()
    line.carry(1000, 0)
    began_s = line.now
    while not line.closing:
        line.pass_time(LIMITS.ack_s / 4)
        line.carry(1000 + int(line.now), 0)
        line.step()
    assert line.now - began_s <= 1.25 * LIMITS.ack_s


def test_a_line_that_stands_still_in_the_midst_of_a_message_is_given_up() -> None:
    line = Line()
    line.large(1)
    line.up()
    line.carry(5_000, LARGE - 5_000)
    line.pass_time(2)
    line.carry(9_000, LARGE - 9_000)
    assert line.wait_until_lost() <= LIMITS.ack_s + 1
    assert "nothing of what was sent came through" in line.delivery.connection.last_loss


@pytest.mark.parametrize("unheard", [LARGE, 0], ids=["the line swallows it", "a proxy took it"])
def test_what_our_own_watchdog_ended_convicts_no_message_however_often(unheard: int) -> None:
    line = Line()
    line.large(1)
    for _ in range(4 * LONE_LOSSES):
        line.up()
        line.carry(100, unheard)
        line.wait_until_lost()
    assert line.quarantined == {}
    line.settle_down()
    assert line.delivered == [1]


def test_what_the_keep_alive_ended_convicts_no_message() -> None:
    line = Line()
    line.large(1)
    for _ in range(4 * LONE_LOSSES):
        line.up()
        line.lose(Cause.OVERDUE)
        line.step()
    assert line.quarantined == {}


def test_a_hub_whose_patience_ends_while_nothing_comes_through_convicts_no_message() -> None:
    """Its own keep-alive: it heard nothing, and never saw a byte of the message."""
    line = Line()
    line.large(1)
    for _ in range(4 * LONE_LOSSES):
        line.up()
        line.carry(100, LARGE)
        line.pass_time(0.9 * LIMITS.ack_s)
        line.report(Lost(line.client, Cause.DROPPED, "test", line.carry(100, LARGE)))
        line.connected = False
        line.wire.clear()
        line.step()
    assert line.quarantined == {}
    assert "large packets do not get through" in line.delivery.connection.last_loss


def test_a_hub_that_ends_the_connection_on_reading_the_beginning_of_a_message_convicts_it() -> None:
    """It need not read all 200 kB to refuse them."""
    line = Line()
    line.large(1)
    for _ in range(LONE_LOSSES):
        line.up()
        line.carry(100, LARGE)
        line.pass_time(1.0)
        line.report(Lost(line.client, Cause.DROPPED, "test", line.carry(20_000, LARGE - 20_000)))
        line.connected = False
        line.wire.clear()
        line.step()
    line.up()
    assert "the hub dropped the connection" in line.quarantined[1]


def test_a_hub_that_is_silent_to_one_message_alone_is_asked_with_another_and_that_convicts() -> None:
    """Alone in the store, and never acknowledged: no other message overtakes it by itself."""
    line = Line()
    line.store(1, "s")
    for _ in range(3 + LONE_LOSSES):
        if line.quarantined:
            break
        line.up()
        line.carry(10_000, 0)
        while not line.closing:
            line.pass_time(0.5)
            line.step()
            if line.wire and line.wire[-1][0] == PROBE:
                line.report(Acked(line.client, line.wire.pop()))
                line.step()
    assert "acknowledged what was sent after this message" in line.quarantined[1]


def test_a_silent_trial_gets_more_time_and_others_get_as_much() -> None:
    line = Line()
    line.large(1)
    waits_s = []
    for _ in range(6):
        line.up()
        line.carry(100, LARGE)
        waits_s.append(line.wait_until_lost())
    assert waits_s[-1] >= 4 * waits_s[0]
    for id in range(2, 60):
        line.store(id, "other")
    line.settle_down()
    assert sorted(line.delivered) == list(range(1, 60))


def test_large_packets_that_do_not_get_through_are_named_and_smaller_segments_are_tried() -> None:
    line = Line()
    line.large(1)
    opened: list[int | None] = []
    for _ in range(6):
        line.up()
        opened.append(line.delivery.connection.path.segment_bytes(line.now))
        line.carry(100, LARGE)
        line.wait_until_lost()
    assert opened == [None, None, SEGMENTS_BYTES[0], SEGMENTS_BYTES[0], SEGMENTS_BYTES[1], SEGMENTS_BYTES[1]]
    assert "large packets do not get through" in line.delivery.connection.trouble(line.now)
    assert line.delivery.connection.path.segment_bytes(line.now + BELIEVED_S) is None, (
        "the way may be another one"
    )


def test_a_line_that_goes_dead_once_is_not_called_one_that_swallows_large_packets() -> None:
    line = Line()
    line.large(1)
    line.up()
    line.carry(100, LARGE)
    line.wait_until_lost()
    assert line.delivery.connection.trouble(line.now) == ""
    line.settle_down()
    line.large(2)
    line.up()
    line.carry(100, LARGE)
    line.wait_until_lost()
    assert line.delivery.connection.trouble(line.now) == ""


def test_a_drop_with_nothing_in_flight_speaks_for_every_suspect() -> None:
    line = Line()
    line.store(1, "s", poison=True)
    for _ in range(3):
        line.up()
        line.receive()
        line.step()
    (suspect,) = line.delivery.suspects
    assert suspect.candidate.id == 1
    assert suspect.suspicion is not None and suspect.suspicion.losses >= 2
    line.close()
    line.pass_time(60)
    line.step()
    line.report(Connected(line.client))
    line.report(Lost(line.client, Cause.DROPPED, "test"))
    assert suspect.suspicion.losses == 1, "the hub drops others as well"


def test_a_proxy_that_takes_everything_at_once_before_a_slow_line_is_allowed_for() -> None:
    """Its TCP acknowledges 200 kB in a moment, and the hub has them 40 s later."""
    line = Line()
    line.large(1)
    line.up()
    line.carry(LARGE, 0)
    line.pass_time(4 * LIMITS.ack_s)
    line.step()
    assert not line.closing
    line.receive()
    line.acknowledge()
    line.step()
    assert (line.delivered, line.delivery.connection.losses) == ([1], 0)


def test_a_line_that_was_seen_to_be_slower_is_allowed_to_be_so_and_small_messages_wait_no_longer() -> None:
    """500 bytes a second behind a proxy: the first large message teaches it, those after it go at once."""
    line = Line()
    line.large(1)
    for _ in range(8):
        line.up()
        line.carry(100, 0)
        waited_s = 0.0
        while not line.closing and waited_s < LARGE / 500:
            line.pass_time(1)
            waited_s += 1
            line.step()
        if not line.closing:
            line.receive(1)
            line.acknowledge()
            line.step()
            break
    assert line.delivered == [1] and line.quarantined == {}
    losses = line.delivery.connection.losses
    line.settle_down()
    line.large(2)
    line.up()
    line.carry(100, 0)
    line.pass_time(LARGE / 500)
    line.step()
    assert not line.closing and line.delivery.connection.losses == losses
    line.settle_down()
    line.store(3, "s")
    line.up()
    assert line.wait_until_lost() <= LIMITS.ack_s + 2
