"""The real client at the stand-in's hub, over real TLS: telemetry, twin, commands, methods, ends."""

from __future__ import annotations

import json
import queue
import time
from typing import Any

import pytest
from azure.iot.device import Message, MethodResponse, exceptions

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.packets import Ack, Connack, PacketType, Publish
from tests.support.harness import eventually
from tests.support.hub_in_thread import DEVICE, EVENTS, HubInThread, messages, payloads


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
        hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"interval": 5}, time.time()))
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
        hub.call(lambda: hub.cloud.send_command(DEVICE, b"now", {"why": "a%20+&b"}, time.time()))
        second = received.get(timeout=10)
        assert (second.data, second.custom_properties) == (b"now", {"why": "a%20+&b"})
        eventually(lambda: not hub.call(lambda: hub.cloud.commands_for(DEVICE)))


def test_a_method_is_called_and_answered(hub: HubInThread) -> None:
    with hub.client() as client:
        client.connect()

        def answer(request: Any) -> None:
            body: Any = {"heard": [request.name, request.payload]}
            client.send_method_response(MethodResponse.create_from_method_request(request, 202, body))

        client.on_method_request_received = answer
        status, body = hub.run(hub.cloud.call_method(DEVICE, "re boot/ü", {"now": True}, 10))
    assert (status, json.loads(body)) == (202, {"heard": ["re boot/ü", {"now": True}]})


def test_the_connection_is_cut_when_the_sas_expires_and_not_admitted_again(hub: HubInThread) -> None:
    password = hub.sas().encode()
    with hub.raw(password=password) as raw:
        raw.send(*messages(1))
        assert raw.receive() == Ack(PacketType.PUBACK, 1)
        assert hub.expire() == int(password.rpartition(b"=")[2])
        raw.assert_dropped()
    with hub.raw(connect=False) as raw:
        raw.send(hub.connect_packet(password=hub.sas(lifetime_s=-1).encode()))
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
    with hub.client() as client:
        client.connect()
        client.send_message("in time")
        hub.expire()
        eventually(lambda: not client.connected)
    assert hub.end_reasons() == ["the SAS has expired"]
