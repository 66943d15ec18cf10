"""The hub's topics: a property bag survives the wire, and what the real hub refuses is refused."""

from __future__ import annotations

from typing import Any

import pytest
from azure.iot.device import Message
from azure.iot.device.iothub.pipeline import mqtt_topic_iothub as azure_topics
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.envelope import Telemetry
from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.packets import Publish, Will
from runtime.devcloud.mqtt.topics import (
    MOST_MESSAGE_BYTES,
    BadTopic,
    Channel,
    MethodAnswer,
    ReportedPatch,
    TelemetryTopic,
    TwinGet,
)

DEVICE = "demo:dev-1"
EVENTS = f"devices/{DEVICE}/messages/events/"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = texts.filter(lambda name: name != "" and not name.startswith("$."))


def meaning(topic: str, payload: bytes = b"", qos: int = 1, **flags: Any) -> topics.Meaning:
    return topics.meaning(DEVICE, Publish(topic, payload, qos, 1 if qos else 0, **flags))


@given(st.dictionaries(names, texts))
def test_a_property_bag_is_what_was_put_in(properties: dict[str, str]) -> None:
    assert topics.parse_bag(topics.format_bag(properties)) == properties


@given(st.dictionaries(names, texts), texts.filter(bool))
def test_what_the_real_client_encodes_is_understood(properties: dict[str, str], content_type: str) -> None:
    message = Message(b"", message_id="p:1", content_type=None)
    message.content_type, message.content_encoding = content_type, "utf-8"
    message.custom_properties = properties
    assert meaning(azure_topics.encode_message_properties_in_topic(message, EVENTS)) == TelemetryTopic(
        properties, {"$.mid": "p:1", "$.ct": content_type, "$.ce": "utf-8"}
    )


@given(st.text(max_size=60))
def test_any_topic_at_all_has_a_meaning_or_is_refused(topic: str) -> None:
    for tried in (topic, EVENTS + topic, "$iothub/" + topic, "$iothub/methods/res/" + topic):
        try:
            meaning(tried)
        except BadTopic:
            continue


@pytest.mark.parametrize(
    "bag",
    [
        "name",  # no value
        "=value",
        "a=1&",
        "&a=1",
        "a=1&&b=2",
        "a=1=2",
        "a=%",
        "a=%4",
        "a=%zz",
        "a=%C3%28",  # not UTF-8
        "a=b c",
        "a=ü",
        "a=\x7f",
        'a="',
        "a=1&a=2",
        "a=1&%61=2",  # the same name, encoded
        "$.xyz=1",
        "%24.xyz=1",
        "$.mid=",
        "$.mid=a/b",
        "$.mid=%C3%BC",
        "$.mid=" + "x" * 129,
    ],
)
def test_a_malformed_property_bag_is_refused(bag: str) -> None:
    with pytest.raises(BadTopic):
        meaning(EVENTS + bag)


@pytest.mark.parametrize(
    "topic",
    [
        "weather",
        "devices/demo:dev-2/messages/events/",
        f"devices/{DEVICE}/messages/events",
        f"devices/{DEVICE}/messages/devicebound/",
        f"devices/{DEVICE}/modules/m/messages/events/",
        f"/devices/{DEVICE}/messages/events/",
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?$rid=",
        "$iothub/twin/GET/?$rid=1&x=2",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$iothub/twin/res/200/?$rid=1",
        "$iothub/methods/res/ok/?$rid=1",
        "$iothub/methods/res/200/",
        "$iothub/methods/res/200/\n?$rid=1",
        "$iothub/methods/POST/reboot/?$rid=1",
    ],
)
def test_a_topic_that_is_not_the_devices_own_is_refused(topic: str) -> None:
    with pytest.raises(BadTopic):
        meaning(topic)


def test_requests_of_the_device_are_recognised() -> None:
    uuid = "3f0f4c6e-6a0c-4be0-a6a7-9d2b54c1a7d0"
    assert meaning(f"$iothub/twin/GET/?$rid={uuid}") == TwinGet(uuid)
    assert meaning(f"$iothub/twin/PATCH/properties/reported/?$rid={uuid}") == ReportedPatch(uuid)
    assert meaning("$iothub/methods/res/-1/?$rid=1") == MethodAnswer(-1, "1")


def test_a_message_at_the_limit_is_taken_and_one_byte_more_is_refused() -> None:
    topic = EVENTS + "stream-name=wetter"
    room = MOST_MESSAGE_BYTES - len(topic)
    assert isinstance(meaning(topic, bytes(room)), TelemetryTopic)
    with pytest.raises(BadTopic, match="262144"):
        meaning(topic, bytes(room + 1))


def test_retain_is_a_property_of_telemetry_and_refused_elsewhere() -> None:
    assert meaning(EVENTS, retain=True) == TelemetryTopic({"mqtt-retain": "true"}, {})
    with pytest.raises(BadTopic, match="RETAIN"):
        meaning("$iothub/twin/GET/?$rid=1", retain=True)


