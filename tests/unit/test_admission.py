"""What is kept, what is answered, what gives way: decided without disk, socket or clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest import quota as quota_module
from runtime.core.ingest.admission import Admission, MeasureFiles, TakeFiles
from runtime.core.ingest.message_fields import PLAIN, MessageRow, describe
from runtime.core.ingest.protocol import Code, Ping, Pong, ProducerKey, Put, Refusal, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.ingest.sequences import Sequences
from runtime.core.ingest.store_view import Stamp, View
from runtime.core.ingest.taken_files import NotTaken, TakenFile, WantedFile, spool_name
from runtime.core.message import Kind, StreamName

WIDE = Quota(Limit(Amount(1_000, 100_000)))
A, B = StreamName(None, "a"), StreamName(None, "b")


def admission(
    quota: Quota = WIDE, known: Mapping[ProducerKey, Sequences] | None = None, **view: Any
) -> Admission:
    levels = view.pop("levels", {})
    amounts = [amount for stream in levels.values() for amount in stream.values()]
    total = Amount(sum(a.messages for a in amounts), sum(a.bytes for a in amounts))
    facts = {"next_id": 1, "streams": {}, "next_stream": 1, "room_bytes": 10**9, **view}
    return Admission(quota, View(levels=levels, total=total, **facts), Stamp(None, 5.0, 1), known or {})


def put(count: int = 1, *, first: int | None = None, stream: str = "a", size: int = 10, **fields: Any) -> Put:
    description = describe({"stream": stream, **fields}, PLAIN)
    key = None if first is None else ProducerKey("p", "b")
    return Put(Kind.MESSAGE, [description] * count, [b"x" * size] * count, key, first or 0)


def rows(decided: Admission) -> list[MessageRow]:
    return [MessageRow._make(values) for values in decided.rows]


def code(reply: object) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


def test_ids_are_consecutive_and_streams_get_numbers_once() -> None:
    deciding = admission(next_id=7, next_stream=3)
    assert deciding.decide(put(2)) == Stored(range(7, 9))
    assert deciding.decide(put(1, stream="b")) == Stored(range(9, 10))
    assert deciding.decide(put(1)) == Stored(range(10, 11))
    assert deciding.new_streams == {A: 3, B: 4}
    assert [(row.id, row.stream) for row in rows(deciding)] == [(7, 3), (8, 3), (9, 4), (10, 3)]


def test_a_ping_is_answered_and_keeps_nothing() -> None:
    deciding = admission()
    assert deciding.decide(Ping()) == Pong()
    assert not deciding.rows


def test_a_repeat_within_one_commit_is_stored_once() -> None:
    deciding = admission()
    first, again = deciding.decide(put(2, first=1)), deciding.decide(put(2, first=1))
    assert isinstance(first, Stored)
    assert again == Stored(list(first.ids), repeated=2)
    assert len(deciding.rows) == 2


def test_deciding_leaves_what_is_known_untouched_until_the_commit() -> None:
    memory = Sequences()
    memory.add(1, 1, 50)
    known = {ProducerKey("p", "b"): memory}
    admission(known=known, next_id=60).decide(put(1, first=2))
    assert memory.expected == 2  # the commit may fail: nothing of it may be remembered


def test_part_of_a_request_that_is_already_stored_is_not_stored_again() -> None:
    memory = Sequences()
    memory.add(1, 2, 50)
    reply = admission(known={ProducerKey("p", "b"): memory}, next_id=60).decide(put(4, first=1))
    assert reply == Stored([50, 51, 60, 61], repeated=2, warnings=())


def test_gaps_and_steps_backwards_are_stored_and_reported() -> None:
    deciding = admission()
    deciding.decide(put(1, first=1))
    skipped, back = deciding.decide(put(1, first=5)), deciding.decide(put(1, first=3))
    assert isinstance(skipped, Stored)
    assert isinstance(back, Stored)
    assert [w for w, _ in skipped.warnings] == ["sequence_gap"]
    assert [w for w, _ in back.warnings] == ["sequence_backwards"]
    assert len(deciding.rows) == 3


def test_what_is_forgotten_is_neither_acknowledged_nor_stored() -> None:
    memory = Sequences()
    memory.add(100, 100, 1)
    memory.floor = 90
    deciding = admission(known={ProducerKey("p", "b"): memory})
    assert code(deciding.decide(put(2, first=89))) is Code.SEQUENCE_FORGOTTEN
    assert not deciding.rows


def test_a_full_store_refuses_the_whole_request_and_says_when_to_come_back() -> None:
    deciding = admission(Quota(Limit(Amount(3, 1_000))), levels={A: {4: Amount(2, 20)}}, streams={A: 1})
    reply = deciding.decide(put(2))
    assert code(reply) is Code.STORE_FULL
    assert isinstance(reply, Refusal)
    assert reply.retry_after_ms
    assert not deciding.rows
    assert isinstance(deciding.decide(put(1)), Stored)
    assert code(deciding.decide(put(1))) is Code.STORE_FULL  # what this commit adds counts too


def test_a_repeat_is_acknowledged_even_when_the_store_is_full() -> None:
    memory = Sequences()
    memory.add(1, 1, 50)
    known = {ProducerKey("p", "b"): memory}
    deciding = admission(
        Quota(Limit(Amount(1, 1_000))), known, levels={A: {4: Amount(1, 10)}}, streams={A: 1}
    )
    assert deciding.decide(put(1, first=1)) == Stored([50], repeated=1)


def test_a_request_larger_than_the_limit_itself_will_never_fit() -> None:
    reply = admission(Quota(Limit(Amount(3, 1_000), OverflowPolicy.DROP_OLDEST))).decide(put(4))
    assert code(reply) is Code.EXCEEDS_LIMIT
    assert isinstance(reply, Refusal)
    assert reply.retry_after_ms is None


def test_drop_oldest_makes_room_for_exactly_what_comes() -> None:
    quota = Quota(Limit(Amount(5, 1_000), OverflowPolicy.DROP_OLDEST))
    deciding = admission(quota, levels={A: {4: Amount(5, 50)}}, streams={A: 1})
    assert isinstance(deciding.decide(put(2)), Stored)
    assert [(e.stream, e.amount) for e in deciding.evictions] == [(None, Amount(2, 0))]


@pytest.mark.parametrize(
    ("most", "stored", "gone"),
    [
        (
            Amount(100_000, 10**9),
            100_000,
            Amount(1 + 1_000, 0),
        ),  # a hundredth, and of the limit that is reached
        (Amount(10**6, 10_000_000), 100_000, Amount(0, 10 + 100_000)),
        (Amount(10**6, 10**9), 10**6, Amount(1 + 1_000, 0)),  # not 10,000
        (Amount(99, 10**9), 99, Amount(1, 0)),
    ],
)
def test_the_oldest_give_way_about_a_hundredth_at_a_time(most: Amount, stored: int, gone: Amount) -> None:
    """A store at its limit wrote its counters in every commit: four pages instead of one."""
    levels = {A: {4: Amount(stored, stored * 100)}}
    deciding = admission(Quota(Limit(most, OverflowPolicy.DROP_OLDEST)), levels=levels, streams={A: 1})
    assert isinstance(deciding.decide(put(1)), Stored)
    assert [each.amount for each in deciding.evictions] == [gone]
    assert isinstance(deciding.decide(put(1)), Stored)
    assert len(deciding.evictions) == (1 if max(gone) > 10 else 2), "there is room now"


def test_small_messages_do_not_go_by_the_thousands_where_others_are_large() -> None:
    """A hundredth of the bytes were 17,000 of the oldest for one that came, and its producer waited 0.7 s."""
    levels = {A: {4: Amount(60_000, 3_600_000)}, B: {4: Amount(500, 100_000_000)}}
    most = Amount(10**6, 103_600_000)
    deciding = admission(Quota(Limit(most, OverflowPolicy.DROP_OLDEST)), levels=levels, streams={A: 1, B: 2})
    assert isinstance(deciding.decide(put(1)), Stored)
    assert [each.amount for each in deciding.evictions] == [Amount(0, 10 + 262_144)]


def test_no_more_than_must_gives_way_by_importance_or_where_more_is_not_there() -> None:
    levels = {A: {4: Amount(1_000, 10_000)}}
    least = admission(
        Quota(Limit(Amount(1_000, 10**9), OverflowPolicy.DROP_LOWEST)), levels=levels, streams={A: 1}
    )
    assert isinstance(least.decide(put(1)), Stored)
    assert [each.amount for each in least.evictions] == [Amount(1, 0)]
    most = Quota(Limit(Amount(1_000, 10**9), OverflowPolicy.DROP_OLDEST))
    full = admission(most, levels=levels, streams={A: 1})
    assert isinstance(full.decide(put(995)), Stored)
    assert [each.amount for each in full.evictions] == [Amount(995, 0)]
    disk = admission(
        Quota(Limit(Amount(10**6, 10**9), OverflowPolicy.DROP_OLDEST)),
        levels=levels, streams={A: 1}, room_bytes=0,
    )  # fmt: skip
    assert isinstance(disk.decide(put(1)), Stored)
    assert [each.amount for each in disk.evictions] == [Amount(1, 10)]


def test_what_is_more_important_never_gives_way_to_what_is_less() -> None:
    quota = Quota(Limit(Amount(5, 1_000), OverflowPolicy.DROP_LOWEST))
    deciding = admission(quota, levels={A: {4: Amount(4, 40), 1: Amount(1, 10)}}, streams={A: 1})
    assert code(deciding.decide(put(1, priority=0))) is Code.STORE_FULL
    assert isinstance(deciding.decide(put(1, priority=2)), Stored)
    assert code(deciding.decide(put(1, priority=2))) is Code.STORE_FULL  # only one was less important
    assert [e.max_priority for e in deciding.evictions] == [2]


def test_one_full_stream_leaves_the_others_alone() -> None:
    quota = Quota(Limit(Amount(100, 10_000)), streams={A: Limit(Amount(1, 10_000))})
    deciding = admission(quota)
    assert isinstance(deciding.decide(put(1)), Stored)
    assert code(deciding.decide(put(1))) is Code.STREAM_FULL
    assert isinstance(deciding.decide(put(1, stream="b")), Stored)


def test_evictions_of_a_refused_request_are_taken_back() -> None:
    quota = Quota(Limit(Amount(1, 1_000)), streams={A: Limit(Amount(1, 1_000), OverflowPolicy.DROP_OLDEST)})
    deciding = admission(quota, levels={A: {4: Amount(1, 10)}, B: {4: Amount(5, 50)}}, streams={A: 1, B: 2})
    assert code(deciding.decide(put(1))) is Code.STORE_FULL
    assert not deciding.evictions


def test_a_full_disk_refuses_before_anything_is_written() -> None:
    deciding = admission(room_bytes=400)
    assert isinstance(deciding.decide(put(1, size=200)), Stored)
    assert code(deciding.decide(put(1, size=200))) is Code.DISK_FULL


def test_more_streams_or_producers_than_can_be_kept_track_of_are_refused() -> None:
    deciding = admission(Quota(WIDE.total, max_streams=1), most_new_producers=1)
    assert isinstance(deciding.decide(put(1, first=1)), Stored)
    assert code(deciding.decide(put(1, stream="b"))) is Code.TOO_MANY_STREAMS
    other = Put(Kind.MESSAGE, [describe({"stream": "a"}, PLAIN)], [b""], ProducerKey("q", "b"), 1)
    assert code(deciding.decide(other)) is Code.TOO_MANY_PRODUCERS


puts = st.builds(
    put,
    st.integers(1, 4),
    first=st.none() | st.integers(1, 12),
    stream=st.sampled_from("ab"),
    size=st.integers(0, 30),
    priority=st.integers(0, 9),
)


@given(
    st.lists(puts, max_size=20),
    st.sampled_from(OverflowPolicy),
    st.sampled_from(OverflowPolicy),
    st.sampled_from((2, 4, 100)),
)
def test_no_limit_is_exceeded_and_no_acknowledgement_is_without_a_row(
    requests: list[Put], policy: OverflowPolicy, stream_policy: OverflowPolicy, ahead_share: int
) -> None:
    quota = Quota(Limit(Amount(12, 200), policy), Limit(Amount(8, 120), stream_policy))
    levels = {A: {2: Amount(3, 30), 7: Amount(2, 20)}, B: {4: Amount(4, 40)}}
    deciding = admission(quota, levels=levels, streams={A: 1, B: 2})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quota_module, "AHEAD_SHARE", ahead_share)
        replies = [deciding.decide(request) for request in requests]
    acknowledged: set[int] = set()
    for request, reply in zip(requests, replies, strict=True):
        if isinstance(reply, Stored):
            assert len(reply.ids) == len(request.payloads)
            acknowledged |= {number for number in reply.ids if number is not None}
    assert acknowledged == {row.id for row in rows(deciding)}
    freed = sum(e.amount.messages for e in deciding.evictions)
    assert freed <= 9, "what gives way was there before"
    assert 9 + len(deciding.rows) - freed <= 12
    freed_bytes = sum(e.amount.bytes for e in deciding.evictions)
    assert 90 + sum(row.bytes for row in rows(deciding)) - freed_bytes <= 200


def test_streams_in_turn_cost_no_more_than_one_after_the_other() -> None:
    """Each change of stream looked at all descriptions again: 28 ms for a request of 1,000."""
    looked: list[int] = []

    class Counting(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            looked.append(1)
            return str.__eq__(self, other)

    two = [describe({"stream": Counting(name)}, PLAIN) for name in "ab"]
    request = Put(Kind.MESSAGE, two * 100, [b"x"] * 200, None, 0)
    assert isinstance(admission(known={}).decide(request), Stored)
    assert len(looked) < 5_000


def test_a_producer_put_back_to_a_snapshot_has_its_new_messages_stored() -> None:
    """They were acknowledged as repeats of those that it had numbered alike before, and not stored."""
    first_life = admission()
    for number in range(1, 6):
        first_life.decide(put(1, first=number, size=number))
    known = first_life.producers
    second_life = admission(known=known, next_id=6)
    replies = [second_life.decide(put(1, first=number, size=100 + number)) for number in range(3, 7)]
    assert [list(reply.ids) for reply in replies if isinstance(reply, Stored)] == [[6], [7], [8], [9]]
    assert [[code for code, _ in r.warnings] for r in replies if isinstance(r, Stored)] == [
        *[["key_reused"]] * 3,
        [],
    ]
    keys = [row.key for row in rows(second_life)]
    assert len(set(keys)) == 4 and not set(keys) & {f"p/b/{number}" for number in range(1, 6)}
    assert keys[-1] == "p/b/6", "what it never numbered before has its ordinary name"


def test_a_repeat_of_what_came_after_a_snapshot_is_stored_once() -> None:
    deciding = admission()
    deciding.decide(put(1, first=1, size=10))
    other = deciding.decide(put(1, first=1, size=20))
    assert deciding.decide(put(1, first=1, size=20)) == Stored([2], repeated=1)
    assert isinstance(other, Stored) and list(other.ids) == [2]
    assert len(deciding.rows) == 2


def test_two_completions_under_one_key_are_not_one() -> None:
    deciding = admission()
    for batch in ("one", "two"):
        described = describe({"stream": "a", "batch_id": batch}, PLAIN)
        deciding.decide(Put(Kind.COMPLETE_BATCH, [described], [b""], ProducerKey("p", "b"), 1))
    assert len(deciding.rows) == 2


def file_put(first: int = 1, **fields: Any) -> Put:
    return put(1, first=first, size=0, file="clip.mp4", **fields)


def measure(deciding: Admission, request: Put) -> MeasureFiles:
    asked = deciding.decide(request)
    assert isinstance(asked, MeasureFiles), asked
    return asked


def test_a_file_is_asked_for_when_there_is_room_and_kept_when_it_was_taken() -> None:
    deciding = admission()
    asked = measure(deciding, file_put())
    assert asked.files == [WantedFile("clip.mp4", "p/b/1")]
    assert not deciding.rows, "it is not taken yet"
    take = deciding.measured(asked, [500], copied=False)
    assert isinstance(take, TakeFiles)
    assert not deciding.rows, "it is not taken yet"
    file = TakenFile(500, 0)
    assert deciding.taken(take, [file]) == Stored(range(1, 2))
    (row,) = rows(deciding)
    assert row.payload == file.pack()
    assert row.bytes >= 500
    assert deciding.details[1].file == spool_name("p/b/1", "clip.mp4")


def test_a_file_for_which_there_is_no_room_is_not_asked_for() -> None:
    deciding = admission(Quota(Limit(Amount(10, 100))))
    assert code(deciding.measured(measure(deciding, file_put()), [500], copied=False)) is Code.EXCEEDS_LIMIT
    assert not deciding.rows


def test_a_file_that_is_only_renamed_takes_no_room_of_the_disk_and_one_that_is_copied_does() -> None:
    for copied in (False, True):
        deciding = admission(room_bytes=1_000)
        take = deciding.measured(measure(deciding, file_put()), [50_000], copied=copied)
        assert isinstance(take, Refusal if copied else TakeFiles)


def test_a_file_that_could_not_be_taken_leaves_no_eviction_behind() -> None:
    quota = Quota(Limit(Amount(1, 100_000), OverflowPolicy.DROP_OLDEST))
    deciding = admission(quota, levels={A: {4: Amount(1, 10)}}, streams={A: 1})
    for reason, code_of in (
        (NotTaken("not a regular file"), Code.BAD_FIELD),
        (NotTaken("no rights", passing=True), Code.STORE_UNAVAILABLE),
        (NotTaken("no room", passing=True, full=True), Code.DISK_FULL),
    ):
        take = deciding.measured(measure(deciding, file_put()), [500], copied=False)
        assert isinstance(take, TakeFiles) and deciding.evictions
        assert code(deciding.taken(take, reason)) is code_of
        assert not deciding.evictions and not deciding.rows and not deciding.producers


def test_a_file_of_a_repeat_is_not_asked_for_again() -> None:
    deciding = admission()
    take = deciding.measured(measure(deciding, file_put()), [500], copied=False)
    assert isinstance(take, TakeFiles)
    deciding.taken(take, [TakenFile(500, 0)])
    assert deciding.decide(file_put()) == Stored([1], repeated=1)


def test_a_file_needs_a_key_and_no_payload() -> None:
    assert code(admission().decide(put(1, size=0, file="clip.mp4"))) is Code.BAD_FIELD
    assert code(admission().decide(put(1, first=1, size=3, file="clip.mp4"))) is Code.BAD_FIELD
