"""The cut of a pack: whole units, filled well, and the same cut for what remains."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.delivery.envelope import LIMIT_BYTES, Compression, Telemetry
from runtime.core.delivery.metering import UNIT_BYTES, units
from runtime.core.delivery.pack_cut import FIRST_RATIO, fill, joinable, metered, most_bytes
from runtime.core.delivery.packing import PackFormat, PackRule

FORMATS = st.sampled_from([PackFormat.LINES, PackFormat.CONCAT, PackFormat.CBOR_SEQ])


def waiting(sizes: list[int], format: PackFormat = PackFormat.LINES) -> list[Telemetry]:
    messages = [Telemetry(f"p:b:{number}", b"x" * size) for number, size in enumerate(sizes, 1)]
    if format is not PackFormat.CBOR_SEQ:
        return messages
    own = (
        (("level", str(size % 3)), ("message-id", f"m-{size}"), ("unit", "mm/s" * (size % 2 + 1)))
        for size in sizes
    )
    return [
        replace(one, properties=about, stored_ms=len(one.payload))
        for one, about in zip(messages, own, strict=True)
    ]


def cuts(messages: list[Telemetry], rule: PackRule) -> list[int]:
    """The packs of a backlog, one after the other, by their numbers of members."""
    counts = []
    while messages:
        count, _ = fill(joinable(messages, rule, 1.0), rule, 1.0)
        counts.append(count)
        messages = messages[count:]
    return counts


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60), FORMATS, st.integers(1, 16), st.booleans())
def test_a_pack_costs_no_more_units_than_it_may_and_fewer_than_its_members(
    sizes: list[int], format: PackFormat, most: int, as_message_id: bool
) -> None:
    rule = PackRule(format, units=most, as_message_id=as_message_id)
    messages = waiting(sizes, format)
    count, pack = fill(joinable(messages, rule, 1.0), rule, 1.0)
    cost = units(metered(pack))
    assert cost <= most
    assert cost <= sum(units(metered(message)) for message in messages[:count])
    assert cost == 1 or count == 1 or metered(pack) > (cost - 0.5) * UNIT_BYTES, (
        "the last unit is hardly used"
    )


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3_000), min_size=2, max_size=80), FORMATS, st.integers(1, 4))
def test_what_remains_after_whole_packs_is_cut_the_same_way(
    sizes: list[int], format: PackFormat, most: int
) -> None:
    rule = PackRule(format, units=most)
    messages = waiting(sizes, format)
    counts = cuts(messages, rule)
    assert cuts(messages[counts[0] :], rule) == counts[1:]


def test_seventeen_messages_of_200_bytes_fit_into_a_unit_with_their_properties() -> None:
    rule = PackRule(PackFormat.LINES, units=1)
    named = (("stream-group-name", "press-shop"), ("stream-name", "vibration"))
    messages = [Telemetry(f"sampler:9f2c1b7e:{n}", b"x" * 200, named) for n in range(100, 200)]
    count, pack = fill(joinable(messages, rule, 1.0), rule, 1.0)
    assert count >= 17 and units(metered(pack)) == 1


def rich(number: int, chance: random.Random) -> bytes:
    state = chance.choice(["RUNNING", "IDLE", "SETUP"])
    return json.dumps(
        {
            "machine": "press-07", "line": "press-shop", "sensor": "vibration-main-bearing", "n": number,
            "state": state, "unit": "mm/s", "quality": "good", "firmware": "4.2.1",
            "value": round(chance.gauss(4.2, 0.3), 2), "temperature": round(chance.gauss(61, 0.5), 1),
        }
    ).encode()  # fmt: skip


@pytest.mark.parametrize("compression", [Compression.FASTEST, Compression.SMALLEST])
def test_a_compressed_pack_fills_its_unit_with_many_times_the_messages_from_the_first_one_on(
    compression: Compression,
) -> None:
    chance = random.Random(7)
    rule = PackRule(PackFormat.LINES, units=1, compression=compression)
    messages = [Telemetry(f"p:b:{n}", rich(n, chance)) for n in range(1, 600)]
    count, pack = fill(joinable(messages, rule, 0.05), rule, 0.05)
    assert units(metered(pack)) == 1
    assert count > 80
    assert metered(pack) > 0.6 * most_bytes(1)


def test_what_does_not_compress_is_packed_as_it_is() -> None:
    chance = random.Random(7)
    rule = PackRule(PackFormat.CONCAT, units=4, compression=Compression.FASTEST)
    messages = [Telemetry(f"p:b:{n}", chance.randbytes(200)) for n in range(1, 400)]
    count, pack = fill(joinable(messages, rule, FIRST_RATIO), rule, FIRST_RATIO)
    assert 70 < count < 85 and units(metered(pack)) == 4
    assert "content-encoding" not in dict(pack.properties)


def test_the_largest_pack_is_smaller_than_the_hub_takes() -> None:
    rule = PackRule(PackFormat.CONCAT, units=60)
    long = (("note", "ü" * 600),)
    messages = [Telemetry(f"p:b:{n}", b"x" * (250 + n % 2), long) for n in range(1, 3_000)]
    _, pack = fill(joinable(messages, rule, 1.0), rule, 1.0)
    assert UNIT_BYTES * 58 < pack.wire_bytes <= LIMIT_BYTES
