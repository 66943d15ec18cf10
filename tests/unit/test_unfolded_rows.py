"""What rows tell of themselves: proven by a checksum, or it counts for nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest.ownership import key_prefix
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.unfolded_rows import (
    StoredRequest,
    pack_gone,
    unpack_gone,
    unpack_requests,
)

IDS = st.integers(1, 2**50)
Row = tuple[int, object, object]


@st.composite
def requests(draw: st.DrawFn) -> StoredRequest:
    owner = draw(st.sampled_from(("", "uid:1000", "x" * 40)))
    key = ProducerKey(draw(st.sampled_from(("p", "a.b-c_D"))), "boot-1", owner)
    first, count = draw(st.integers(1, 2**61)), draw(st.integers(0, 5))
    apart = bool(owner) and draw(st.booleans())
    return StoredRequest(key, apart, first, first + count, draw(IDS), draw(st.integers(0, 2**21 - 2)))


def rows_of(request: StoredRequest) -> list[Row]:
    prefix = key_prefix(request.key, apart=request.apart)
    count = request.last - request.first
    rows: list[Row] = [
        (request.first_id + at, f"{prefix}{request.first + at}", None) for at in range(count + 1)
    ]
    return [*rows[:-1], (*rows[-1][:2], request.pack())]


@given(request=requests())
def test_a_request_is_read_back_from_its_rows_as_it_was(request: StoredRequest) -> None:
    assert 0 <= request.pack() < 2**62
    assert unpack_requests(rows_of(request), lambda _: request.key.owner) == [request]


def test_the_number_of_a_request_is_the_one_that_earlier_versions_wrote() -> None:
    """It is on disks: a name that changes in the code must not change it."""
    request = StoredRequest(
        ProducerKey("p", "b", "user 1000"), apart=False, first=7, last=9, first_id=1000, content=12345
    )
    assert request.pack() == 1293322636905997314


@given(request=requests(), data=st.data())
def test_a_request_of_which_anything_changed_is_not_believed(
    request: StoredRequest, data: st.DataObject
) -> None:
    """One flipped bit in a key could call a sequence stored that is not: its message would be thrown away."""
    rows, owner = rows_of(request), request.key.owner
    at = data.draw(st.integers(0, len(rows) - 1))
    number, key, packed = rows[at]
    match data.draw(st.sampled_from(("key", "request", "id", "owner", "lost"))):
        case "key":
            letter = data.draw(st.integers(0, len(str(key)) - 1))
            flipped = chr(ord(str(key)[letter]) ^ (1 << data.draw(st.integers(0, 6))))
            rows[at] = (number, f"{str(key)[:letter]}{flipped}{str(key)[letter + 1 :]}", packed)
        case "request":
            rows[-1] = (*rows[-1][:2], request.pack() ^ (1 << data.draw(st.integers(0, 61))))
        case "id":
            flipped_id = number ^ (1 << data.draw(st.integers(0, 50)))
            rows[at] = (flipped_id, key, packed)
        case "owner":
            owner = f"{owner}'"
        case "lost":
            del rows[at]
    assert unpack_requests(rows, lambda _: owner) == []


@given(request=requests(), column=st.one_of(st.none(), st.text(), st.binary(), st.floats(), st.integers()))
def test_any_value_at_all_in_the_column_is_no_request(request: StoredRequest, column: object) -> None:
    rows = rows_of(request)
    rows[-1] = (*rows[-1][:2], column)
    assert unpack_requests(rows, lambda _: request.key.owner) == []


@given(ids=st.sets(st.integers(1, 300), min_size=1), beyond=st.integers(1, 2**40))
def test_a_note_is_read_back_as_it_was(ids: set[int], beyond: int) -> None:
    number = max(ids) + beyond
    assert unpack_gone(number, pack_gone(number, ids)) == sorted(ids)


@given(ids=st.sets(st.integers(1, 300), min_size=1), data=st.data())
def test_a_note_of_which_one_bit_flipped_names_nothing(ids: set[int], data: st.DataObject) -> None:
    """It would name another message, which is delivered nowhere."""
    note = pack_gone(301, ids)
    at, bit = data.draw(st.integers(0, len(note) - 1)), data.draw(st.integers(0, 7))
    flipped = f"{note[:at]}{chr(ord(note[at]) ^ (1 << bit))}{note[at + 1 :]}"
    assert unpack_gone(301, flipped) == []
    other = 301 ^ (1 << data.draw(st.integers(0, 20)))
    assert unpack_gone(other, note) == [], "in another row"


def test_a_note_names_neither_its_own_row_nor_a_later_one_nor_all_of_them() -> None:
    for ids in ([7], [8], [3, 7], range(5, 9)):
        assert unpack_gone(7, pack_gone(7, ids)) == []
    assert unpack_gone(2**40, pack_gone(2**40, range(1, 20_000))) == []


@given(gone=st.one_of(st.none(), st.text(), st.binary(), st.floats(), st.integers()))
def test_any_value_at_all_in_the_column_names_nothing(gone: object) -> None:
    assert unpack_gone(7, gone) == []
