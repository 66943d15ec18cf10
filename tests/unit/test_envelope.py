"""What goes on the wire, held against azure-iot-device's own encoding and against the hub's limits."""

from __future__ import annotations

import json
import os

import brotli
import pytest
from azure.iot.device import Message
from azure.iot.device.iothub.pipeline.mqtt_topic_iothub import encode_message_properties_in_topic
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.envelope import (
    LIMIT_BYTES,
    Compression,
    FileParcel,
    Packing,
    Parcel,
    Telemetry,
    Unsendable,
    blob_name,
    mid,
    seal,
)
from runtime.core.message import Kind, StoredMessage

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


def stored(payload: bytes = b"x", **more: object) -> StoredMessage:
    fields: dict[str, object] = {
        "id": 1,
        "stream_group": "g",
        "stream": "s",
        "batch_id": None,
        "batch_slice_id": None,
        "message_id": None,
        "chunk_id": None,
        "content_type": None,
        "properties": {},
        "kind": Kind.MESSAGE,
        "priority": 4,
        "ttl_s": None,
        "stored_wall_s": None,
        "stored_boot_s": 0.0,
        "stored_boot_id": "b",
        "payload": payload,
        "key": "p/b/1",
        **more,
    }
    return StoredMessage(**fields)  # type: ignore[arg-type]  # a test's own fields


def only(message: StoredMessage, packing: Packing | None = None) -> Telemetry:
    sealed = seal(message, packing or Packing())
    assert isinstance(sealed, Parcel) and sealed.pieces == 1
    return sealed.open(0)


@given(st.dictionaries(TEXT, TEXT, max_size=5), TEXT, TEXT)
def test_the_topic_is_the_one_the_library_would_have_made(
    properties: dict[str, str], mid_: str, content_type: str
) -> None:
    ours = Telemetry(mid_, b"", tuple(sorted(properties.items())), content_type)
    theirs = Message(b"", message_id=mid_, content_type=content_type)
    theirs.custom_properties = properties
    assert ours.topic("W:D") == encode_message_properties_in_topic(theirs, "devices/W:D/messages/events/")


@given(st.text(max_size=300), st.text(max_size=300))
def test_message_ids_are_of_the_characters_the_hub_allows_and_differ_when_the_keys_differ(
    one: str, other: str
) -> None:
    try:
        first, second = mid(one), mid(other)
    except UnicodeEncodeError:
        return  # half a surrogate pair: refused at the door
    assert len(first) <= 128 and first.isascii()
    assert set(first) <= set("-:.+%_#*?!(),=@;$'") | {c for c in first if c.isalnum()}
    assert (first == second) == (one == other)


@given(st.binary(max_size=2000), st.sampled_from(list(Compression)), st.integers(0, 500))
def test_sealing_twice_gives_the_same_pieces_and_nothing_of_the_payload_is_lost(
    payload: bytes, compression: Compression, chunk_bytes: int
) -> None:
    packing = Packing(compression, chunk_bytes)
    first, second = seal(stored(payload), packing), seal(stored(payload), packing)
    assert isinstance(first, Parcel) and isinstance(second, Parcel)
    pieces = [first.open(n) for n in range(first.pieces)]
    assert pieces == [second.open(n) for n in range(second.pieces)]
    assert len({piece.mid for piece in pieces}) == len(pieces)
    assert all(piece.wire_bytes <= LIMIT_BYTES for piece in pieces)
    opened = [
        brotli.decompress(p.payload) if ("content-encoding", "br") in p.properties else p.payload
        for p in pieces
    ]
    assert b"".join(opened) == payload


def test_compression_is_used_only_where_it_makes_the_message_smaller() -> None:
    text, noise = b"abc" * 1000, os.urandom(3000)
    assert len(only(stored(text), Packing(Compression.FASTEST)).payload) < 1000
    assert only(stored(noise), Packing(Compression.SMALLEST)).payload == noise
    assert only(stored(text)).payload == text


def test_the_time_of_storing_is_known_where_the_clock_was_synchronised() -> None:
    assert only(stored(stored_wall_s=1_800_000_000.123)).stored_ms == 1_800_000_000_123
    assert only(stored(stored_wall_s=None)).stored_ms is None


@pytest.mark.parametrize("wall_s", [2.0**542, 1.7e308, 2**63 - 1, -1.0])
def test_a_damaged_time_of_storing_is_none_at_all(wall_s: float) -> None:
    """A flipped bit of one row ended upload at every start: no such number of milliseconds can be written."""
    assert only(stored(stored_wall_s=wall_s)).stored_ms is None


def test_the_border_between_telemetry_and_file_is_the_true_size_on_the_wire() -> None:
    room = LIMIT_BYTES - only(stored(b"")).wire_bytes
    assert only(stored(b"x" * room)).wire_bytes == LIMIT_BYTES
    assert isinstance(seal(stored(b"x" * (room + 1)), Packing()), FileParcel)
    assert isinstance(seal(stored(b"x" * room, properties={"a": "b"}), Packing()), FileParcel)
    assert isinstance(seal(stored(b"x" * room * 2), Packing(Compression.FASTEST)), Parcel), "compressed first"


def test_what_is_cheaper_as_a_file_goes_as_a_file_where_that_is_configured() -> None:
    assert isinstance(seal(stored(b"x" * 20_000), Packing(file_from_units=5)), FileParcel)
    assert isinstance(seal(stored(b"x" * 10_000), Packing(file_from_units=5)), Parcel)


def test_a_file_is_linked_under_the_name_the_hub_gave_it() -> None:
    sealed = seal(stored(b"x" * 300_000, key="a/b/c"), Packing())
    assert isinstance(sealed, FileParcel)
    assert sealed.blob_name == blob_name("a/b/c") != blob_name("a/b-c")
    link = sealed.link("dev/" + sealed.blob_name)
    assert json.loads(link.payload) == {"link": "dev/" + sealed.blob_name}
    assert dict(link.properties)["has-externalized-payload"] == "true"
    assert link.mid == mid("a/b/c")


@pytest.mark.parametrize(
    "wrong",
    [
        {"properties": {"$.mid": "x"}},
        {"properties": {"": "x"}},
        {"properties": {"stream-name": "x"}},
        {"properties": {"a": "\0"}},
        {"properties": {"a": "\ud800"}},
        {"stream": "s\0"},
        {"properties": {f"p{n}": "é" * 2000 for n in range(6)}},
        {"properties": {f"p{n}": "é" * 2000 for n in range(6)}, "kind": Kind.COMPLETE_BATCH, "payload": b""},
        {"properties": {f"p{n}": "é" * 2000 for n in range(6)}, "payload": b"x" * 300_000},
    ],
)
def test_what_no_hub_would_take_is_named_and_never_raises(wrong: dict[str, object]) -> None:
    payload = wrong.pop("payload", b"x")
    for packing in (Packing(), Packing(chunk_bytes=1)):
        sealed = seal(stored(payload, **wrong), packing)  # type: ignore[arg-type]
        assert isinstance(sealed, Unsendable) and sealed.reason


def test_a_chunk_size_beyond_the_limit_of_the_hub_is_cut_to_it() -> None:
    sealed = seal(stored(b"x" * 1_000_000), Packing(chunk_bytes=500_000))
    assert isinstance(sealed, Parcel)
    assert sealed.pieces == 5
    assert max(sealed.open(n).wire_bytes for n in range(5)) <= LIMIT_BYTES
