"""The stand-in's hub keeps to the contract, against a client that does what the real one never would."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.devcloud.mqtt.codec import encode
from runtime.devcloud.mqtt.packets import (
    Ack,
    Bare,
    Connack,
    Connect,
    PacketType,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
    Will,
)
from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, eventually
from tests.support.hub_in_thread import (
    API,
    COMMANDS,
    DESIRED,
    DEVICE,
    EVENTS,
    REPORTED,
    TWIN_RESULTS,
    HubInThread,
    Raw,
    messages,
)

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
        raw.send(Bare(PacketType.PINGREQ))
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
        assert raw.receive() == Ack(PacketType.PUBACK, 1)


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
        Ack(PacketType.PUBREL, 2),
        Connack(0),
        Bare(PacketType.PINGRESP),
    ],
    ids=lambda packet: str(packet)[:60],
)
def test_what_the_contract_forbids_ends_the_connection_and_nothing_before_it_is_lost(
    hub: HubInThread, packet: Any
) -> None:
    with hub.raw() as raw:
        raw.send(*messages(1), packet, *messages(1, 9))
        assert raw.receive() == Ack(PacketType.PUBACK, 1)
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
        neighbour.send(Bare(PacketType.PINGREQ))
        assert neighbour.receive() == Bare(PacketType.PINGRESP)


def test_a_packet_announced_as_huge_is_refused_before_it_comes(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send_bytes(b"\x30\xff\xff\xff\x7f")
        raw.assert_dropped()


def test_a_client_that_stays_silent_for_one_and_a_half_keep_alives_is_cut(hub: HubInThread) -> None:
    with hub.raw(keep_alive_s=60) as idle, hub.raw("demo:dev-2", keep_alive_s=60) as alive:
        hub.pass_time(70)
        assert idle.is_silent_for(0.2), "longer than one keep-alive, not than one and a half"
        alive.send(Bare(PacketType.PINGREQ))
        assert alive.receive() == Bare(PacketType.PINGRESP)
        hub.pass_time(70)
        idle.assert_dropped()
        alive.send(Bare(PacketType.PINGREQ))
        assert alive.receive() == Bare(PacketType.PINGRESP)


def test_a_will_is_published_after_a_sudden_end_and_only_then(hub: HubInThread) -> None:
    with hub.raw(will=Will(EVENTS + "a=1", b"gone", 1)) as raw:
        raw.send(Bare(PacketType.DISCONNECT))
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
        assert [raw.receive() for _ in range(301)] == [Ack(PacketType.PUBACK, n) for n in range(1, 302)]
        assert raw.is_silent_for(0.1)
    assert [row["message_id"] for row in hub.messages()] == [*(f"m:{n}" for n in range(1, 301)), None]


def test_a_repeat_is_recorded_with_its_dup_flag(hub: HubInThread) -> None:
    with hub.raw() as raw:
        raw.send(*messages(1), *(m._replace(dup=True) for m in messages(1)))
        assert [raw.receive(), raw.receive()] == [Ack(PacketType.PUBACK, 1)] * 2
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
        raw.send(Ack(PacketType.PUBACK, again.packet_id), Unsubscribe(2, (COMMANDS,)))
        assert raw.receive() == Ack(PacketType.UNSUBACK, 2)
        hub.call(lambda: hub.cloud.send_command(DEVICE, b"unheard", {}, time.time()))
        hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"a": 1}, time.time()))
        assert raw.receive().topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
    hub.stop()
    hub.start()
    for clean, present in ((False, True), (True, False), (False, False)):
        with hub.raw(connect=False) as raw:
            raw.send(hub.connect_packet(clean_session=clean))
            assert raw.receive() == Connack(0, session_present=present)
    assert [row["state"] for row in hub.rows("commands")] == ["completed", "enqueued"]


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
