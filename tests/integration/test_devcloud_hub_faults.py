"""The stand-in's hub misbehaves exactly as it is told, towards the real client and a raw one."""

from __future__ import annotations

import os
import select
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest
from azure.iot.device import exceptions

from runtime.devcloud.mqtt.codec import encode
from runtime.devcloud.mqtt.packets import Ack, Bare, Connack, PacketType, Publish
from tests.support.harness import eventually
from tests.support.hub_in_thread import ABRUPT, EVENTS, HubInThread, messages, payloads


def in_background(action: Callable[[], Any]) -> Future[Any]:
    """Its outcome, later; a thread of its own, which nobody waits for at exit."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_twenty_sends_of_the_real_client_wait_for_a_delay_together(hub: HubInThread) -> None:
    with hub.client() as client:
        client.connect()
        hub.faults(ack_delay_ms=60_000)
        sends = [in_background(lambda: client.send_message("x")) for _ in range(20)]
        eventually(lambda: len(hub.messages()) == 20, what="all are under way at once")
        assert not any(send.done() for send in sends)
        hub.faults()
        for send in sends:
            send.result(10)


@pytest.mark.parametrize(
    "fault",
    [
        {"withhold_acks": True},
        {"ack_limit": 0},
        {"silent": True},
        {"throttle_per_s": 0.2},
        {"ack_delay_ms": 60_000},
    ],
    ids=str,
)
def test_a_send_of_the_real_client_hangs_until_the_fault_is_over(
    hub: HubInThread, fault: dict[str, Any]
) -> None:
    with hub.client() as client:
        client.connect()
        hub.faults(**fault)
        sends = [in_background(lambda: client.send_message("x")) for _ in range(2)]
        assert wait(sends, 0.5).not_done
        hub.faults()
        for send in sends:
            send.result(10)
    assert payloads(hub) == [b"x", b"x"]


@pytest.mark.parametrize(
    ("fault", "recorded"), [({"poison": "arsenic"}, 0), ({"drop_after_messages": 1}, 1)], ids=str
)
def test_a_message_may_cost_the_real_client_its_connection(
    hub: HubInThread, fault: dict[str, Any], recorded: int
) -> None:
    hub.faults(**fault)
    with hub.client() as client:
        client.connect()
        send = in_background(lambda: client.send_message("arsenic"))
        eventually(lambda: not client.connected)
        assert len(hub.messages()) == recorded
        assert isinstance(send.exception(10), exceptions.ClientError | exceptions.OperationCancelled)


def timed(action: Callable[[], Any]) -> float:
    started_s = time.monotonic()
    action()
    return time.monotonic() - started_s


def test_delayed_acknowledgements_do_not_wait_for_one_another(hub: HubInThread) -> None:
    hub.faults(ack_delay_ms=300)
    with hub.raw() as raw:

        def first() -> None:
            raw.send(*messages(50))
            raw.receive()

        assert timed(first) >= 0.3
        assert timed(lambda: [raw.receive() for _ in range(49)]) < 0.3 * 49 / 3, "one after the other: 14.7 s"
    assert len(hub.messages()) == 50


def test_withheld_acknowledgements_come_in_order_when_that_ends(hub: HubInThread) -> None:
    hub.faults(withhold_acks=True)
    with hub.raw() as raw:
        raw.send(*messages(5), Bare(PacketType.PINGREQ))
        assert raw.receive() == Bare(PacketType.PINGRESP)
        assert raw.is_silent_for(0.3)
        assert len(hub.messages()) == 5
        hub.faults()
        assert [raw.receive().packet_id for _ in range(5)] == [1, 2, 3, 4, 5]


def test_after_its_limit_the_hub_acknowledges_no_more(hub: HubInThread) -> None:
    hub.faults(ack_limit=3)
    with hub.raw() as raw:
        raw.send(*messages(10))
        assert [raw.receive().packet_id for _ in range(3)] == [1, 2, 3]
        assert raw.is_silent_for(0.3)
    assert len(hub.messages()) == 10


def test_a_silent_hub_keeps_the_connection_and_hears_everything_afterwards(hub: HubInThread) -> None:
    with hub.raw() as raw:
        hub.faults(silent=True)
        raw.send(*messages(3), Bare(PacketType.PINGREQ))
        with hub.raw("demo:dev-2", connect=False) as late:
            late.send(hub.connect_packet("demo:dev-2"))
            assert late.is_silent_for(0.3)
            hub.pass_time(1000)  # longer than the keep-alive allows
            assert raw.is_silent_for(0.3)
            assert hub.messages() == []
            hub.faults()
            assert late.receive() == Connack(0)
        answers = [raw.receive() for _ in range(4)]
        assert Bare(PacketType.PINGRESP) in answers
        assert [a.packet_id for a in answers if isinstance(a, Ack)] == [1, 2, 3]


def test_poison_drops_the_connection_and_is_not_recorded(hub: HubInThread) -> None:
    hub.faults(poison="arsenic")
    with hub.raw() as raw:
        raw.send(*messages(2), Publish(EVENTS, b"with arsenic in it", 1, 3), *messages(1, 4))
        with pytest.raises(ABRUPT):
            while True:
                raw.receive()
    assert [row["message_id"] for row in hub.messages()] == ["m:1", "m:2"]
    assert hub.end_reasons() == ["poison arrived"]


def test_every_connection_is_dropped_at_its_nth_message_unacknowledged(hub: HubInThread) -> None:
    hub.faults(drop_after_messages=3)
    for _ in range(2):
        with hub.raw() as raw, pytest.raises(ABRUPT):
            raw.send(*messages(2))
            assert [raw.receive().packet_id for _ in range(2)] == [1, 2]
            raw.send(*messages(5, 3))
            raw.receive()
    assert [row["message_id"] for row in hub.messages()] == ["m:1", "m:2", "m:3"] * 2


def test_a_throttled_hub_slows_down_and_drops_who_does_not_care(hub: HubInThread) -> None:
    hub.faults(throttle_per_s=20)
    with hub.raw() as raw:

        def eleven() -> None:
            raw.send(*messages(11))
            for _ in range(11):
                raw.receive()

        assert timed(eleven) > 0.4
        raw.send(*messages(300))
        with pytest.raises((EOFError, OSError)):
            while True:
                raw.receive()
    assert hub.end_reasons() == ["throttled, and too many messages in flight"]


def test_an_abrupt_drop_is_a_reset_and_a_polite_one_a_goodbye(hub: HubInThread) -> None:
    with hub.raw() as raw:
        hub.drop("abrupt")
        select.select([raw.socket], [], [], 10)
        with pytest.raises(ConnectionResetError):
            os.read(raw.socket.fileno(), 1)  # below TLS
    with hub.raw() as raw:
        hub.drop("polite")
        with pytest.raises(EOFError):
            raw.receive()


def test_a_client_that_never_reads_does_not_fill_the_hubs_memory(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.socket.settimeout(1)
        ping = encode(Bare(PacketType.PINGREQ)) * 50_000
        with pytest.raises((TimeoutError, ssl.SSLError)):
            for _ in range(400):
                raw.send_bytes(ping)
        with hub.raw("demo:dev-2") as neighbour:
            neighbour.send(Bare(PacketType.PINGREQ))
            assert neighbour.receive() == Bare(PacketType.PINGRESP)


def test_a_connection_that_ends_in_the_same_moment_keeps_no_other_from_being_dropped(
    hub: HubInThread,
) -> None:
    """TLS lets go of its socket a turn of the loop before we hear of it."""
    with hub.raw(), hub.raw("demo:dev-2") as other:

        async def drop() -> int:
            for connection in hub.hub.connections:
                if connection.device_id == "demo:dev-1":
                    connection._transport._ssl_protocol.connection_lost(None)
            return hub.hub.drop("abrupt")

        assert hub.run(drop()) == 2
        with pytest.raises(ABRUPT):
            other.receive()
