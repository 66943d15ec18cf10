"""What stored messages would have cost under other rules: by the functions that send them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.delivery.envelope import Compression, Packing, Parcel, seal
from runtime.core.delivery.metering import units
from runtime.core.delivery.pack_replay import Replay, quantile, why_alone
from runtime.core.delivery.pack_trial import PackTrial
from runtime.core.delivery.packing import PackFormat, PackRule, may_pack
from runtime.core.message import Kind, StoredMessage
from tests.support.depth import deep

LINES = PackRule(PackFormat.LINES, linger_s=10.0)
ALONE = PackRule(PackFormat.NONE)


def message(id: int, payload: bytes = b"x" * 200, stream: str = "s", **more: object) -> StoredMessage:
    fields: dict[str, object] = {
        "id": id,
        "stream_group": None,
        "stream": stream,
        "properties": {},
        "kind": Kind.MESSAGE,
        "priority": 4,
        "stored_wall_s": None,
        "stored_boot_s": float(id),
        "stored_boot_id": "b",
        "payload": payload,
        "key": f"p/b/{id}",
    }
    return StoredMessage(**{**fields, **more})  # type: ignore[arg-type]


def replayed(
    messages: list[tuple[float, StoredMessage]], rule: PackRule, packing: Packing | None = None
) -> Replay:
    replay = Replay()
    for at_s, one in messages:
        replay.store(one, at_s, packing or Packing(compression=rule.compression), rule)
    replay.finish()
    return replay


def test_one_a_second_that_lingers_for_ten_costs_a_tenth_and_waits_no_longer() -> None:
    stream = replayed([(float(n), message(n)) for n in range(1, 1_001)], LINES).streams["-/s"]
    assert 90 <= stream.counts.units <= 101 and stream.counts.messages == 1_000
    assert len(stream.waits_s) == 1_000 and 9.0 <= quantile(stream.waits_s, 0.99) <= 10.2


@pytest.mark.parametrize(("per_day", "wait_s"), [(8_640, 10), (2_880, 30), (1_440, 60)])
def test_the_linger_follows_the_budget(per_day: int, wait_s: int) -> None:
    """One a second without any linger of its own: it waits as long as the budget needs, and no longer."""
    replay = Replay(per_day)
    for n in range(900):
        replay.store(message(n + 1, b"x" * 40), float(n), Packing(), PackRule(PackFormat.LINES))
    replay.finish()
    stream = replay.streams["-/s"]
    assert stream.counts.units <= 900 // wait_s + 4
    assert 0.8 * wait_s <= quantile(stream.waits_s, 0.99) <= 1.3 * wait_s


def test_alone_each_costs_what_it_costs_and_does_not_wait() -> None:
    sizes = [0, 100, 3_800, 4_000, 9_000]
    stream = replayed(
        [(float(n), message(n, bytes(size))) for n, size in enumerate(sizes, 1)], ALONE
    ).streams["-/s"]
    assert stream.counts.units == 1 + 1 + 1 + units(4_000 + len("p:b:4") + len("stream-name" + "s")) + 3
    assert max(stream.waits_s) < 0.1


def test_a_burst_goes_in_full_packs_at_once() -> None:
    stream = replayed([(1.0, message(n)) for n in range(1, 171)], LINES).streams["-/s"]
    assert stream.counts.units <= 14
    assert sorted(stream.waits_s)[len(stream.waits_s) // 2] < 1.0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"message_id": "m"}, "own message ids"),
        ({"message_id": "m", "chunk_id": "3"}, "own message ids"),
        ({"payload": b"a\nb"}, "newlines in payloads"),
        ({"key": "p/b/x"}, "no sequence number in its key"),
        ({"content_type": "application/x-ndjson"}, "its content type says that it is lines already"),
        ({"payload": b"x" * 300_000}, "goes as a file"),
        ({"properties": {"n": "v" * 5_000}}, "properties that are too long"),
    ],
)
def test_it_says_why_a_message_goes_alone(more: dict[str, object], why: str) -> None:
    stream = replayed([(1.0, message(1, **more))], LINES).streams["-/s"]  # type: ignore[arg-type]
    assert dict(stream.alone) == {why: 1}
    assert len(stream.waits_s) == 1


def test_chunks_files_and_completions_are_counted_as_they_are_billed() -> None:
    chunked = replayed([(1.0, message(1, b"x" * 9_000))], LINES, Packing(chunk_bytes=3_584)).streams["-/s"]
    assert (chunked.counts.units, chunked.counts.sends) == (4, 4) and dict(chunked.alone) == {
        "goes in chunks": 1
    }
    file = replayed([(1.0, message(1, b"x" * 300_000))], ALONE).streams["-/s"]
    assert (file.counts.units, file.counts.file_units, file.counts.sends) == (3, 2, 1)
    batch = [(1.0, message(1, batch_id="b")), (1.0, message(2, b"", batch_id="b", kind=Kind.COMPLETE_BATCH))]
    completed = replayed(batch, LINES).streams["-/s"]
    assert completed.counts.sends == 2 and not completed.alone
    assert max(completed.waits_s) < 1.0, "the completion ends the linger"
    assert replayed(batch, replace(LINES, fold_completion=True)).streams["-/s"].counts.sends == 1


@settings(max_examples=deep(30))
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30), st.sampled_from("ab"), st.integers(0, 5_000), st.booleans(), st.integers(3, 5)
        ),
        max_size=25,
    ),
    st.sampled_from(
        [ALONE, LINES, PackRule(PackFormat.CONCAT, 3.0, 2), PackRule(PackFormat.CBOR_SEQ, 3.0, 2)]
    ),
)
def test_nothing_is_lost_and_nothing_waits_for_longer_than_its_linger(
    stored: list[tuple[float, str, int, bool, int]], rule: PackRule
) -> None:
    at_s, messages = 0.0, []
    for id, (later_s, stream, size, newline, priority) in enumerate(stored, 1):
        at_s += later_s
        payload = b"\n" * newline + bytes(size)
        messages.append((at_s, message(id, payload, stream, priority=priority)))
    streams = replayed(messages, rule).streams
    alone = replayed(messages, ALONE).streams
    for name, tried in streams.items():
        assert tried.counts.messages == tried.messages == len(tried.waits_s)
        assert max(tried.waits_s) <= rule.linger_s + 0.2
        assert tried.counts.units <= alone[name].counts.units


@given(st.sampled_from(list(PackFormat)), st.booleans(), st.binary(max_size=5), st.booleans())
def test_the_reason_is_asked_for_exactly_where_a_message_may_not_pack(
    format: PackFormat, own_id: bool, payload: bytes, chunk: bool
) -> None:
    one = message(1, payload, message_id="m" if own_id else None, chunk_id="1" if chunk else None)
    sealed = seal(one, Packing(), late=True)
    assert isinstance(sealed, Parcel) and sealed.raw is not None
    if format is not PackFormat.NONE and not may_pack(sealed.raw, format):
        assert why_alone(sealed, format) != "properties that are too long"


def test_the_rules_that_are_tried_are_read() -> None:
    assert PackTrial.parse("pack=lines, linger=500ms,compression=fastest,units=4") == PackTrial(
        PackFormat.LINES, 0.5, 4, Compression.FASTEST
    )
    assert PackTrial.parse("pack=cbor-seq").format is PackFormat.CBOR_SEQ
    assert PackTrial.parse("per-day=8640").units_per_day == 8_640
    assert PackTrial.parse("linger=2m").linger_s == 120.0 and PackTrial.parse("linger=7").linger_s == 7.0


@pytest.mark.parametrize(
    "text", ["", "pack", "pack=tar", "linger=-1s", "linger=2d", "units=0", "units=61", "x=1",
             "pack=none,pack=lines", "compression=5"],
)  # fmt: skip
def test_wrong_rules_are_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"write pack=|twice"):
        PackTrial.parse(text)
