"""Commands at the stand-in's hub: locked until their PUBACK, sent again, expired, and never lost."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from runtime.devcloud.mqtt.packets import FAILURE, Ack, Bare, Connack, PacketType, Publish, Suback, Subscribe
from runtime.devcloud.state.commands import CommandOptions, FeedbackMode
from runtime.devcloud.state.problems import Problem
from runtime.devcloud.state.values import Command
from tests.support.harness import eventually
from tests.support.hub_in_thread import COMMANDS, DEVICE, HubInThread, Raw


def send(hub: HubInThread, payload: bytes = b"go", **options: Any) -> Command:
    return hub.call(
        lambda: hub.cloud.send_command(DEVICE, payload, {}, time.time(), CommandOptions(**options))
    )


def states(hub: HubInThread) -> list[str]:
    return [row["state"] for row in hub.rows("commands")]


def feedback(hub: HubInThread) -> list[str]:
    return [row["status"] for row in hub.rows("feedback")]


def limit(hub: HubInThread, **limits: Any) -> None:
    hub.call(lambda: hub.cloud.change_limits(limits))


def subscribe(raw: Raw, qos: int = 1) -> None:
    raw.send(Subscribe(1, ((COMMANDS, qos),)))
    assert raw.receive() == Suback(1, (qos,))


def puback(raw: Raw, command: Publish) -> None:
    raw.send(Ack(PacketType.PUBACK, command.packet_id))


def settle(raw: Raw) -> None:
    """Return once the hub has handled what was sent so far."""
    raw.send(Bare(PacketType.PINGREQ))
    assert raw.receive() == Bare(PacketType.PINGRESP)


def test_a_command_without_puback_comes_again_on_the_same_connection_with_a_new_packet_id(
    hub: HubInThread,
) -> None:
    limit(hub, command_lock_s=0.2)
    sent = send(hub, ack=FeedbackMode.FULL)
    with hub.raw() as raw:
        subscribe(raw)
        first = raw.receive()
        again = raw.receive()
        assert (first.dup, again.dup) == (False, True)
        assert (again.topic, again.payload) == (first.topic, first.payload)
        assert again.packet_id != first.packet_id
        puback(raw, first)  # too late: its lock has ended
        settle(raw)
        assert states(hub) == ["enqueued"]
        third = raw.receive()
        puback(raw, third)
        eventually(lambda: states(hub) == ["completed"])
    assert hub.rows("commands")[0]["deliveries"] == 3
    assert feedback(hub) == ["Success"]
    assert sent.system["$.mid"] in first.topic


def test_a_connection_that_ends_frees_its_commands_at_once(hub: HubInThread) -> None:
    send(hub)
    with hub.raw() as raw:
        subscribe(raw)
        first = raw.receive()
    hub.faults(dup_omitted=True)
    with hub.raw() as raw:
        assert raw.receive() == first._replace(packet_id=1, dup=False)


def test_pubacks_out_of_order_end_the_connection_and_complete_nothing(hub: HubInThread) -> None:
    """MQTT-4.6.0-2, which the hub's gateway checks."""
    send(hub, b"1"), send(hub, b"2")
    with hub.raw() as raw:
        subscribe(raw)
        raw.receive()
        puback(raw, raw.receive())
        raw.assert_dropped()
    assert states(hub) == ["enqueued", "enqueued"]
    assert "PUBACK 2 came before that of 1" in (hub.end_reasons()[0] or "")


def test_a_puback_for_what_was_never_sent_is_ignored(hub: HubInThread) -> None:
    send(hub)
    with hub.raw() as raw:
        subscribe(raw)
        raw.receive()
        raw.send(Ack(PacketType.PUBACK, 77))
        settle(raw)
    assert states(hub) == ["enqueued"]


def test_a_lost_puback_costs_a_delivery_and_holds_up_no_other_command(hub: HubInThread) -> None:
    limit(hub, command_lock_s=0.3)
    hub.faults(puback_lost=True)
    send(hub, b"1")
    with hub.raw() as raw:
        subscribe(raw)
        puback(raw, raw.receive())
        settle(raw)
        assert states(hub) == ["enqueued"]
        hub.faults()
        send(hub, b"2")
        puback(raw, raw.receive())
        eventually(lambda: states(hub) == ["enqueued", "completed"])
        again = raw.receive()
        assert again.payload == b"1"
        puback(raw, again)
        eventually(lambda: states(hub) == ["completed", "completed"])


def test_a_command_expires_locked_or_not_and_its_puback_counts_no_more(hub: HubInThread) -> None:
    limit(hub, command_ttl_s=0.2)
    send(hub, ack=FeedbackMode.NEGATIVE)
    with hub.raw() as raw:
        subscribe(raw)
        command = raw.receive()
        eventually(lambda: states(hub) == ["expired"])
        puback(raw, command)
        settle(raw)
        assert raw.is_silent_for(0.1)
    assert (states(hub), feedback(hub)) == (["expired"], ["Expired"])


def test_a_command_is_dead_lettered_where_the_end_of_a_lock_counts(hub: HubInThread) -> None:
    limit(hub, command_lock_s=0.1, lock_end_counts=True, command_deliveries=2)
    send(hub, ack=FeedbackMode.FULL)
    with hub.raw() as raw:
        subscribe(raw)
        raw.receive(), raw.receive()
        eventually(lambda: states(hub) == ["deadLettered"])
    assert feedback(hub) == ["DeliveryCountExceeded"]


