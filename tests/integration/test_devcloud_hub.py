"""The stand-in's hub keeps to the contract, against the real client over real TLS, and misbehaves as told.

What the real client would never do wrong, a raw one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import exceptions

from runtime.devcloud import topics
from runtime.devcloud.mqtt import encode
from runtime.devcloud.packets import (
    Ack,
    Bare,
    Connack,
    Connect,
    Kind,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
    Will,
)
from tests.devcloud_client import Client
from tests.harness import Cloud, eventually
from tests.integration.hub_in_thread import ABRUPT, API, DEVICE, HubInThread, Message, MethodResponse, Raw

EVENTS = f"devices/{DEVICE}/messages/events/"
COMMANDS = f"devices/{DEVICE}/messages/devicebound/#"
TWIN_RESULTS, DESIRED = "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"
REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid=r-1"


@pytest.fixture
def hub(folder: Path) -> Iterator[HubInThread]:
    running = HubInThread(folder / "cloud")
    try:
        yield running
    finally:
        running.close()


def messages(count: int, start: int = 1) -> list[Publish]:
    return [Publish(f"{EVENTS}%24.mid=m:{n}", b"21.5", 1, n) for n in range(start, start + count)]


def payloads(hub: HubInThread) -> list[bytes]:
    return [row["payload"] for row in hub.messages()]


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


# -- with the real client -----------------------------------------------------------------------------------


def test_telemetry_is_recorded_with_its_properties_before_it_is_acknowledged(hub: HubInThread) -> None:
    with hub.client() as client:
        client.connect()
        message = Message("21.5", message_id="p:1:7")
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message.custom_properties = {"stream-name": "wetter & mehr/ü", "complete-batch": "true", "leer": ""}
        client.send_message(message)
        (row,) = hub.messages()
    assert (row["device_id"], row["message_id"], row["payload"]) == (DEVICE, "p:1:7", b"21.5")
    assert (row["dup"], row["qos"], row["connection"]) == (0, 1, 1)
    assert row["properties"] == {"stream-name": "wetter & mehr/ü", "complete-batch": "true", "leer": ""}
    assert row["system"] == {"$.mid": "p:1:7", "$.ct": "application/json", "$.ce": "utf-8"}


def test_the_largest_message_arrives_and_a_larger_one_costs_the_connection(hub: HubInThread) -> None:
    room = topics.MOST_MESSAGE_BYTES - len(EVENTS)
    with hub.client() as client:
        client.connect()
        client.send_message(bytes(room))
        assert [len(payload) for payload in payloads(hub)] == [room]
    with hub.raw() as raw:
        raw.send(Publish(EVENTS, bytes(room + 1), 1, 1))
        raw.assert_dropped()
    assert "262144" in (hub.end_reasons()[1] or "")


def test_the_twin_is_read_reported_and_changed_by_the_cloud(hub: HubInThread) -> None:
    desired: queue.Queue[Any] = queue.Queue()
    with hub.client() as client:
        client.connect()
        client.on_twin_desired_properties_patch_received = desired.put
        client.patch_twin_reported_properties({"firmware": {"version": "1.2"}, "gone": 1})
        client.patch_twin_reported_properties({"gone": None})
        hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"interval": 5}))
        assert desired.get(timeout=10) == {"interval": 5, "$version": 2}
        assert client.get_twin() == {
            "desired": {"interval": 5, "$version": 2},
            "reported": {"firmware": {"version": "1.2"}, "$version": 3},
        }


def test_a_command_reaches_the_device_and_leaves_the_queue_by_its_acknowledgement(hub: HubInThread) -> None:
    hub.call(lambda: hub.cloud.send_command(DEVICE, b"before it listened", {}, time.time()))
    received: queue.Queue[Any] = queue.Queue()
    with hub.client() as client:
        client.connect()
        client.on_message_received = received.put
        assert received.get(timeout=10).data == b"before it listened"
        hub.call(lambda: hub.cloud.send_command(DEVICE, b"now", {"why": "da/ß"}, time.time()))
        second = received.get(timeout=10)
        assert (second.data, second.custom_properties) == (b"now", {"why": "da/ß"})
        eventually(lambda: not hub.call(lambda: hub.cloud.commands_for(DEVICE)))


def test_a_method_is_called_and_answered(hub: HubInThread) -> None:
    with hub.client() as client:
        client.connect()

        def answer(request: Any) -> None:
            body = {"heard": [request.name, request.payload]}
            client.send_method_response(MethodResponse.create_from_method_request(request, 202, body))

        client.on_method_request_received = answer
        status, body = hub.run(hub.cloud.call_method(DEVICE, "re boot/ü", {"now": True}, 10))
    assert (status, json.loads(body)) == (202, {"heard": ["re boot/ü", {"now": True}]})


def test_the_connection_is_cut_when_the_sas_expires_and_not_admitted_again(hub: HubInThread) -> None:
    password = hub.sas(lifetime_s=1.5).encode()
    with hub.raw(password=password) as raw:
        raw.send(*messages(1))
        assert raw.receive() == Ack(Kind.PUBACK, 1)
        raw.assert_dropped()
    assert time.time() == pytest.approx(int(password.rpartition(b"=")[2]), abs=0.9)
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet(password=password))
        assert raw.receive() == Connack(5)
        raw.assert_dropped()
    assert hub.end_reasons() == ["the SAS has expired", "refused: the SAS has expired"]


def test_a_second_connection_of_a_device_ends_the_first(hub: HubInThread) -> None:
    with hub.client() as first, hub.client() as second, hub.client("demo:dev-2") as neighbour:
        neighbour.connect()
        first.connect()
        second.connect()
        eventually(lambda: not first.connected)
        second.send_message("from the second")
        neighbour.send_message("undisturbed")
    assert payloads(hub) == [b"from the second", b"undisturbed"]
    assert hub.end_reasons()[1] == "another connection of the same device"


@pytest.mark.parametrize("mode", ["abrupt", "polite"])
def test_a_dropped_client_can_come_back(hub: HubInThread, mode: str) -> None:
    for _ in range(2):
        with hub.client() as client:
            client.connect()
            client.send_message("x")
            hub.drop(mode)
            eventually(lambda: not client.connected)
    assert hub.end_reasons() == [f"dropped on request ({mode})"] * 2


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_connect_is_refused_with_the_code_that_was_asked_for(hub: HubInThread, code: int) -> None:
    hub.faults(refuse_connect_code=code)
    with hub.client() as client, pytest.raises((exceptions.ClientError, OSError)):
        client.connect()
    hub.faults()
    with hub.client() as client:
        client.connect()
    codes = [row["code"] for row in hub.rows("connections")]
    assert (set(codes[:-1]), codes[-1]) == ({code}, 0)  # after a 1, paho tries once more with MQTT 3.1


def test_a_hub_that_was_taken_away_comes_back_at_the_same_place(hub: HubInThread) -> None:
    with hub.raw() as raw:
        hub.stop()
        raw.assert_dropped()
    with hub.client() as client, pytest.raises(exceptions.ConnectionFailedError):
        client.connect()
    hub.start()
    with hub.client() as client:
        client.connect()
        client.send_message("again")
    assert payloads(hub) == [b"again"]


def test_the_real_client_is_cut_when_its_sas_expires(hub: HubInThread) -> None:
    with hub.client(lifetime_s=2.5) as client:
        client.connect()
        client.send_message("in time")
        eventually(lambda: not client.connected)
    assert hub.end_reasons() == ["the SAS has expired"]


def test_twenty_sends_of_the_real_client_wait_for_a_delay_together(hub: HubInThread) -> None:
    with hub.client() as client:
        client.connect()
        hub.faults(ack_delay_ms=300)
        started_s = time.monotonic()
        sends = [in_background(lambda: client.send_message("x")) for _ in range(20)]
        for send in sends:
            send.result(10)
        assert 0.3 <= time.monotonic() - started_s < 1.5


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


# -- CONNECT, by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"password": None}, 5),
        ({"password": b"SharedAccessSignature sr=x&sig=y&se=1"}, 5),
        ({"password": b"\xff\xfe"}, 4),
        ({"username": None, "password": None}, 4),
        ({"username": "somebody"}, 4),
        ({"username": f"127.0.0.1/{DEVICE}/{API}"}, 5),
        ({"client_id": ""}, 2),
        ({"client_id": "elsewhere:dev-1"}, 2),
        ({"client_id": "demo:dev-2"}, 5),
        ({"client_id": "demo:nobody"}, 5),
        ({"level": 5}, 1),
        ({"level": 3}, 1),
    ],
)
def test_a_wrong_connect_gets_its_code_and_the_end(hub: HubInThread, fields: Any, code: int) -> None:
    packet = hub.connect_packet()
    usual = {name: getattr(packet, name) for name in Connect.__slots__}
    with hub.raw(connect=False) as raw:
        raw.send(Connect(**{**usual, **fields}))
        assert raw.receive() == Connack(code)
        raw.assert_dropped()
    (row,) = hub.rows("connections")
    assert (row["code"], row["device_id"]) == (code, None)


def test_a_sas_of_another_device_or_another_key_is_refused(hub: HubInThread) -> None:
    other = hub.sas("demo:dev-2").encode()
    old = hub.sas().encode()
    hub.call(lambda: hub.cloud.registrations.rotate_key("dev-1"))
    for password in (other, old):
        with hub.raw(connect=False) as raw:
            raw.send(hub.connect_packet(password=password))
            assert raw.receive() == Connack(5)


def test_whatever_comes_before_connect_or_twice_ends_the_connection(hub: HubInThread) -> None:
    with hub.raw(connect=False) as raw:
        raw.send(Bare(Kind.PINGREQ))
        raw.assert_dropped()
    with hub.raw() as raw:
        raw.send(hub.connect_packet())
        raw.assert_dropped()
    with hub.raw(connect=False) as raw:
        raw.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        raw.assert_dropped()


def test_plain_text_on_the_tls_port_disturbs_nobody(hub: HubInThread) -> None:
    with hub.raw() as raw:
        with socket.create_connection((hub.address, 8883), timeout=10) as plain:
            plain.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00" * 10)
            with pytest.raises(ConnectionError):
                while plain.recv(4096):
                    pass
                raise ConnectionResetError
        raw.send(*messages(1))
        assert raw.receive() == Ack(Kind.PUBACK, 1)


def test_a_device_that_was_deleted_leaves_no_session_behind(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send(Subscribe(1, ((TWIN_RESULTS, 0),)))
        raw.receive()
    hub.call(lambda: hub.cloud.forget("dev-1", time.time()))
    hub.call(lambda: hub.cloud.registrations.adopt("dev-1", time.time()))
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet())
        assert raw.receive() == Connack(0, session_present=False)


def test_a_killed_cloud_has_every_message_that_it_acknowledged(cloud: Cloud) -> None:
    host, sas = cloud.facts["hub_host"], Client(cloud).sas("dev-kill")
    with Raw(host, Path(cloud.facts["ca_file"])) as raw:
        raw.send(Connect("demo:dev-kill", f"{host}/demo:dev-kill/{API}", sas.encode(), clean_session=False))
        assert raw.receive() == Connack(0)
        topic = "devices/demo:dev-kill/messages/events/%24.mid=m:{}"
        raw.send(*(Publish(topic.format(n), b"21.5", 1, n) for n in range(1, 5001)))
        acknowledged = {f"m:{raw.receive().packet_id}" for _ in range(500)}
        cloud.process.kill()
        with contextlib.suppress(OSError, EOFError):
            while True:
                acknowledged.add(f"m:{raw.receive().packet_id}")
    assert acknowledged <= {message.message_id for message in cloud.messages()}


# -- what ends a connection ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        Publish("weather", b"x", 1, 2),
        Publish("devices/demo:dev-2/messages/events/", b"x", 1, 2),
        Publish(EVENTS + "no-value", b"x", 1, 2),
        Publish(EVENTS, b"x", 2, 2),
        Publish("$iothub/twin/GET/?$rid=1", b"", 1, 2, retain=True),
        Publish("$iothub/twin/GET/", b"", 1, 2),
        Subscribe(2, (("#", 1),)),
        Subscribe(2, (("devices/demo:dev-2/messages/devicebound/#", 1),)),
        Unsubscribe(2, ("weather",)),
        Ack(Kind.PUBREL, 2),
        Connack(0),
        Bare(Kind.PINGRESP),
    ],
    ids=lambda packet: str(packet)[:60],
)
def test_what_the_contract_forbids_ends_the_connection_and_nothing_before_it_is_lost(
    hub: HubInThread, packet: Any
) -> None:
    with hub.raw() as raw:
        raw.send(*messages(1), packet, *messages(1, 9))
        assert raw.receive() == Ack(Kind.PUBACK, 1)
        raw.assert_dropped()
    assert len(hub.messages()) == 1
    assert hub.end_reasons() != [None]


def test_bytes_that_are_no_mqtt_end_the_connection(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send_bytes(b"\xf0\x00")
        raw.assert_dropped()
    assert hub.end_reasons() == ["packet type 15 is reserved"]


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_at_all_disturb_the_hub(hub: HubInThread, seed: int) -> None:
    """Packets with bytes turned at random: dropped or answered, and never a bug."""
    dice = random.Random(seed)
    good = [
        *map(encode, messages(1)),
        encode(Subscribe(2, ((TWIN_RESULTS, 0), (COMMANDS, 1)))),
        encode(Publish(REPORTED, b'{"a": {"b": 1}}', 1, 3)),
        encode(Publish("$iothub/methods/res/200/?$rid=1", b"{}", 1, 4)),
        encode(hub.connect_packet(will=Will(EVENTS, b"gone", 1))),
    ]
    for attempt in range(60):
        raw_bytes = bytearray(b"".join(dice.choices(good, k=3)))
        for _ in range(dice.randint(1, 8)):
            raw_bytes[dice.randrange(len(raw_bytes))] = dice.randrange(256)
        with hub.raw(connect=attempt % 3 > 0) as raw, contextlib.suppress(OSError):
            raw.send_bytes(bytes(raw_bytes))
    with hub.raw("demo:dev-2") as neighbour:
        neighbour.send(Bare(Kind.PINGREQ))
        assert neighbour.receive() == Bare(Kind.PINGRESP)


def test_a_packet_announced_as_huge_is_refused_before_it_comes(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send_bytes(b"\x30\xff\xff\xff\x7f")
        raw.assert_dropped()


def test_a_client_that_stays_silent_for_one_and_a_half_keep_alives_is_cut(hub: HubInThread) -> None:
    with hub.raw(keep_alive_s=1) as idle, hub.raw("demo:dev-2", keep_alive_s=1) as alive:
        started_s = time.monotonic()
        while time.monotonic() - started_s < 1.2:
            alive.send(Bare(Kind.PINGREQ))
            assert alive.receive() == Bare(Kind.PINGRESP)
            assert alive.is_silent_for(0.2)
        idle.assert_dropped()
        assert 1.4 < time.monotonic() - started_s < 3
        alive.send(Bare(Kind.PINGREQ))
        assert alive.receive() == Bare(Kind.PINGRESP)


def test_a_will_is_published_after_a_sudden_end_and_only_then(hub: HubInThread) -> None:
    with hub.raw(will=Will(EVENTS + "a=1", b"gone", 1)) as raw:
        raw.send(Bare(Kind.DISCONNECT))
        raw.assert_dropped()
    with hub.raw(will=Will(EVENTS + "a=1", b"gone", 1)):
        pass
    (row,) = eventually(hub.messages)
    assert (row["payload"], row["properties"]) == (b"gone", {"a": "1", "iothub-MessageType": "Will"})
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet(will=Will("elsewhere", b"")))
        raw.assert_dropped()


# -- order, sessions, twin, by hand -------------------------------------------------------------------------


def test_acknowledgements_come_once_each_and_in_order(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send(*messages(300), Publish(EVENTS, b"no answer", 0), Publish(REPORTED, b"{}", 1, 301))
        assert [raw.receive() for _ in range(301)] == [Ack(Kind.PUBACK, n) for n in range(1, 302)]
        assert raw.is_silent_for(0.1)
    assert [row["message_id"] for row in hub.messages()] == [*(f"m:{n}" for n in range(1, 301)), None]


def test_a_repeat_is_recorded_with_its_dup_flag(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send(*messages(1), *(m._replace(dup=True) for m in messages(1)))
        assert [raw.receive(), raw.receive()] == [Ack(Kind.PUBACK, 1)] * 2
    assert [row["dup"] for row in hub.messages()] == [0, 1]


def test_one_subscribe_opens_several_channels_and_a_session_keeps_them(hub: HubInThread) -> None:
    with hub.raw(clean_session=False) as raw:
        raw.send(Subscribe(1, ((TWIN_RESULTS, 0), (DESIRED, 2), (COMMANDS, 1))))
        assert raw.receive() == Suback(1, (0, 1, 1))
        hub.call(lambda: hub.cloud.send_command(DEVICE, b"go", {}, time.time()))
        first = raw.receive()
        assert (first.payload, first.qos, first.dup) == (b"go", 1, False)
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet(clean_session=False))
        assert raw.receive() == Connack(0, session_present=True)
        again = raw.receive()
        assert (again.payload, again.topic, again.dup) == (b"go", first.topic, True)
        raw.send(Ack(Kind.PUBACK, again.packet_id), Unsubscribe(2, (COMMANDS,)))
        assert raw.receive() == Ack(Kind.UNSUBACK, 2)
        hub.call(lambda: hub.cloud.send_command(DEVICE, b"unheard", {}, time.time()))
        hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"a": 1}))
        assert raw.receive().topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
    hub.stop()
    hub.start()
    for clean, present in ((False, True), (True, False), (False, False)):
        with hub.raw(connect=False) as raw:
            raw.send(hub.connect_packet(clean_session=clean))
            assert raw.receive() == Connack(0, session_present=present)
    assert [row["delivered_at"] is None for row in hub.rows("commands")] == [False, True]


def test_a_reported_patch_is_answered_with_its_version_or_why_it_was_refused(hub: HubInThread) -> None:
    nested = {"a": 1}
    for _ in range(11):
        nested = {"a": nested}  # type: ignore[dict-item]  # deeper than any type
    refused: list[bytes] = [
        b"",
        b"[1]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a": ' * 900 + b"1" + b"}" * 900,
        json.dumps(nested).encode(),
        b'{"a.b": 1}',
        b'{"$version": 1}',
        b'{"a b": 1}',
        json.dumps({"a": "x" * 4097}).encode(),
        json.dumps({f"k{n}": "x" * 4000 for n in range(9)}).encode(),
    ]
    with hub.raw() as raw:
        raw.send(Subscribe(1, ((TWIN_RESULTS, 0),)))
        raw.receive()
        for patch in refused:
            raw.send(Publish(REPORTED, patch))
            answer = raw.receive()
            assert answer.topic == "$iothub/twin/res/400/?$rid=r-1", patch[:40]
        raw.send(Publish(REPORTED, b'{"a": {"b": 1}}'))
        assert raw.receive() == Publish("$iothub/twin/res/204/?$rid=r-1&$version=2", b"")


# -- faults -------------------------------------------------------------------------------------------------


def timed(action: Callable[[], Any]) -> float:
    started_s = time.monotonic()
    action()
    return time.monotonic() - started_s


def test_delayed_acknowledgements_do_not_wait_for_one_another(hub: HubInThread) -> None:
    hub.faults(ack_delay_ms=300)
    with hub.raw() as raw:
        raw.send(*messages(50))
        assert len(hub.messages()) in range(51)
        assert timed(raw.receive) > 0.2
        assert timed(lambda: [raw.receive() for _ in range(49)]) < 0.25
    assert len(hub.messages()) == 50


def test_withheld_acknowledgements_come_in_order_when_that_ends(hub: HubInThread) -> None:
    hub.faults(withhold_acks=True)
    with hub.raw() as raw:
        raw.send(*messages(5), Bare(Kind.PINGREQ))
        assert raw.receive() == Bare(Kind.PINGRESP)
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
    with hub.raw(keep_alive_s=1) as raw:
        hub.faults(silent=True)
        raw.send(*messages(3), Bare(Kind.PINGREQ))
        with hub.raw("demo:dev-2", connect=False) as late:
            late.send(hub.connect_packet("demo:dev-2"))
            assert late.is_silent_for(0.3)
            assert raw.is_silent_for(1.7)  # longer than the keep-alive allows
            assert hub.messages() == []
            hub.faults()
            assert late.receive() == Connack(0)
        answers = [raw.receive() for _ in range(4)]
        assert Bare(Kind.PINGRESP) in answers
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
        raw.send(*messages(11))
        assert timed(lambda: [raw.receive() for _ in range(11)]) == pytest.approx(0.5, abs=0.2)
        raw.send(*messages(300))
        with pytest.raises((EOFError, OSError)):
            while True:
                raw.receive()
    assert hub.end_reasons() == ["throttled, and too many messages in flight"]


def test_an_abrupt_drop_is_a_reset_and_a_polite_one_a_goodbye(hub: HubInThread) -> None:
    with hub.raw() as raw:
        hub.drop("abrupt")
        with pytest.raises(ConnectionResetError):
            os.read(raw.socket.fileno(), 1)  # below TLS
    with hub.raw() as raw:
        hub.drop("polite")
        with pytest.raises(EOFError):
            raw.receive()


def test_a_client_that_never_reads_does_not_fill_the_hubs_memory(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.socket.settimeout(1)
        ping = encode(Bare(Kind.PINGREQ)) * 50_000
        with pytest.raises((TimeoutError, ssl.SSLError)):
            for _ in range(400):
                raw.send_bytes(ping)
        with hub.raw("demo:dev-2") as neighbour:
            neighbour.send(Bare(Kind.PINGREQ))
            assert neighbour.receive() == Bare(Kind.PINGRESP)
