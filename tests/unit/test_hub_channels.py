"""The hub's topics as a device reads and writes them, checked against the stand-in's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.management import hub_channels as ours
from runtime.core.management.hub_channels import HubChannel
from runtime.devcloud.mqtt import topics as hubs
from runtime.devcloud.mqtt.packets import Publish

DEVICE = "demo:dev-1"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
RID = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)


@pytest.mark.parametrize("channel", HubChannel)
def test_the_hub_grants_each_filter(channel: HubChannel) -> None:
    hubs.channel(DEVICE, channel.topic_filter(DEVICE))


@given(RID, st.integers(0, 10**9))
def test_twin_topics_mean_the_same_to_both(rid: str, version: int) -> None:
    asked = hubs.meaning(DEVICE, Publish(ours.twin_get_topic(rid), b"", 1, 1))
    assert asked == hubs.TwinGet(rid)
    assert hubs.meaning(DEVICE, Publish(ours.reported_patch_topic(rid), b"{}", 1, 1)) == hubs.ReportedPatch(
        rid
    )
    answer = ours.twin_response_of(hubs.twin_result_topic(204, rid, version))
    assert answer is not None and answer[:3] == (204, rid, version)
    plain = ours.twin_response_of(hubs.twin_result_topic(200, rid))
    assert plain is not None and plain.version is None
    assert ours.desired_version_of(hubs.desired_topic(version)) == version


@given(TEXT, RID, st.integers(200, 599))
def test_methods_mean_the_same_to_both(name: str, rid: str, status: int) -> None:
    topic = hubs.method_topic(name, rid)
    assert ours.channel_of(topic) is HubChannel.METHODS
    assert ours.method_of(topic) == ours.MethodTopic(name, rid)
    answer = Publish(ours.method_response_topic(status, rid), b"null", 1, 1)
    assert hubs.meaning(DEVICE, answer) == hubs.MethodAnswer(status, rid)


@given(st.dictionaries(TEXT, TEXT, max_size=4))
def test_a_commands_properties_come_as_they_were_sent(properties: dict[str, str]) -> None:
    topic = hubs.command_topic(DEVICE, {"$.mid": "a b/c"}, properties)
    assert ours.channel_of(topic) is HubChannel.COMMANDS
    known = ours.command_properties_of(topic)
    assert known["$.mid"] == "a b/c" and properties.items() <= known.items()


@given(st.text(max_size=60))
def test_any_other_topic_is_no_channels(topic: str) -> None:
    assert ours.channel_of(topic) is None
    assert ours.method_of(topic) is None and ours.twin_response_of(topic) is None


@pytest.mark.parametrize("end", ["", "?", "?$rid=", "x/?rid=1", "200", "200/?", "2000/?$rid=1", "x/?$rid=1"])
def test_an_answer_that_names_no_request_is_none(end: str) -> None:
    assert ours.twin_response_of(f"$iothub/twin/res/{end}") is None
    assert ours.method_of(f"$iothub/methods/POST/{end}") is None or "$rid=1" in end
