"""Leaves: whose messages are taken, under which names they go out, and what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from runtime.core.delivery.envelope import Packing, Parcel, Telemetry, seal
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.message_fields import (
    MAX_PROPERTIES,
    MAX_PROPERTIES_BYTES,
    PLAIN,
    BadRequest,
    Code,
    describe,
)
from runtime.core.ingest.new_names import (
    NEW_LEAVES_AT_ONCE,
    STREAMS_OF_A_LEAF,
    LeafTerms,
    NewLeaves,
    leaves_met,
)
from runtime.core.ingest.protocol import ProducerKey, Put, Refusal, SizeLimits, Stored, decode_request
from runtime.core.ingest.quota import TEXTS_BYTES, Amount, Limit, Quota
from runtime.core.ingest.request_packs import Fields, described
from runtime.core.ingest.sequences import Sequences
from runtime.core.ingest.store_view import Stamp, View
from runtime.core.message import Kind, StoredMessage, StreamName

WIDE = Quota(Limit(Amount(100_000, 10**9)))
AUTO = LeafTerms(auto=True, new_leaves=1_000)
LIMITS = SizeLimits(1_000, 10_000)


def admission(leaves: LeafTerms = AUTO, quota: Quota = WIDE, **view: Any) -> Admission:
    facts = {"next_id": 1, "streams": {}, "next_stream": 1, "room_bytes": 10**9, "levels": {}, **view}
    return Admission(quota, View(total=Amount(), **facts), Stamp(None, 5.0, 1), {}, leaves=leaves)


def put(leaf: str | None, *, stream: str = "s", via: Sequence[str] = (), count: int = 1, **more: Any) -> Put:
    stated = {"stream": stream, "leaf": leaf, "via": list(via), **more}
    return Put(Kind.MESSAGE, [describe(stated, PLAIN)] * count, [b"x"] * count, None, 0)


def refused(reply: object) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


def requested(header: bytes, count: int = 1) -> Put:
    request = decode_request([header, *[b"x"] * count], LIMITS)
    assert isinstance(request, Put)
    return request


# --- what may be stated ---


@pytest.mark.parametrize("leaf", ["abc", "a" * 91, "press 7", "press/7", "préss", 7, ["press-7"]])
def test_a_leaf_that_is_no_device_id_is_refused_with_the_rule(leaf: object) -> None:
    with pytest.raises(BadRequest, match="4 to 90") as caught:
        describe({"leaf": leaf}, PLAIN)
    assert caught.value.code == Code.BAD_FIELD


def test_a_message_s_own_leaf_overrides_the_header_s_and_null_takes_it_back() -> None:
    request = requested(b'{"stream":"s","leaf":"leaf-a","messages":[{},{"leaf":"leaf-b"},{"leaf":null}]}', 3)
    assert [each.name.leaf for each in request.descriptions] == ["leaf-a", "leaf-b", None]
    assert [each.stored.properties for each in request.descriptions] == [
        '{"source-device-id":"leaf-a"}',
        '{"source-device-id":"leaf-b"}',
        None,
    ]


@pytest.mark.parametrize("name", ["source-device-id", "gateway-path", "Source-Device-Id"])
def test_no_producer_names_a_leaf_among_its_properties(name: str) -> None:
    with pytest.raises(BadRequest, match="platform's own"):
        describe({"properties": {name: "press-7"}}, PLAIN)


def test_more_gateways_than_azure_nests_are_a_loop() -> None:
    via = [f"gate-{n}" for n in range(6)]
    with pytest.raises(BadRequest) as caught:
        describe({"leaf": "leaf-a", "via": via}, PLAIN)
    assert caught.value.code == Code.LOOP
    assert describe({"leaf": "leaf-a", "via": via[:5]}, PLAIN).via == tuple(via[:5])


def test_a_request_holds_a_copy_of_the_path_that_its_source_may_change() -> None:
    via = ["gate-1"]
    _, fields = described((b"x", Fields(leaf="leaf-a", via=via)))
    via.append("gate-2")
    assert fields == {"leaf": "leaf-a", "via": ["gate-1"]}


def test_the_largest_texts_that_may_be_stated_count_as_sound_in_the_store() -> None:
    """Beyond that bound a row counts as damaged: its message would be in no counter."""
    texts = dict.fromkeys(("batch_id", "batch_slice_id", "message_id", "chunk_id", "content_type"), "x" * 128)
    properties = {f"p{n:02}": '"' * 125 for n in range(MAX_PROPERTIES)}
    via = [f"{n}" * 90 for n in range(5)]
    largest = describe({**texts, "properties": properties, "leaf": "l" * 90, "via": via}, PLAIN)
    assert sum(len(n) + len(v) for n, v in properties.items()) > MAX_PROPERTIES_BYTES - MAX_PROPERTIES
    assert largest.text_bytes < TEXTS_BYTES


# --- whose messages are taken ---


def test_a_device_that_is_no_gateway_takes_no_leaf_and_all_else() -> None:
    deciding = admission(LeafTerms())
    assert refused(deciding.decide(put("leaf-a"))) == Code.UNKNOWN_LEAF
    assert isinstance(deciding.decide(put(None)), Stored)
    assert not deciding.details, "a message without a leaf is stored as ever"


def test_a_leaf_on_the_list_is_taken_and_another_is_not() -> None:
    deciding = admission(LeafTerms(frozenset({"leaf-a"})))
    assert isinstance(deciding.decide(put("leaf-a")), Stored)
    reply = deciding.decide(put("leaf-b"))
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.retry_after_ms) == (Code.UNKNOWN_LEAF, None)
    assert "leaf-b" in reply.message


def test_a_leaf_that_left_the_list_is_refused_though_the_store_knows_it() -> None:
    deciding = admission(LeafTerms(), streams={StreamName(None, "s", "leaf-a"): 1}, next_stream=2)
    assert refused(deciding.decide(put("leaf-a"))) == Code.UNKNOWN_LEAF


def test_a_repeat_is_acknowledged_though_the_leaf_left_the_list_meanwhile() -> None:
    memory = Sequences()
    memory.add(1, 1, 40)
    key = ProducerKey("p", "b")
    deciding = Admission(
        WIDE, View(50, {}, 1, {}, Amount(), 10**9), Stamp(None, 5.0, 1), {key: memory}, leaves=LeafTerms()
    )
    assert deciding.decide(put("leaf-a")._replace(producer=key, first_sequence=1)) == Stored([40], repeated=1)


def test_what_has_passed_this_gateway_before_is_a_loop() -> None:
    deciding = admission(LeafTerms(auto=True, new_leaves=9, own_id="gate-1"))
    assert refused(deciding.decide(put("leaf-a", via=["gate-0", "gate-1"]))) == Code.LOOP
    assert isinstance(deciding.decide(put("leaf-a", via=["gate-0"])), Stored)


def test_a_path_without_a_leaf_is_refused() -> None:
    assert refused(admission().decide(put(None, via=["gate-0"]))) == Code.BAD_FIELD


# --- what bounds them ---


def test_leaves_and_their_streams_are_bounded_and_lock_out_no_stream_of_the_device() -> None:
    deciding = admission(LeafTerms(auto=True, max_leaves=2, new_leaves=9), Quota(WIDE.total, max_streams=1))
    for leaf in ("leaf-a", "leaf-b"):
        for stream in range(STREAMS_OF_A_LEAF):
            assert isinstance(deciding.decide(put(leaf, stream=f"s{stream}")), Stored)
    assert refused(deciding.decide(put("leaf-a", stream="more"))) == Code.TOO_MANY_STREAMS
    assert refused(deciding.decide(put("leaf-c"))) == Code.TOO_MANY_LEAVES
    assert isinstance(deciding.decide(put(None)), Stored)
    assert refused(deciding.decide(put(None, stream="another"))) == Code.TOO_MANY_STREAMS


def test_invented_leaves_come_in_slowly_and_listed_ones_at_once() -> None:
    deciding = admission(LeafTerms(frozenset({"leaf-z"}), auto=True, new_leaves=1))
    assert isinstance(deciding.decide(put("leaf-a")), Stored)
    assert isinstance(deciding.decide(put("leaf-a", stream="other")), Stored)
    reply = deciding.decide(put("leaf-b"))
    assert isinstance(reply, Refusal)
    assert reply.code == Code.TOO_MANY_LEAVES
    assert reply.retry_after_ms
    assert isinstance(deciding.decide(put("leaf-z")), Stored)
    assert leaves_met(deciding.view.streams, deciding.new_streams) == {"leaf-a", "leaf-z"}


def test_new_leaves_are_allowed_a_burst_and_then_one_a_second() -> None:
    new = NewLeaves()
    assert new.allowed(1_000.0) == NEW_LEAVES_AT_ONCE
    new.met(NEW_LEAVES_AT_ONCE)
    assert [new.allowed(1_000.5), new.allowed(1_003.0)] == [0, 3]
    assert new.allowed(9_000.0) == NEW_LEAVES_AT_ONCE, "what was not used is not saved up"


def test_a_leaf_s_limit_counts_all_its_streams_and_no_other_leaf() -> None:
    a, b = (StreamName(None, "s", leaf) for leaf in ("leaf-a", "leaf-b"))
    stored = {a: {4: Amount(2, 20)}, b: {4: Amount(3, 30)}, StreamName(None, "s"): {4: Amount(50, 500)}}
    quota = Quota(WIDE.total, leaf_messages=3)
    deciding = admission(quota=quota, levels=stored, streams={a: 1, b: 2}, next_stream=3)
    assert refused(deciding.decide(put("leaf-a", stream="t", count=4))) == Code.EXCEEDS_LIMIT
    assert isinstance(deciding.decide(put("leaf-a", stream="t")), Stored)
    for leaf in ("leaf-a", "leaf-b"):
        assert refused(deciding.decide(put(leaf))) == Code.LEAF_FULL
    assert isinstance(deciding.decide(put("leaf-c", count=3)), Stored)
    assert isinstance(deciding.decide(put(None, count=9)), Stored)


def test_the_limit_of_a_stream_holds_for_each_leaf_by_itself() -> None:
    quota = Quota(WIDE.total, streams={StreamName(None, "s"): Limit(Amount(1, 100))})
    deciding = admission(quota=quota)
    for leaf in ("leaf-a", "leaf-b", None):
        assert isinstance(deciding.decide(put(leaf)), Stored)
        assert refused(deciding.decide(put(leaf))) == Code.STREAM_FULL


# --- under which names they go out ---


def telemetry(properties: dict[str, str], **fields: Any) -> Telemetry:
    """The message on the wire as the store gives it back."""
    message = StoredMessage(
        id=5,
        stream_group=None,
        stream="weather",
        leaf=properties.get("source-device-id"),
        properties=properties,
        kind=Kind.MESSAGE,
        priority=4,
        stored_wall_s=None,
        stored_boot_s=1.0,
        stored_boot_id="boot",
        payload=b"21.5",
        key="probe/b1/7",
        **fields,
    )
    sealed = seal(message, Packing())
    assert isinstance(sealed, Parcel)
    return sealed.open(0)


def test_the_hub_sees_the_leaf_and_the_path_to_this_gateway() -> None:
    """The golden line: what receivers go by."""
    through = telemetry({"source-device-id": "press-7", "gateway-path": "hall-1/hall-2", "unit": "C"})
    assert through.topic("demo:gate.main") == (
        "devices/demo:gate.main/messages/events/%24.mid=probe%3Ab1%3A7&source-device-id=press-7"
        "&stream-name=weather&unit=C&gateway-path=hall-1%2Fhall-2%2Fgate.main"
    )
    direct = telemetry({"source-device-id": "press-7"})
    assert direct.topic("demo:gate.main").endswith("&gateway-path=gate.main")
    assert direct.properties_from("demo:gate.main")["gateway-path"] == "gate.main"


def test_a_message_without_a_leaf_says_neither() -> None:
    plain = telemetry({"unit": "C"})
    assert plain.topic("gate.main") == (
        "devices/gate.main/messages/events/%24.mid=probe%3Ab1%3A7&stream-name=weather&unit=C"
    )
    assert plain.properties_from("gate.main") == {"stream-name": "weather", "unit": "C"}


def test_every_chunk_says_the_leaf_under_the_identity_that_sends_it() -> None:
    message = StoredMessage(
        id=5,
        stream_group=None,
        stream="weather",
        properties={"source-device-id": "press-7"},
        kind=Kind.MESSAGE,
        priority=4,
        stored_wall_s=None,
        stored_boot_s=1.0,
        stored_boot_id="boot",
        payload=b"0123456789",
        key="probe/b1/7",
    )
    sealed = seal(message, Packing(chunk_bytes=5))
    assert isinstance(sealed, Parcel)
    assert sealed.pieces == 3
    for number in range(3):
        topic = sealed.open(number).topic("gate-2")
        assert "&source-device-id=press-7" in topic
        assert topic.endswith("&gateway-path=gate-2")
    assert sealed.open(1).topic("gate-3").endswith("&gateway-path=gate-3"), "its id can change on the way"
