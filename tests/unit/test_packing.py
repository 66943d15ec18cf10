"""The laws of packing: nothing is lost, reordered or renamed by it, and a name says who is in a pack."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtime.core.delivery.cbor_seq import encode
from runtime.core.delivery.envelope import Compression, Telemetry
from runtime.core.delivery.pack_cut import joinable
from runtime.core.delivery.pack_names import (
    MOST_NAME_CHARACTERS,
    NotAPack,
    member_ids,
    named,
    numbers_of,
    runs,
)
from runtime.core.delivery.packing import (
    JSON,
    JSON_LINES,
    PackFormat,
    PackRule,
    join,
    may_fold,
    may_join,
    may_pack,
    unpack,
)
from runtime.core.ingest.message_fields import RESERVED_PROPERTIES

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
ITEM = encode(["p:b:1", b"a", {}])
OWN = TEXT.filter(lambda name: name not in RESERVED_PROPERTIES) | st.just("message-id")
COMPLETION = (("batch-id", "b"), ("complete-batch", "true"), ("ignore-payload", "true"))
NUMBERS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 12)), min_size=1, max_size=8).map(
    lambda steps: _ascending(steps)
)


def _ascending(steps: list[tuple[int, int]]) -> list[int]:
    numbers, at = [], 7
    for step, count in steps:
        for _ in range(count):
            at += step
            numbers.append(at)
    return numbers


def telemetry(number: int, payload: bytes = b"x", **more: object) -> Telemetry:
    return Telemetry(f"p:b:{number}", payload, **more)  # type: ignore[arg-type]  # a test's own fields


@st.composite
def packs(draw: st.DrawFn) -> tuple[list[Telemetry], PackRule]:
    """Members that may be joined, and the rule of their stream."""
    format = draw(st.sampled_from([PackFormat.LINES, PackFormat.CONCAT, PackFormat.CBOR_SEQ]))
    compression = draw(st.sampled_from([Compression.NONE, Compression.FASTEST]))
    folded = draw(st.booleans())
    rule = PackRule(format, 0.0, 16, draw(st.booleans()), compression, fold_completion=folded)
    shared = draw(st.dictionaries(TEXT, TEXT, max_size=2)) | {"batch-id": "b"}
    content_type = draw(st.sampled_from([None, JSON, "text/plain"]))
    numbers = draw(NUMBERS)
    _, fitting = named("p:b:1", numbers)
    assume(fitting > 1)
    payload = st.binary(max_size=12)
    own = st.dictionaries(OWN, TEXT, max_size=2 if format is PackFormat.CBOR_SEQ else 0)
    members = [
        telemetry(
            number,
            draw(payload),
            properties=tuple(sorted((shared | draw(own)).items())),
            content_type=content_type,
            stored_ms=number if number % 2 else None,
        )
        for number in numbers[:fitting]
    ]
    assume(all(may_pack(member, format) for member in members))
    if folded:
        members[-1] = telemetry(numbers[fitting - 1], b"", properties=COMPLETION)
        assert may_fold(members[-1])
    assert len(joinable(members, rule, 1.0).messages) == len(members) and may_join(members, format)
    return members, rule


@settings(max_examples=60)
@given(packs())
def test_a_pack_taken_apart_is_its_members_with_the_ids_of_single_delivery(
    pack: tuple[list[Telemetry], PackRule],
) -> None:
    members, rule = pack
    assert unpack(join(members, rule)) == members
    if rule.format is PackFormat.CBOR_SEQ:
        assert [one.stored_ms for one in unpack(join(members, rule))] == [one.stored_ms for one in members]
    assert member_ids(join(members, rule).mid) == [member.mid for member in members]


@settings(max_examples=60)
@given(packs(), st.data())
def test_a_file_of_concatenated_packs_is_that_of_concatenated_messages(
    pack: tuple[list[Telemetry], PackRule], data: st.DataObject
) -> None:
    members, rule = pack
    assume(rule.format is not PackFormat.CBOR_SEQ)
    rule = replace(rule, compression=Compression.NONE)
    at = data.draw(st.integers(2, max(2, len(members) - 2)))
    groups = [group for group in (members[:at], members[at:]) if group]
    separator = b"\n" if rule.format is PackFormat.LINES else b""
    sent = [join(group, rule) if len(group) > 1 else group[0] for group in groups]
    packed, alone = (
        [one.payload for one in some if "ignore-payload" not in dict(one.properties)]
        for some in (sent, members)
    )
    assert separator.join(packed) == separator.join(alone)


@settings(max_examples=60)
@given(NUMBERS)
def test_the_runs_of_a_name_say_exactly_its_numbers(numbers: list[int]) -> None:
    text = "".join(run for _, run in runs(numbers))
    assert numbers_of(numbers[0], text) == numbers


@given(st.text("+*-0123456789", max_size=12))
def test_a_name_is_written_in_one_way_only_or_refused(text: str) -> None:
    try:
        numbers = numbers_of(5, text)
    except NotAPack:
        return
    assert "".join(run for _, run in runs(numbers)) == text


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        (range(101, 121), "p:b:101#+20"),
        ([*range(101, 106), *range(108, 123)], "p:b:101#+5-2+15"),
        (range(101, 161, 3), "p:b:101#+20*3"),
        ([101, 103], "p:b:101#+1-1+1"),
    ],
)
def test_a_name_reads_as_it_is_documented(numbers: list[int], name: str) -> None:
    assert join([telemetry(number) for number in numbers], PackRule(PackFormat.LINES)).mid == name


def test_a_name_ends_where_the_hub_would_refuse_it() -> None:
    scattered = [number * number for number in range(1, 200)]
    name, fitting = named("p:b:1", scattered)
    assert len(name) <= MOST_NAME_CHARACTERS and 2 < fitting < 200
    assert numbers_of(1, name.partition("#")[2]) == scattered[:fitting]


@pytest.mark.parametrize(
    "single",
    [
        telemetry(1, properties=(("message-id", "m"),)),
        telemetry(1, properties=(("chunk-id", "0"),)),
        telemetry(1, properties=(("pack", "mine"),)),
        telemetry(1, b"two\nlines"),
        telemetry(1, content_type=JSON_LINES),
        replace(telemetry(1), mid="sha256:aa"),
        replace(telemetry(1), mid="p:b:007"),
        telemetry(1, properties=(("long", "x" * 4_096),)),
    ],
)
def test_what_would_lose_its_name_or_read_as_another_goes_alone(single: Telemetry) -> None:
    assert not may_pack(single, PackFormat.LINES)


def test_a_sequence_has_room_for_message_ids_and_newlines_and_not_for_chunks() -> None:
    named = telemetry(1, b"two\nlines", properties=(("message-id", "m"),))
    assert may_pack(named, PackFormat.CBOR_SEQ)
    assert not may_pack(replace(named, properties=(("chunk-id", "0"),)), PackFormat.CBOR_SEQ)


@pytest.mark.parametrize(
    "other",
    [
        telemetry(1),
        telemetry(0),
        replace(telemetry(2), mid="q:b:2"),
        telemetry(2, properties=(("batch-id", "b"),)),
        telemetry(2, content_type="text/plain"),
        telemetry(2, passed="gw-1"),
    ],
)
def test_only_messages_that_are_equal_on_the_wire_and_follow_each_other_join(other: Telemetry) -> None:
    for format in (PackFormat.LINES, PackFormat.CBOR_SEQ):
        assert len(joinable([telemetry(1), other], PackRule(format), 1.0).messages) == 1


@pytest.mark.parametrize(
    "completion",
    [
        telemetry(2, b"", properties=(("batch-id", "c"), *COMPLETION[1:])),
        telemetry(2, b"", properties=(*COMPLETION, ("note", "its own"))),
        telemetry(2, b"", properties=COMPLETION, passed="gw-1"),
        telemetry(2, b"", properties=COMPLETION, content_type="text/plain"),
        telemetry(2, b"", properties=(("batch-id", "b"), ("complete-message", "true"))),
        replace(telemetry(0), payload=b"", properties=COMPLETION),
    ],
)
def test_a_completion_that_says_more_than_that_its_batch_is_whole_goes_alone(completion: Telemetry) -> None:
    rule = PackRule(PackFormat.LINES, fold_completion=True)
    message = telemetry(1, properties=(("batch-id", "b"),))
    assert len(joinable([message, completion], rule, 1.0).messages) == 1
    sliced = telemetry(1, properties=(("batch-id", "b"), ("batch-slice-id", "0")))
    whole = telemetry(2, b"", properties=COMPLETION)
    assert len(joinable([sliced, whole], rule, 1.0).messages) == 1
    own = [telemetry(number, b"", properties=COMPLETION) for number in (1, 2)]
    assert len(joinable(own, rule, 1.0).messages) == 1 and not may_join(own, rule.format)


def test_a_pack_of_json_lines_says_so_and_carries_its_name_where_asked_to() -> None:
    members = [telemetry(number, b"{}", content_type=JSON) for number in (1, 2)]
    pack = join(members, PackRule(PackFormat.LINES, as_message_id=True))
    assert (pack.payload, pack.content_type) == (b"{}\n{}", "application/x-ndjson")
    assert dict(pack.properties) == {"pack": "lines", "message-id": "p:b:1#+2"}


@pytest.mark.parametrize(
    "wrong",
    [
        Telemetry("p:b:1", b"a", (("pack", "lines"),)),
        Telemetry("p:b:1#+3", b"a\nb", (("pack", "lines"),)),
        Telemetry("p:b:1#+1", b"a", (("pack", "lines"),)),
        Telemetry("p:b:1#+2", b"a\nb", (("pack", "cbor"),)),
        Telemetry("p:b:1#+2", b"a\nb", (("pack", "cbor-seq"),)),
        Telemetry("p:b:1#+2", ITEM, (("pack", "cbor-seq"),)),
        Telemetry("p:b:1#+2", ITEM + ITEM, (("pack", "cbor-seq"),)),
        Telemetry("p:b:1#+2", ITEM + ITEM.replace(b":1", b":2")[:-1], (("pack", "cbor-seq"),)),
        Telemetry("p:b:1#+2", b"a\nb", (("complete-batch", "true"), ("pack", "lines"))),
        Telemetry("p:b:1#+2", b"ab", (("pack", "concat"), ("pack-lengths", "1,2"))),
        Telemetry("p:b:1#+2", b"ab", (("pack", "concat"), ("pack-lengths", "2"))),
        Telemetry("p:b:1#+2", b"ab", (("pack", "concat"),)),
    ],
)
def test_a_pack_whose_counts_differ_is_not_guessed_at(wrong: Telemetry) -> None:
    with pytest.raises(NotAPack):
        unpack(wrong)
