"""What the hub bills for: counted by stream, today and this month, repeats apart, over restarts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.actions import PROBE, Candidate, Send
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.envelope import Compression, Packing, Parcel, Telemetry, compressed, seal
from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy, LinkUsage
from runtime.core.delivery.metering import units
from runtime.core.delivery.sender import Sender
from runtime.core.delivery.unit_counts import (
    MOST_STREAMS,
    OTHER_STREAMS,
    UnitCounts,
    of_file_calls,
    of_send,
    total,
)
from runtime.core.delivery.window import CongestionWindow
from runtime.core.management.hub_channels import is_billed
from runtime.core.message import Kind, StoredMessage, StreamName
from runtime.workers.upload_meter import UnitMeter
from tests.support.delivery_world import World

NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)


def bill_of(topic: str, body: bytes) -> int:
    """The units of a PUBLISH as it goes over the line, reckoned from the topic by the page about billing."""
    bag = topic.split("/messages/events/", 1)[1]
    size = len(body)
    for pair in bag.split("&"):
        name, value = (len(unquote(part).encode()) for part in pair.split("="))
        size += value if pair.startswith("%24.") else name + value
    whole, rest = divmod(size, 4096)
    return whole + (1 if rest or not whole else 0)


@given(
    st.one_of(st.binary(max_size=64), st.integers(3_900, 4_200).map(bytes), st.just(bytes(20_000))),
    st.dictionaries(TEXT.filter(lambda name: not name.startswith("$")), TEXT, max_size=3),
    st.sampled_from([0, 4_096, 3_584]),
    st.none() | TEXT,
)
def test_the_units_of_a_piece_are_those_of_the_bytes_on_the_line(
    payload: bytes, properties: dict[str, str], chunk_bytes: int, content_type: str | None
) -> None:
    message = StoredMessage(
        id=7, stream_group="press", stream="vibration", properties=properties, kind=Kind.MESSAGE, priority=4,
        stored_wall_s=None, stored_boot_s=1.0, stored_boot_id="b", payload=payload, key="p/b/7",
        content_type=content_type,
    )  # fmt: skip
    sealed = seal(message, Packing(chunk_bytes=chunk_bytes))
    assert isinstance(sealed, Parcel)
    for number in range(sealed.pieces):
        piece = sealed.open(number)
        assert units(piece.metered_bytes("w:d")) == bill_of(piece.topic("w:d"), piece.payload)


SENDS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 20_000), st.booleans(), st.integers(0, 20 * 3600)),
    max_size=12,
)


@given(SENDS)
def test_streams_add_up_to_the_day_and_the_month_and_survive_restarts(
    sends: list[tuple[str, int, bool, int]],
) -> None:
    link, wall_s = LinkBudget(), NOON
    of_day: Counter[str] = Counter()
    of_month: Counter[str] = Counter()
    for stream, size_bytes, repeat, later_s in sends:
        before, wall_s = wall_s, wall_s + later_s
        if wall_s // 86_400 > before // 86_400:
            of_day.clear()
        if (before < 1_801_440_000 <= wall_s) or (before < 1_803_859_200 <= wall_s):  # February, March
            of_month.clear()
        link.set_time(wall_s, 0.0)
        link.sent(size_bytes + 100)  # as charged when it is decided
        link.count(stream, of_send(size_bytes, repeat=repeat), units(size_bytes + 100))
        of_day[stream] += units(size_bytes)
        of_month[stream] += units(size_bytes)
        saved = json.loads(json.dumps(asdict(link.usage)))
        link = LinkBudget(usage=LinkUsage.of(saved))
    usage = link.usage
    assert usage.day_units == sum(of_day.values()) and usage.month_units == sum(of_month.values())
    assert {name: one.day.units for name, one in usage.streams.items() if one.day.units} == dict(of_day)
    assert {name: one.month.units for name, one in usage.streams.items() if one.month.units} == dict(of_month)


def test_fill_leaves_files_out_and_repeats_are_a_share() -> None:
    counts = UnitCounts()
    assert counts.fill is None and counts.repeated is None
    for one in (of_send(2048), of_send(2048, messages=10, repeat=True), of_file_calls(2)):
        counts.add(one)
    assert counts == UnitCounts(units=4, repeat_units=1, sends=2, messages=11, bytes=4096, file_units=2)
    assert counts.fill == 0.5 and counts.repeated == 0.25
    assert total({"a": counts, "b": of_send(1)}).units == 5


def test_streams_without_number_are_counted_together() -> None:
    link = LinkBudget()
    for number in range(MOST_STREAMS + 5):
        link.count(f"-/{number}", of_send(1))
    assert len(link.usage.streams) == MOST_STREAMS + 1
    assert link.usage.streams[OTHER_STREAMS].day.units == 5
    assert link.usage.day_units == MOST_STREAMS + 5


@pytest.mark.parametrize("saved", [None, 7, {"a": 7}, {"a": {"day": {"units": "x"}}}, {"a": {"month": []}}])
def test_saved_counts_that_are_nonsense_count_as_nothing(saved: object) -> None:
    usage = LinkUsage.of({"day_units": 3, "streams": saved})
    assert usage.day_units == 3
    assert not any(one.day.units or one.month.units for one in usage.streams.values())


def test_what_is_sent_again_after_a_lost_connection_is_counted_as_a_repeat() -> None:
    sender = Sender(CongestionWindow(2), LinkBudget(), DeliveryLimits())
    for id in (1, 2):
        assert sender.add(Candidate(id, "s"), 0.0)
    repeats = []
    for now in (1.0, 2.0):
        sender.begin(now)
        repeats.append([(send.tag[0], send.repeat) for send in sender.send(now) if isinstance(send, Send)])
        sender.end(now)
    assert repeats == [[(1, False), (2, False)], [(1, True), (2, True)]]


@pytest.mark.parametrize(
    ("topic", "billed"),
    [
        ("$iothub/twin/GET/?$rid=1", False),
        ("$iothub/twin/res/200/?$rid=1", True),
        ("$iothub/twin/PATCH/properties/reported/?$rid=2", True),
        ("$iothub/twin/res/204/?$rid=2&$version=3", False),
        ("$iothub/twin/res/429/?$rid=2", False),
        ("$iothub/twin/PATCH/properties/desired/?$version=4", True),
        ("$iothub/methods/POST/reboot/?$rid=5", True),
        ("$iothub/methods/res/200/?$rid=5", True),
        ("devices/d/messages/devicebound/%24.mid=1", True),
    ],
)
def test_a_twin_is_billed_once_for_each_reading_and_each_change(topic: str, billed: bool) -> None:
    assert is_billed(topic) is billed


def test_a_budget_of_messages_is_charged_as_before() -> None:
    """`messages_per_day` counts what is published, whatever the hub bills for it."""
    link = LinkBudget(LinkPolicy(messages_per_day=2))
    link.sent(20_000)
    link.count("-/a", of_send(20_000), units(20_000))
    link.count("-/a", of_file_calls(2))
    assert (link.usage.day_messages, link.usage.day_units) == (1, 7)


def test_the_meter_counts_by_the_stream_of_the_settings() -> None:
    world = World()
    meter = UnitMeter(world.link, world.delivery)
    world.delivery.offer(Candidate(1, (StreamName("g", "s", "leaf-7"), False)), world.now)
    meter.sent(Send((1, 0), 5_000), Telemetry("m", b"x" * 100), "w:d")
    meter.sent(Send((1, 0), 0, True), Telemetry("m", b"x" * 5_000), "w:d")
    meter.sent(Send((PROBE, 0)), Telemetry("probe", b""), "w:d")
    meter.called_for_file(1, 2)
    meter.called_for_file(99, 1)
    meter.managed(0)
    assert meter.record()["units_by_stream"] == {
        "g/s": [5, 2, 100 + 1 + 5_001],
        "(probes)": [1, 0, len("probe")],
        "(other streams)": [1, 0, 0],
        "(device management)": [1, 0, 0],
    }


def test_what_compression_took_off_is_measured_on_what_is_sent() -> None:
    plain = Telemetry("p:b:1", b"x" * 1_000)
    small = compressed(plain, Compression.FASTEST)
    sizes = [telemetry.metered_bytes("w:d") for telemetry in (plain, small)]
    counts = of_send(sizes[1], saved_bytes=small.saved_bytes)
    assert counts.bytes + counts.saved_bytes == sizes[0] and plain.saved_bytes == 0
    assert counts.compressed is not None and 0.9 < counts.compressed < 1
    assert of_send(7).compressed is None
