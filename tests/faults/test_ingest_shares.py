"""No owner fills the store alone, nor pushes out the messages of others; a single one has all of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.store import MessageStore
from runtime.core.protocol import Refused, Reply, Stored
from runtime.core.quota import FEW, Amount, Limit, Policy, Quota
from runtime.core.settlement import Settled
from tests.store_tools import ObedientClock, decide, keep, put

MOST = 50
FLOOD, HONEST, THIRD = "user 1001", "user 1000", "key abc"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


@pytest.fixture
def store(path: Path) -> Iterator[MessageStore]:
    made = MessageStore(path, ObedientClock())
    yield made
    made.close()


def quota(policy: Policy, most: Amount = Amount(MOST, 10**9)) -> Quota:  # noqa: B008  # it never changes
    return Quota(Limit(most, policy))


def say(
    store: MessageStore, owner: str, policy: Policy, times: int = 1, priority: int = 4, payload: bytes = b"x"
) -> list[Reply]:
    """One commit for each, as the worker does it: counted where that is asked for."""
    replies = []
    for _ in range(times):
        request = put([payload], stream="s", owner=owner, priority=priority)
        admission, (reply,) = decide(store, [request], quota(policy))
        if admission.wants_count:
            while not store.count():
                pass
            admission, (reply,) = decide(store, [request], quota(policy))
        store.commit(admission, Settled())
        replies.append(reply)
    return replies


def held(path: Path, stored: MessageStore) -> dict[str, int]:
    with sqlite3.connect(path) as db:
        ids = [number for (number,) in db.execute("SELECT id FROM messages").fetchall()]
    owners = [stored._holders.owner_of(number) for number in ids]
    return {owner: owners.count(owner) for owner in owners}


def stored(replies: list[Reply]) -> int:
    return sum(isinstance(reply, Stored) for reply in replies)


@pytest.mark.parametrize("policy", list(Policy))
def test_a_single_owner_has_all_of_the_store_and_no_more(
    path: Path, store: MessageStore, policy: Policy
) -> None:
    for _ in range(2):
        say(store, FLOOD, policy, 2 * MOST)
        assert store.backlog().messages == MOST
        store.close()
        store = MessageStore(path, ObedientClock())
    assert held(path, store) == {FLOOD: MOST}
    store.close()


@pytest.mark.parametrize("restart", [False, True])
def test_whoever_fills_the_store_keeps_no_other_owner_from_storing_a_little(
    path: Path, store: MessageStore, restart: bool
) -> None:
    assert stored(say(store, FLOOD, Policy.REJECT, 2 * MOST)) == MOST
    if restart:
        store.close()
        store = MessageStore(path, ObedientClock())
    assert stored(say(store, HONEST, Policy.REJECT, 2 * MOST)) == MOST // FEW
    assert stored(say(store, THIRD, Policy.REJECT, 2 * MOST)) == MOST // FEW
    assert stored(say(store, FLOOD, Policy.REJECT, 3)) == 0
    store.commit(None, Settled(delivered=list(range(1, 31))))  # 30 of the one that holds most
    assert stored(say(store, HONEST, Policy.REJECT, 1)) == 1
    assert stored(say(store, FLOOD, Policy.REJECT, 1)) == 1
    store.close()


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.DROP_LOWEST])
@pytest.mark.parametrize("restart", [False, True])
def test_a_flood_pushes_out_itself_and_not_the_messages_of_others(
    path: Path, store: MessageStore, policy: Policy, restart: bool
) -> None:
    say(store, HONEST, policy, 10)
    say(store, THIRD, policy, 5)
    if restart:
        store.close()
        store = MessageStore(path, ObedientClock())
    assert stored(say(store, FLOOD, policy, 4 * MOST)) == 4 * MOST
    assert held(path, store) == {HONEST: 10, THIRD: 5, FLOOD: MOST - 15}
    assert stored(say(store, HONEST, policy, 5)) == 5
    assert held(path, store) == {HONEST: 15, THIRD: 5, FLOOD: MOST - 20}
    store.close()


def test_by_importance_the_least_important_of_the_flood_gives_way_first(
    path: Path, store: MessageStore
) -> None:
    say(store, HONEST, Policy.DROP_LOWEST, 5, priority=0)
    say(store, FLOOD, Policy.DROP_LOWEST, 30, priority=9)
    say(store, FLOOD, Policy.DROP_LOWEST, 15, priority=5)
    say(store, FLOOD, Policy.DROP_LOWEST, 10, priority=9)
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT priority, count(*) FROM messages GROUP BY priority").fetchall()
    assert found == [(0, 5), (5, 5), (9, 40)]


def test_owners_in_turn_are_known_by_their_ids_and_the_delivered_are_forgotten(
    path: Path, store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._holders, "_look_at", 20)
    for number in range(40):
        keep(store, put([b"%d" % number], owner=(HONEST, FLOOD)[number % 2]))
        if number > 5:
            store.commit(None, Settled(delivered=[number - 5]))
    with sqlite3.connect(path) as db:
        ((changes, least),) = db.execute("SELECT count(*), min(first_id) FROM holders").fetchall()
    assert changes < 30 and least > 1
    store.close()
    store = MessageStore(path, ObedientClock())
    assert [store._holders.owner_of(number) for number in (39, 40)] == [HONEST, FLOOD]
    assert store._holders.ranges(FLOOD)[-1][0] == 40
    store.close()


def test_what_is_counted_by_owner_is_what_is_there(path: Path, store: MessageStore) -> None:
    policy = Policy.DROP_OLDEST
    for number in range(3 * MOST):
        say(store, (HONEST, FLOOD, THIRD)[number % 3], policy, priority=number % 10)
        if number % 7 == 0:
            store.commit(None, Settled(delivered=[number - 3]))
    counted = {
        owner: sum(amount.messages for amount in held.values())
        for owner, held in store._holders.held.items()
        if owner
    }
    assert counted == held(path, store)
    assert all(isinstance(reply, Refused | Stored) for reply in say(store, HONEST, policy))
