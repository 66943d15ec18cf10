"""The protocol between programs and the management worker: there and back, and whatever else comes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.core.management import protocol
from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.protocol import (
    ManagementOperation,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from runtime.core.management.replies import (
    Alive,
    AnswerTaken,
    CallHandedOver,
    CommandHandedOver,
    Identified,
    Kept,
    LeafList,
    ManagementRefusal,
    ManagementReply,
    NoCall,
    NoCommand,
    OperatorAnswer,
    TwinValue,
    Watched,
)
from runtime.core.management.requests import (
    AnswerRequest,
    AppliedRequest,
    CallRequest,
    CompleteRequest,
    DropRequest,
    ExtendRequest,
    FailRequest,
    LeavesRequest,
    ManagementRequest,
    PingRequest,
    ReceiveRequest,
    ReportRequest,
    RequeueRequest,
    ServeRequest,
    TwinPart,
    TwinRequest,
    WatchRequest,
    WhoAmIRequest,
)
from runtime.core.management.twin import ReportMode

PATHS = st.lists(st.sampled_from(["a", "b~", "c/d", "é", "😀"]), max_size=3).map(tuple)
COUNTS = st.integers(1, 2**53)
NUMBERS = st.none() | st.integers(0, 2**53)
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=9)
WAITS = st.floats(0, 300)
POLLS = st.sampled_from(["", "7", "a.b-c_d"])
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=6,
)
BYTES = st.binary(max_size=20)
REQUESTS: st.SearchStrategy[ManagementRequest] = st.one_of(
    st.builds(PingRequest),
    st.builds(WhoAmIRequest),
    st.builds(LeavesRequest),
    st.builds(TwinRequest, st.sampled_from(TwinPart), PATHS),
    st.builds(
        ReportRequest, st.sampled_from([ReportMode.SET, ReportMode.PATCH]), PATHS, NUMBERS, WAITS, JSON
    ),
    st.builds(ReportRequest, st.just(ReportMode.REMOVE), PATHS, NUMBERS, WAITS, st.none()),
    st.builds(WatchRequest, PATHS, st.integers(0, 99), WAITS),
    st.builds(AppliedRequest, st.integers(0, 99), PATHS, st.integers(200, 599), WORDS),
    st.builds(
        ReceiveRequest, NAMES, st.sampled_from(["*", "press-7", "press-*"]), st.floats(1, 3600), WAITS, POLLS
    ),
    st.builds(ExtendRequest, COUNTS, COUNTS, st.floats(1, 3600), st.none() | st.floats(0, 100), WORDS),
    st.builds(CompleteRequest, COUNTS, COUNTS, st.integers(200, 599), BYTES),
    st.builds(
        FailRequest, COUNTS, COUNTS, st.integers(200, 599), WORDS, st.none() | st.floats(0, 86_400), BYTES
    ),
    st.builds(ServeRequest, NAMES, WAITS, POLLS),
    st.builds(AnswerRequest, COUNTS, st.integers(200, 599), BYTES),
    st.builds(RequeueRequest, COUNTS),
    st.builds(DropRequest, COUNTS),
    st.builds(CallRequest, WORDS, WAITS, BYTES),
)
AGES = st.none() | st.floats(0, 1e9)
REPLIES: st.SearchStrategy[tuple[ManagementRequest, ManagementReply]] = st.one_of(
    st.tuples(st.just(PingRequest()), st.builds(Alive, COUNTS)),
    st.tuples(
        st.just(WhoAmIRequest()),
        st.builds(
            Identified, WORDS, NUMBERS, st.dictionaries(WORDS, st.lists(WORDS, max_size=2), max_size=2)
        ),
    ),
    st.tuples(st.just(TwinRequest()), st.builds(TwinValue, JSON, NUMBERS, COUNTS, AGES, WORDS)),
    st.tuples(
        st.just(ReportRequest()),
        st.builds(Kept, NUMBERS, st.none() | st.booleans())
        | st.builds(
            ManagementRefusal, st.sampled_from([str(code) for code in ManagementCode]), WORDS, NUMBERS
        ),
    ),
    st.tuples(
        st.just(WatchRequest()),
        st.builds(Watched, COUNTS, JSON) | st.builds(Watched, COUNTS, st.none(), st.just(True)),
    ),
    st.tuples(
        st.just(ReceiveRequest()),
        st.builds(NoCommand)
        | st.builds(
            CommandHandedOver,
            COUNTS,
            COUNTS,
            WORDS,
            WORDS,
            COUNTS,
            AGES,
            BYTES,
            WORDS,
            st.dictionaries(WORDS, WORDS),
        ),
    ),
    st.tuples(
        st.just(ServeRequest(("m",))),
        st.builds(NoCall) | st.builds(CallHandedOver, COUNTS, WORDS, WAITS, BYTES, WORDS),
    ),
    st.tuples(st.just(AnswerRequest(1)), st.builds(AnswerTaken, st.booleans())),
    st.tuples(st.just(CallRequest("m")), st.builds(OperatorAnswer, st.integers(200, 599), BYTES)),
    st.tuples(st.just(LeavesRequest()), st.builds(LeafList, st.dictionaries(WORDS, AGES, max_size=3))),
)


@given(REQUESTS)
def test_a_request_comes_back_from_its_frames(request: ManagementRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(REPLIES)
def test_a_reply_comes_back_from_its_frames(pair: tuple[ManagementRequest, ManagementReply]) -> None:
    request, reply = pair
    assert decode_reply(request, encode_reply(reply)) == reply


@given(st.lists(st.binary(max_size=60), max_size=4))
@example([b"[" * 100_000])
@example([b'{"a":' * 50_000])
@example([b'{"operation":"report"}', b"[" * 200_000])
@example([b'{"operation":"report"}', b"1" * 5000])
@example([b"\xff"])
@example([b'{"operation":["ping"]}'])
@example([b'{"operation":"ping","version":true}'])
def test_any_bytes_are_a_request_or_are_refused(frames: list[bytes]) -> None:
    try:
        decode_request(frames)
    except RequestRefused as refused:
        assert refused.code in list(ManagementCode) and str(refused).isascii()


@given(
    st.sampled_from(ManagementOperation), st.dictionaries(st.sampled_from(sorted(protocol._PARSERS)), JSON)
)
def test_any_fields_are_a_request_or_are_refused(operation: str, header: dict[str, Any]) -> None:
    try:
        decode_request([json.dumps({"operation": operation, **header}).encode(), b"{}"])
    except RequestRefused as refused:
        assert refused.code in list(ManagementCode) and str(refused).isascii()


@given(
    st.sampled_from([PingRequest(), TwinRequest(), WatchRequest(), ReceiveRequest()]),
    st.lists(BYTES, max_size=3),
)
@example(PingRequest(), [b"5"])
@example(PingRequest(), [b'{"ok":false,"error":5}'])
@example(TwinRequest(), [b'{"ok":true,"version":1,"change":2,"age_s":null,"state":"level"}'])
@example(ReceiveRequest(), [b'{"ok":false,"error":{"code":"x","message":"y","retry_after_ms":-1}}'])
def test_any_bytes_are_a_reply_or_are_refused(request: ManagementRequest, frames: list[bytes]) -> None:
    with pytest.raises(RequestRefused):
        decode_reply(request, frames)


@pytest.mark.parametrize(
    ("header", "payloads", "code"),
    [
        ({}, [], "unknown_operation"),
        ({"operation": "pong"}, [], "unknown_operation"),
        ({"operation": "ping", "version": 2}, [], "bad_version"),
        ({"operation": "ping", "path": "/a"}, [], "unknown_field"),
        ({"operation": "report", "value": 1}, [b"1"], "unknown_field"),
        ({"operation": "ping"}, [b""], "wrong_payloads"),
        ({"operation": "report"}, [], "wrong_payloads"),
        ({"operation": "report", "mode": "remove"}, [b"1"], "wrong_payloads"),
        ({"operation": "report"}, [b"1", b"2"], "wrong_payloads"),
        ({"operation": "report"}, [b'{"a":1,"a":2}'], "bad_value"),  # row 46 of the merge cases
        ({"operation": "report"}, [b"NaN"], "bad_value"),
        ({"operation": "report", "path": "a"}, [b"1"], "bad_field"),
        ({"operation": "report", "path": "/a.b"}, [b"1"], "bad_value"),
        ({"operation": "report", "mode": "merge"}, [b"1"], "bad_field"),
        ({"operation": "complete", "command": 1}, [], "bad_field"),
        ({"operation": "complete", "command": True, "token": 1}, [], "bad_field"),
        ({"operation": "receive", "wait_s": 301}, [], "bad_field"),
        ({"operation": "receive", "names": []}, [], "bad_field"),
        ({"operation": "receive", "names": ["a\n"]}, [], "bad_field"),
        ({"operation": "receive", "poll": ""}, [], "bad_field"),
        ({"operation": "serve"}, [], "bad_field"),
        ({"operation": "applied", "change": 1, "status": 199}, [], "bad_field"),
        ({"operation": "twin", "half": "other"}, [], "bad_field"),
    ],
)
def test_a_bad_request_is_named_by_its_code(header: dict[str, Any], payloads: list[bytes], code: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        decode_request([json.dumps(header).encode(), *payloads])
    assert refused.value.code == code


def test_sizes_are_bounded() -> None:
    for frames, code in (
        ([], "bad_envelope"),
        ([b" " * 65_537], "header_too_large"),
        ([b'{"operation":"complete","command":1,"token":1}', b"x" * 262_145], "payload_too_large"),
    ):
        with pytest.raises(RequestRefused) as refused:
            decode_request(frames)
        assert refused.value.code == code


def test_every_operation_has_a_request_and_every_field_a_rule() -> None:
    assert set(protocol._KINDS) == set(ManagementOperation)
    assert set(protocol.REPLIES) == set(protocol._KINDS.values())
    named = {field.name for kind in protocol._KINDS.values() for field in dataclasses.fields(kind)}
    assert named == set(protocol._PARSERS) | set(protocol.PAYLOADS)


def test_the_frames_are_as_the_page_shows_them() -> None:
    assert encode_request(ReportRequest(path=("press",), value={"speed": 3})) == [
        b'{"operation":"report","path":"/press"}',
        b'{"speed":3}',
    ]
    assert encode_reply(Kept(41)) == [b'{"ok":true,"kept":true,"change":41}']
    assert encode_reply(CommandHandedOver(7, 1, "9f", "recipe", 1, 0.4, b"x")) == [
        b'{"ok":true,"command":7,"token":1,"id":"9f","name":"recipe","attempt":1,"age_s":0.4}',
        b"x",
    ]
    assert encode_reply(NoCommand()) == [b'{"ok":true,"command":null}']
