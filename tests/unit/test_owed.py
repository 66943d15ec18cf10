"""The PUBACKs owed to the hub: after the commit, in the order of the messages, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.management.owed import LOCK_S, OwedMessages


def test_a_puback_follows_the_commit_in_the_order_of_the_messages() -> None:
    owed = OwedMessages(1)
    numbers = [owed.add(packet_id, 10, 0.0) or 0 for packet_id in (7, 8, 9)]
    assert len(owed) == 3
    assert owed.stored(numbers[1]) == [], "the hub's gateway drops a device that acknowledges out of order"
    assert owed.stored(numbers[0]) == [7, 8]
    assert owed.stored(numbers[0]) == [], "said once"
    assert owed.stored(numbers[2]) == [9] and len(owed) == 0


def test_a_message_without_acknowledgement_waits_for_nothing_and_holds_nothing_up() -> None:
    owed = OwedMessages(1)
    answer, command = owed.add(None, 10, 0.0) or 0, owed.add(5, 10, 0.0) or 0
    assert owed.stored(command) == [5]
    assert len(owed) == 1 and owed.stored(answer) == [] and len(owed) == 0


def test_one_that_is_never_stored_holds_others_up_no_longer_than_the_hubs_lock() -> None:
    owed = OwedMessages(1)
    stuck, later = owed.add(1, 10, 0.0) or 0, owed.add(2, 10, 1.0) or 0
    assert owed.stored(later) == []
    assert owed.overdue(LOCK_S - 0.1) == ([], [])
    assert owed.next_s() == LOCK_S
    assert owed.overdue(LOCK_S) == ([stuck], [2])
    assert owed.stored(stuck) == [] and len(owed) == 0 and owed.next_s() is None


def test_beyond_the_bounds_nothing_is_acknowledged_and_nothing_after_it() -> None:
    owed = OwedMessages(1, most=2, most_bytes=100)
    first = owed.add(1, 60, 0.0) or 0
    assert owed.add(2, 41, 0.0) is None, "too many bytes"
    third = owed.add(3, 40, 0.0) or 0
    assert owed.add(4, 0, 0.0) is None, "too many"
    assert owed.not_taken == 2
    assert owed.stored(first) == [1] and owed.stored(third) == []
    assert owed.overdue(LOCK_S) == ([], []), "the stored one is as old: the hub sends it again"
    assert owed.add(5, 100, LOCK_S) is not None, "there is room again"


def test_a_lost_connection_owes_nothing() -> None:
    owed = OwedMessages(1)
    numbers = [owed.add(packet_id, 10, 0.0) for packet_id in (1, 2)]
    owed.stored(numbers[1] or 0)
    assert owed.clear() == [numbers[0]]
    assert len(owed) == 0 and owed.stored(numbers[0] or 0) == []
    again = owed.add(1, 10, 0.0)
    assert again is not None and again not in numbers, "a late word about the old one means no new one"


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "call", "store", "wait"]), st.integers(0, 30)), max_size=60
)


@given(ACTIONS)
def test_whatever_happens_pubacks_rise_and_each_was_stored(actions: list[tuple[str, int]]) -> None:
    owed = OwedMessages(1, most=8, most_bytes=200)
    now, packet_id, acked = 0.0, 0, list[int]()
    passed: dict[int, int | None] = {}
    stored: set[int] = set()
    for what, n in actions:
        match what:
            case "add" | "call":
                packet_id += 1
                mid = packet_id if what == "add" else None
                if (number := owed.add(mid, n, now)) is not None:
                    passed[number] = mid
            case "store" if passed:
                number = sorted(passed)[n % len(passed)]
                stored.add(passed[number] or 0)
                acked += owed.stored(number)
            case "wait":
                now += n
                acked += owed.overdue(now)[1]
        assert 0 <= len(owed) <= 8
    assert acked == sorted(set(acked)) and set(acked) <= stored