def test_a_command_at_qos_0_is_completed_when_it_is_sent(hub: HubInThread) -> None:
    send(hub)
    with hub.raw() as raw:
        subscribe(raw, qos=0)
        assert raw.receive().qos == 0
    assert states(hub) == ["completed"]


def test_the_fifty_first_command_is_refused_to_its_sender(hub: HubInThread) -> None:
    for _ in range(50):
        send(hub)
    with pytest.raises(Problem) as caught:
        send(hub)
    assert caught.value.status == 403
    with hub.raw() as raw:
        subscribe(raw)
        first, *others = [raw.receive() for _ in range(50)]
        assert len({command.packet_id for command in (first, *others)}) == 50
        puback(raw, first)
        eventually(lambda: states(hub).count("completed") == 1)
        send(hub, b"room again")
        assert raw.receive().payload == b"room again"


def test_a_refused_subscription_is_none(hub: HubInThread) -> None:
    hub.faults(refuse_subscribe=True)
    send(hub)
    with hub.raw() as raw:
        raw.send(Subscribe(1, ((COMMANDS, 1),)))
        assert raw.receive() == Suback(1, (FAILURE,))
        assert raw.is_silent_for(0.1)


def test_a_device_made_again_inherits_no_command_and_no_session(hub: HubInThread) -> None:
    with hub.raw() as raw:
        subscribe(raw)
        hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"a": 1}, time.time()))
        send(hub)
        generation = hub.cloud.generation
        before = hub.call(lambda: generation(DEVICE))
        hub.call(lambda: hub.cloud.recreate("dev-1", time.time()))
    assert hub.call(lambda: generation(DEVICE)) != before
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet())
        assert raw.receive() == Connack(0, session_present=False)
        subscribe(raw)
        assert raw.is_silent_for(0.1)
    assert hub.call(lambda: hub.cloud.twins.get(DEVICE))["desired"] == {"$version": 1}


def test_a_hub_that_comes_back_has_its_commands_and_its_limits_as_they_were(folder: Path) -> None:
    before = HubInThread(folder / "cloud")
    limit(before, commands_pending=2)
    send(before, b"done", ack=FeedbackMode.FULL), send(before, b"in flight")
    with before.raw() as raw:
        subscribe(raw)
        puback(raw, raw.receive())
        raw.receive()
        settle(raw)
    before.close()
    after = HubInThread(folder / "cloud")
    try:
        assert (states(after), feedback(after)) == (["completed", "enqueued"], ["Success"])
        with after.raw() as raw:  # its session is still subscribed
            again = raw.receive()
            assert (again.payload, again.dup) == (b"in flight", True)
            puback(raw, again)
            eventually(lambda: states(after) == ["completed", "completed"])
        assert after.cloud.limits.commands_pending == 2
    finally:
        after.close()


# -- the clients whose behaviour is claimed ----------------------------------------------------------------


def test_the_published_sdk_acknowledges_before_its_handler_is_done(hub: HubInThread) -> None:
    """And so the cloud is told of a success that has not happened yet."""
    sent, at_puback = queue.Queue[Any](), queue.Queue[list[str]]()

    def handler(message: Any) -> None:
        eventually(lambda: states(hub) == ["completed"])
        at_puback.put(states(hub))
        sent.put(message)

    with hub.client() as client:
        client.connect()
        client.on_message_received = handler
        send(hub, b"go", correlation_id="c-1", content_type="text/plain", content_encoding="utf-8")
        message = sent.get(timeout=10)
    assert at_puback.get() == ["completed"]
    assert (message.data, message.correlation_id) == (b"go", "c-1")
    assert (message.content_type, message.content_encoding) == ("text/plain", "utf-8")


def test_paho_with_pubacks_held_back_gets_every_command_again(hub: HubInThread) -> None:
    """The way to persist before the PUBACK: what was not acknowledged comes again, with its message id."""
    limit(hub, command_lock_s=0.3)
    for n in range(5):
        send(hub, b"%d" % n)
    received: queue.Queue[Any] = queue.Queue()
    client = paho.Client(DEVICE, clean_session=False)
    packet = hub.connect_packet()
    client.username_pw_set(packet.username, (packet.password or b"").decode())
    client.tls_set(ca_certs=str(hub.ca_file))
    client.on_message = lambda _client, _data, message: received.put(message)
    send_puback: Callable[[int], int] = client._send_puback
    client._send_puback = lambda mid: 0
    client.on_connect = lambda *_: client.subscribe(COMMANDS, 1)
    client.connect(hub.address, 8883)
    client.loop_start()
    try:
        first = [received.get(timeout=10) for _ in range(5)]
        again = [received.get(timeout=10) for _ in range(5)]
        assert [m.payload for m in again] == [m.payload for m in first]
        assert [m.topic for m in again] == [m.topic for m in first]
        for message in again:
            send_puback(message.mid)
        eventually(lambda: states(hub) == ["completed"] * 5)
    finally:
        client.disconnect()
        client.loop_stop()
