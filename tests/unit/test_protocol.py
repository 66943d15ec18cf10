"""The wire protocol: what is said comes out, what breaks the rules is refused with a code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.core.ingest.protocol import (
    MAX_MESSAGES,
    BadRequest,
    Code,
    Ping,
    Pong,
    ProducerKey,
    Put,
    Refusal,
    SizeLimits,
    Stored,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from runtime.core.message import Kind

LIMITS = SizeLimits(message_bytes=1_000, request_bytes=200_000)
DATA = Path(__file__).parent.parent / "data"


def decode(header: Any, *payloads: bytes) -> Any:
    return decode_request([json.dumps(header).encode(), *payloads], LIMITS)


def code_of(*frames: bytes) -> Code:
    with pytest.raises(BadRequest) as caught:
        decode_request(frames, LIMITS)
    return Code(caught.value.code)


def test_the_smallest_request_there_is() -> None:
    put = decode({"stream": "weather"}, b"21.5")
    assert isinstance(put, Put)
    assert (put.kind, put.payloads, put.producer) == (Kind.MESSAGE, [b"21.5"], None)
    assert put.descriptions[0].name.stream == "weather"


def test_one_header_describes_each_payload_separately() -> None:
    put = decode(
        {"stream": "a", "priority": 2, "messages": [{}, {"stream": "b"}, {"priority": 9, "stream": None}]},
        *[b"x"] * 3,
    )
    assert [(d.name.stream, d.priority) for d in put.descriptions] == [("a", 2), ("b", 2), (None, 9)]


def test_completions_carry_no_payload_and_name_what_is_complete() -> None:
    assert decode({"operation": "complete_batch", "batch_id": "b"}).kind is Kind.COMPLETE_BATCH
    assert decode({"operation": "complete_message", "message_id": "m"}, b"").payloads == (b"",)
    assert isinstance(decode({"operation": "ping"}), Ping)


@pytest.mark.parametrize(
    ("header", "payloads", "code"),
    [
        ([], [b""], Code.BAD_HEADER),
        ({"version": 2}, [b""], Code.BAD_VERSION),
        ({"version": True}, [b""], Code.BAD_VERSION),
        ({"operation": "delete"}, [b""], Code.UNKNOWN_OPERATION),
        ({"operation": []}, [b""], Code.UNKNOWN_OPERATION),
        ({"steam": "typo"}, [b""], Code.UNKNOWN_FIELD),
        ({"messages": [{"operation": "ping"}]}, [b""], Code.UNKNOWN_FIELD),
        ({}, [], Code.WRONG_PAYLOADS),
        ({"operation": "complete_batch", "batch_id": "b"}, [b"x"], Code.WRONG_PAYLOADS),
        ({"messages": [{}]}, [b"", b""], Code.WRONG_PAYLOADS),
        ({"messages": {}}, [b""], Code.BAD_FIELD),
        ({"operation": "complete_batch"}, [], Code.BAD_FIELD),
        ({"operation": "complete_message"}, [], Code.BAD_FIELD),
        ({"stream": ""}, [b""], Code.BAD_FIELD),
        ({"stream": 7}, [b""], Code.BAD_FIELD),
        ({"stream": "a\nb"}, [b""], Code.BAD_FIELD),
        ({"stream": "\ud800"}, [b""], Code.BAD_FIELD),
        ({"stream": "x" * 129}, [b""], Code.BAD_FIELD),
        ({"priority": 10}, [b""], Code.BAD_FIELD),
        ({"priority": True}, [b""], Code.BAD_FIELD),
        ({"ttl_s": 0}, [b""], Code.BAD_FIELD),
        ({"ttl_s": 1e300}, [b""], Code.BAD_FIELD),
        ({"properties": {"a": 1}}, [b""], Code.BAD_PROPERTY),
        ({"properties": {"a&b": "c"}}, [b""], Code.BAD_PROPERTY),
        ({"properties": {"Batch-Id": "c"}}, [b""], Code.BAD_PROPERTY),
        ({"properties": {"a": "x" * 9_000}}, [b""], Code.BAD_PROPERTY),
        ({"properties": {f"p{i}": "" for i in range(65)}}, [b""], Code.BAD_PROPERTY),
        ({"producer": "p"}, [b""], Code.BAD_KEY),
        ({"producer": "p", "boot": "b", "sequence": -1}, [b""], Code.BAD_KEY),
        ({"producer": "p", "boot": "b", "sequence": 1.0}, [b""], Code.BAD_KEY),
        ({"producer": "p/q", "boot": "b", "sequence": 1}, [b""], Code.BAD_KEY),
        *(
            ({"producer": "p", "boot": "b", "sequence": said}, [b""], Code.BAD_KEY)
            for said in (0, "0", "01", "1.0", " 1", "", "9" * 19, 2**62 + 1, None, True)
        ),
        ({"producer": None, "boot": None, "sequence": None}, [b""], Code.BAD_KEY),
        ({"version": None}, [b""], Code.BAD_VERSION),
        ({"operation": None}, [b""], Code.UNKNOWN_OPERATION),
        ({"priority": None}, [b""], Code.BAD_FIELD),
        ({"messages": None}, [b""], Code.BAD_FIELD),
        ({}, [b"x" * 1_001], Code.MESSAGE_TOO_LARGE),
        ({}, [b"x" * 1_000] * 201, Code.REQUEST_TOO_LARGE),
        ({}, [b""] * (MAX_MESSAGES + 1), Code.REQUEST_TOO_LARGE),
    ],
)
def test_what_breaks_the_rules_is_refused_with_its_code(
    header: Any, payloads: list[bytes], code: Code
) -> None:
    assert code_of(json.dumps(header).encode(), *payloads) is code


@pytest.mark.parametrize(
    "header",
    [
        b'{"stream": "a", "stream": "b"}',
        b'{"producer": "p", "boot": "b", "sequence": 1, "sequence": 2}',
        b'{"messages": [{"priority": 1, "priority": 2}]}',
        b'{"properties": {"a": "1", "a": "2"}}',
    ],
)
def test_a_name_that_stands_twice_is_refused_or_one_of_both_would_be_taken_in_silence(header: bytes) -> None:
    assert code_of(header, b"x") is Code.BAD_HEADER


@pytest.mark.parametrize("sequence", [1, 2**53 + 1, 2**62])
def test_a_sequence_may_be_text_for_those_whose_numbers_end_at_2_to_the_53(sequence: int) -> None:
    key = {"producer": "p", "boot": "b"}
    assert decode({**key, "sequence": str(sequence)}, b"x") == decode({**key, "sequence": sequence}, b"x")


@pytest.mark.parametrize(
    "field", ["stream", "priority", "ttl_s", "file", "operation", "version", "properties"]
)
def test_however_deep_a_value_is_it_is_refused_in_few_words(field: str) -> None:
    for depth in range(1, 1_100, 7):
        frame = f'{{"{field}":{"[" * depth}1{"]" * depth}}}'.encode()
        with pytest.raises(BadRequest) as caught:
            decode_request([frame, b"x"], LIMITS)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("accepted", "alike"),
    [
        ({"priority": 1}, {"priority": True}),
        ({"priority": 1}, {"priority": 1.0}),
        ({}, {"priority": None}),
        ({"stream": "1"}, {"stream": 1}),
        ({"stream": "a"}, {"stream": ["a"]}),
    ],
)
def test_what_was_accepted_does_not_let_in_what_only_looks_like_it(accepted: Any, alike: Any) -> None:
    assert isinstance(decode(accepted, b""), Put)
    assert code_of(json.dumps(alike).encode(), b"") is Code.BAD_FIELD
    assert isinstance(decode(accepted, b""), Put)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"NaN",
        b'{"ttl_s": NaN}',
        b'{"stream": "a"} {}',
        b"[" * 100_000,
        b'{"sequence": ' + b"9" * 5_000 + b"}",
    ],
)
def test_a_header_that_is_no_json_is_refused(frame: bytes) -> None:
    assert code_of(frame, b"x") is Code.BAD_HEADER


def test_white_space_around_the_header_says_nothing() -> None:
    said = decode_request([b' \r\n\t{"stream": "a"}\n', b"x"], LIMITS)
    assert said == decode({"stream": "a"}, b"x")


def test_a_huge_header_is_refused_before_it_is_parsed() -> None:
    assert code_of(b" " * 300_000, b"x") is Code.HEADER_TOO_LARGE
    assert code_of() is Code.BAD_ENVELOPE


@given(st.lists(st.binary(max_size=60), max_size=5))
@example([b'{"messages": [null]}', b""])
@example([b'{"properties": []}', b""])
@example([b'{"properties": 0}', b""])
def test_any_bytes_give_a_request_or_a_refusal(frames: list[bytes]) -> None:
    try:
        assert isinstance(decode_request(frames, LIMITS), Put | Ping)
    except BadRequest as refused:
        assert Code(refused.code)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    [
        "version",
        "operation",
        "stream",
        "properties",
        "priority",
        "ttl_s",
        "producer",
        "boot",
        "sequence",
        "messages",
    ]
)


@given(st.dictionaries(field_names, json_values, max_size=5), st.lists(st.binary(max_size=4), max_size=3))
def test_any_json_gives_a_request_or_a_refusal(header: dict[str, Any], payloads: list[bytes]) -> None:
    try:
        decode(header, *payloads)
    except BadRequest as refused:
        encode_reply(Refusal(Code(refused.code), str(refused)))  # can always be said


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
described = st.fixed_dictionaries(
    {},
    optional={
        "stream_group": names,
        "stream": names,
        "batch_id": names,
        "content_type": names,
        "priority": st.integers(0, 9),
        "ttl_s": st.floats(0.001, 1e6),
        "properties": st.dictionaries(
            st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), names, min_size=1, max_size=3
        ),
    },
)


@given(
    described,
    st.lists(st.tuples(described, st.binary(max_size=20)), min_size=1, max_size=5),
    st.integers(1, 2**62),
)
def test_what_is_encoded_is_what_is_decoded(
    shared: dict[str, Any], messages: list[tuple[dict[str, Any], bytes]], sequence: int
) -> None:
    key = {"producer": "p", "boot": "b", "sequence": sequence}
    each = [own for own, _ in messages]
    put = decode_request(
        encode_request({**key, **shared, "messages": each}, [payload for _, payload in messages]), LIMITS
    )
    assert isinstance(put, Put)
    assert (put.producer, put.first_sequence) == (ProducerKey("p", "b"), sequence)
    for (own, payload), description, stored in zip(messages, put.descriptions, put.payloads, strict=True):
        assert stored == payload
        name = {"stream_group": description.name.group, "stream": description.name.stream}
        found = {**name, "priority": description.priority, **asdict(description.details)}
        found["properties"] = json.loads(found["properties"] or "null")
        said = {**shared, **own}
        assert {field: found[field] for field in said} == said


def test_the_worst_that_is_accepted_still_fits_into_an_mqtt_topic() -> None:
    """65,535 bytes, with every byte percent-encoded."""
    text = "\U0001f600" * 128
    names = ("stream_group", "stream", "batch_id", "batch_slice_id", "message_id", "chunk_id")
    fields = dict.fromkeys(names, text)
    room = 8_192 - 2
    properties = {"pp": "\U0001f600" * (room // 4)}
    header = {**fields, "content_type": text, "properties": properties}
    put = decode_request([json.dumps(header, ensure_ascii=False).encode(), b""], SizeLimits(1_000, 100_000))
    assert isinstance(put, Put)
    encoded = sum(len(quote(value, safe="")) for value in (*fields.values(), text))
    encoded += sum(len(quote(value, safe="")) for value in properties.values())
    assert encoded + 1_000 < 65_535  # a thousand for the names, the separators and the device id


@pytest.mark.parametrize(
    "reply",
    [
        Stored([1, 2]),
        Stored([None, 7], repeated=2),
        Stored([9], warnings=(("sequence_gap", "expected 3"),)),
        Pong(),
        Refusal(Code.STORE_FULL, "full", 1000),
        Refusal(Code.BAD_FIELD, "no"),
    ],
)
def test_a_reply_says_the_same_on_the_other_side(reply: Any) -> None:
    assert decode_reply([encode_reply(reply)]) == reply


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_as_a_reply_are_a_reply_or_refused(frames: list[bytes]) -> None:
    try:
        decode_reply(frames)
    except BadRequest:
        return


@pytest.mark.parametrize("line", (DATA / "requests-v1.jsonl").read_text().splitlines())
def test_recorded_requests_of_version_1_are_still_understood(line: str) -> None:
    """Frames as latin-1 text beside what became of them: the promise to clients already out there."""
    recorded = json.loads(line)
    frames = [frame.encode("latin-1") for frame in recorded["frames"]]
    if "code" in recorded:
        assert code_of(*frames) == recorded["code"]
    else:
        decode_request(frames, LIMITS)