def test_qos_2_is_refused_and_qos_0_is_not() -> None:
    assert meaning(EVENTS, qos=0) == TelemetryTopic({}, {})
    with pytest.raises(BadTopic, match="QoS 2"):
        meaning(EVENTS, qos=2)


def test_only_the_devices_own_channels_may_be_listened_to() -> None:
    assert topics.channel(DEVICE, f"devices/{DEVICE}/messages/devicebound/#") is Channel.COMMANDS
    assert topics.channel(DEVICE, "$iothub/twin/res/#") is Channel.TWIN_RESULTS
    for name in ("#", "devices/demo:dev-2/messages/devicebound/#", "$iothub/#", EVENTS + "#"):
        with pytest.raises(BadTopic):
            topics.channel(DEVICE, name)


def test_a_will_must_be_telemetry_of_the_device() -> None:
    assert topics.last_will(DEVICE, Will(EVENTS + "a=1", b"gone", 1)).payload == b"gone"
    for will in (Will("elsewhere", b""), Will("$iothub/twin/GET/?$rid=1", b""), Will(EVENTS, b"", 2)):
        with pytest.raises(BadTopic):
            topics.last_will(DEVICE, will)


@given(st.dictionaries(names, texts))
def test_the_real_client_understands_a_command(properties: dict[str, str]) -> None:
    topic = topics.command_topic(DEVICE, {"$.mid": "m:1"}, properties)
    message = Message(b"")
    azure_topics.extract_message_properties_from_topic(topic, message)
    assert azure_topics.is_c2d_topic(topic, DEVICE)
    assert (message.message_id, message.custom_properties) == ("m:1", properties)


def test_a_command_carries_its_properties_as_the_hub_writes_them() -> None:
    """As captured: percent-encoded, in this order, and a property without a value as its bare name."""
    system = {"$.exp": "2020-07-25T14:14:25.1720000Z", "$.mid": "Commands:go", "$.ce": "utf-8"}
    topic = topics.command_topic("dev-1", {**system, "iothub-ack": "none"}, {"p": "a b", "q": "", "r": None})
    assert topic == (
        "devices/dev-1/messages/devicebound/%24.exp=2020-07-25T14%3A14%3A25.1720000Z&%24.mid=Commands%3Ago"
        "&%24.to=%2Fdevices%2Fdev-1%2Fmessages%2Fdevicebound&%24.ce=utf-8&iothub-ack=none&p=a%20b&q=&r"
    )


def test_an_answer_to_a_method_has_a_limit() -> None:
    topic = "$iothub/methods/res/200/?$rid=1"
    assert meaning(topic, bytes(128 * 1024)) == MethodAnswer(200, "1")
    with pytest.raises(BadTopic, match="131072"):
        meaning(topic, bytes(128 * 1024 + 1))


@given(texts.filter(bool))
def test_the_real_client_understands_a_method_call(name: str) -> None:
    topic = topics.method_topic(name, "17")
    assert azure_topics.get_method_name_from_topic(topic) == name
    assert azure_topics.get_method_request_id_from_topic(topic) == "17"


def test_the_real_client_understands_twin_answers() -> None:
    topic = topics.twin_result_topic(204, "r-1", 7)
    assert azure_topics.get_twin_request_id_from_topic(topic) == "r-1"
    assert azure_topics.get_twin_status_code_from_topic(topic) == "204"
    assert topic.endswith("&$version=7")
    assert azure_topics.is_twin_desired_property_patch_topic(topics.desired_topic(3))


def leaf_topic(**properties: str) -> str:
    return EVENTS + topics.format_bag({name.replace("_", "-"): value for name, value in properties.items()})


@pytest.mark.parametrize(
    "properties",
    [
        {"source_device_id": "press-7"},
        {"gateway_path": "dev-1"},
        {"source_device_id": "p7", "gateway_path": "dev-1"},
        {"source_device_id": "press-7", "gateway_path": "dev-2"},
        {"source_device_id": "press-7", "gateway_path": "demo:dev-1"},
        {"source_device_id": "press-7", "gateway_path": "dev-1/hall-1"},
        {"source_device_id": "press-7", "gateway_path": "hall 1/dev-1"},
        {"source_device_id": "press-7", "gateway_path": "dev-1/hall-1/dev-1"},
        {
            "source_device_id": "press-7",
            "gateway_path": "/".join([f"hall-{n}" for n in range(6)] + ["dev-1"]),
        },
    ],
)
def test_a_leaf_or_a_path_that_cannot_be_is_refused(properties: dict[str, str]) -> None:
    with pytest.raises(BadTopic, match=r"source-device-id|gateway-path"):
        meaning(leaf_topic(**properties))


def test_what_upload_says_of_a_leaf_is_understood() -> None:
    telemetry = Telemetry("p:b:1", b"21.5", (("source-device-id", "press-7"),), passed="hall-1")
    assert meaning(telemetry.topic(DEVICE), telemetry.payload) == TelemetryTopic(
        {"source-device-id": "press-7", "gateway-path": "hall-1/dev-1"}, {"$.mid": "p:b:1"}
    )
