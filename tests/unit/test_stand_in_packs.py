"""The stand-in's own reading of packs, held against the runtime's writing: two hands, one contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.delivery.envelope import Compression, Telemetry
from runtime.core.delivery.pack_names import named
from runtime.core.delivery.packing import PackFormat, PackRule, completes, join
from runtime.devcloud.mqtt.packets import Publish
from runtime.devcloud.mqtt.topics import BadTopic, meaning
from runtime.devcloud.state.batch_files import batch_files
from runtime.devcloud.state.packs import BadPack, members

BATCH, COMPLETION = (("batch-id", "b"),), (("complete-batch", "true"), ("ignore-payload", "true"))
ITEM = b"\x83\x65p:b:1\x41a\xa0"
DEVICE = "demo:dev-1"
STEPS = st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=6)), min_size=2, max_size=40)


def packed(
    steps: list[tuple[int, bytes]], format: PackFormat, *, folded: bool = False
) -> tuple[list[Telemetry], Telemetry]:
    numbers, at = [], 10
    for step, _ in steps:
        numbers.append(at := at + step)
    _, fitting = named(f"p:b:{numbers[0]}", numbers)
    parts = [
        Telemetry(f"p:b:{number}", payload.replace(b"\n", b" "), BATCH, stored_ms=number << number % 40)
        for number, (_, payload) in zip(numbers[:fitting], steps, strict=False)
    ]
    if folded:
        parts[-1] = replace(parts[-1], payload=b"", properties=(*BATCH, *COMPLETION))
    return parts, join(parts, PackRule(format, compression=Compression.FASTEST))


@settings(max_examples=50)
@given(
    STEPS,
    st.sampled_from([PackFormat.LINES, PackFormat.CONCAT, PackFormat.CBOR_SEQ]),
    st.booleans(),
)
def test_the_stand_in_takes_every_pack_and_finds_its_messages(
    steps: list[tuple[int, bytes]], format: PackFormat, folded: bool
) -> None:
    parts, pack = packed(steps, format, folded=folded)
    meaning(DEVICE, Publish(pack.topic(DEVICE), pack.payload, 1))
    if "content-encoding" not in dict(pack.properties):
        found = members(pack.mid, dict(pack.properties), pack.payload)
        assert found == [(part.mid, part.payload) for part in parts if not completes(part)]


@pytest.mark.parametrize(
    ("name", "properties", "payload"),
    [
        ("p:b:1#+3", {"pack": "lines"}, b"a\nb"),
        ("p:b:1#+1", {"pack": "lines"}, b"a"),
        ("p:b:1#+02", {"pack": "lines"}, b"a\nb"),
        ("p:b:1#+2-1", {"pack": "lines"}, b"a\nb"),
        ("p:b:1#+2*2", {"pack": "lines"}, b"a\nb"),
        ("p:b:x#+2", {"pack": "lines"}, b"a\nb"),
        ("p:b:1#+2", {}, b"a\nb"),
        ("p:b:1#+2", {"pack": "lines", "message-id": "m"}, b"a\nb"),
        ("p:b:1#+2", {"pack": "lines", "content-encoding": "br"}, b"a\nb"),
        ("p:b:1#+2", {"pack": "concat", "pack-lengths": "1,2"}, b"ab"),
        ("p:b:1#+2", {"pack": "lines", "complete-batch": "true"}, b"a"),
        ("p:b:1#+2", {"pack": "lines", "complete-batch": "true", "batch-id": "b"}, b"a\nb"),
        ("p:b:1#+2", {"pack": "lines", **dict((*BATCH, *COMPLETION[:1])), "batch-slice-id": "0"}, b"a"),
        ("p:b:1#+2", {"pack": "cbor-seq"}, ITEM),
        ("p:b:1#+2", {"pack": "cbor-seq"}, ITEM + ITEM),
        ("p:b:1#+2", {"pack": "cbor-seq"}, ITEM + ITEM.replace(b":1", b":2")[:-1]),
        ("p:b:1#+2", {"pack": "cbor-seq"}, ITEM + ITEM.replace(b":1", b":2")[:-1] + b"\xa1\x61x\x00"),
        ("p:b:1#+2", {"pack": "cbor-seq"}, ITEM + b"\x83\x78\x05p:b:2\x41a\xa0"),
    ],
)
def test_a_pack_that_a_consumer_would_have_to_guess_at_ends_the_connection(
    name: str, properties: dict[str, str], payload: bytes
) -> None:
    topic = Telemetry(name, b"", tuple(properties.items())).topic(DEVICE)
    with pytest.raises(BadTopic):
        meaning(DEVICE, Publish(topic, payload, 1))


def test_a_batch_file_joins_packs_as_it_joins_messages_and_takes_no_repeat() -> None:
    parts, pack = packed([(1, b"a"), (1, b"b"), (1, b"c")], PackFormat.LINES)
    single = Telemetry("p:b:99", b"d", BATCH)

    def row(telemetry: Telemetry) -> dict[str, object]:
        import json

        properties = json.dumps({"stream-name": "s", **dict(telemetry.properties)})
        return {
            "device_id": DEVICE, "message_id": telemetry.mid, "properties": properties,
            "payload": telemetry.payload,
        }  # fmt: skip

    together = batch_files(map(row, [pack, pack, single, single]), b"\n")
    alone = batch_files(map(row, [*parts, single]), b"\n")
    assert together == alone and list(together.values()) == [b"a\nb\nc\nd"]


def test_lengths_of_nothing_are_refused() -> None:
    with pytest.raises(BadPack):
        members("p:b:1#+2", {"pack": "concat"}, b"ab")
