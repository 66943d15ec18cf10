"""No owner fills the store alone, nor pushes out the messages of others; a single one has all of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.store import holders as store_holders
from runtime.adapters.store import recount
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest import quota as quota_module
from runtime.core.ingest.protocol import Refusal, Reply, Stored
from runtime.core.ingest.quota import OWNER_SHARES, Amount, Limit, OverflowPolicy, Quota
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, decide, keep, put, waiting_ids

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


def quota(policy: OverflowPolicy, most: Amount = Amount(MOST, 10**9)) -> Quota:  # noqa: B008  # it never changes
    return Quota(Limit(most, policy))


def say(
    store: MessageStore,
    owner: str,
    policy: OverflowPolicy,
    times: int = 1,
    priority: int = 4,
    payload: bytes = b"x",
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
    owners = [stored._holders.owner_of(number) for number in waiting_ids(path)]
    return {owner: owners.count(owner) for owner in owners}


def counted(store: MessageStore) -> dict[str, int]:
    """What the books say of that."""
    sums = {o: sum(amount.messages for amount in level.values()) for o, level in store._holders.held.items()}
    return {owner: messages for owner, messages in sums.items() if messages}


def stored(replies: list[Reply]) -> int:
    return sum(isinstance(reply, Stored) for reply in replies)


@pytest.mark.parametrize("policy", list(OverflowPolicy))
def test_a_single_owner_has_all_of_the_store_and_no_more(
    path: Path, store: MessageStore, policy: OverflowPolicy
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
    assert stored(say(store, FLOOD, OverflowPolicy.REJECT, 2 * MOST)) == MOST
    if restart:
        store.close()
        store = MessageStore(path, ObedientClock())
    assert stored(say(store, HONEST, OverflowPolicy.REJECT, 2 * MOST)) == MOST // OWNER_SHARES
    assert stored(say(store, THIRD, OverflowPolicy.REJECT, 2 * MOST)) == MOST // OWNER_SHARES
    assert stored(say(store, FLOOD, OverflowPolicy.REJECT, 3)) == 0
    store.commit(None, Settled(delivered=list(range(1, 31))))  # 30 of the one that holds most
    assert stored(say(store, HONEST, OverflowPolicy.REJECT, 1)) == 1
    assert stored(say(store, FLOOD, OverflowPolicy.REJECT, 1)) == 1
    store.close()


@pytest.mark.parametrize("policy", [OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST])
@pytest.mark.parametrize("restart", [False, True])
def test_a_flood_pushes_out_itself_and_not_the_messages_of_others(
    path: Path, store: MessageStore, policy: OverflowPolicy, restart: bool
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
    say(store, HONEST, OverflowPolicy.DROP_LOWEST, 5, priority=0)
    say(store, FLOOD, OverflowPolicy.DROP_LOWEST, 30, priority=9)
    say(store, FLOOD, OverflowPolicy.DROP_LOWEST, 15, priority=5)
    say(store, FLOOD, OverflowPolicy.DROP_LOWEST, 10, priority=9)
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
    assert store._holders.first_of(FLOOD, 39) == 40
    store.close()


def test_what_is_counted_by_owner_is_what_is_there(path: Path, store: MessageStore) -> None:
    policy = OverflowPolicy.DROP_OLDEST
    for number in range(3 * MOST):
        say(store, (HONEST, FLOOD, THIRD)[number % 3], policy, priority=number % 10)
        if number % 7 == 0:
            store.commit(None, Settled(delivered=[number - 3]))
    assert counted(store) == held(path, store)
    assert all(isinstance(reply, Refusal | Stored) for reply in say(store, HONEST, policy))


def in_turn(path: Path, store: MessageStore, commits: int, *, delivering: bool) -> None:
    """Owners that take turns at every message; what is oldest is delivered in the same commits."""
    for _ in range(commits):
        oldest = min(waiting_ids(path), default=1)
        settled = Settled(delivered=[oldest, oldest + 1]) if delivering else Settled()
        keep(store, put([b"x"], owner=HONEST), put([b"x"], owner=FLOOD), settled=settled)


def test_an_owner_holds_no_more_than_is_there_where_its_changes_are_forgotten(
    path: Path, store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was delivered while they were forgotten stayed counted: it locked that owner out of its share."""
    in_turn(path, store, 3, delivering=False)
    assert store.count()
    monkeypatch.setattr(store_holders, "LOOK_FROM", 4)
    store._holders._look_at = 4
    in_turn(path, store, 30, delivering=True)
    assert counted(store) == held(path, store) == {HONEST: 3, FLOOD: 3}


def test_a_count_that_is_under_way_knows_whose_left_where_changes_are_forgotten(
    path: Path, store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(path, store, 10, delivering=False)
    monkeypatch.setattr(recount, "ROWS_AT_ONCE", 12)
    assert not store.count(0)
    monkeypatch.setattr(store_holders, "WORTH_FORGETTING", 1_000)
    monkeypatch.setattr(store_holders, "LOOK_FROM", 4)
    store._holders._look_at = 4
    in_turn(path, store, 5, delivering=True)
    while not store.count(0):
        pass
    assert counted(store) == held(path, store) == {HONEST: 10, FLOOD: 10}


def test_where_changes_of_owner_are_too_many_the_books_say_what_the_ids_say_and_it_passes(
    path: Path, store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages were counted as an owner's, and nobody's when they left; nor were owners ever known again."""
    monkeypatch.setattr(store_holders, "MOST_CHANGES", 8)
    monkeypatch.setattr(store._holders, "_look_at", 8)
    in_turn(path, store, 10, delivering=False)
    assert store.count()
    in_turn(path, store, 5, delivering=False)
    assert counted(store) == held(path, store)
    assert counted(store)[""] > 15
    store.commit(None, Settled(delivered=list(range(1, 29))))
    in_turn(path, store, 10, delivering=True)
    while not store.count():
        pass
    assert counted(store) == held(path, store) == {HONEST: 1, FLOOD: 1}


def test_what_comes_back_from_quarantine_is_held_by_an_owner(path: Path, store: MessageStore) -> None:
    in_turn(path, store, 2, delivering=False)
    assert store.count()
    store.commit(None, Settled(quarantined=[(1, "poison"), (2, "poison")]))
    store.commit(None, Settled(requeued=[1, 2]))
    assert counted(store) == held(path, store)


@pytest.mark.parametrize("policy", [OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST])
def test_owners_in_turn_cost_no_query_for_each_turn_where_one_gives_way(
    path: Path, store: MessageStore, policy: OverflowPolicy
) -> None:
    """With 24,000 turns each eviction took 0.6 s, and each request of a commit asks for one."""
    for number in range(200):
        keep(store, put([b"x"], owner=(HONEST, FLOOD)[number % 2], priority=5))
    assert store.count()
    queries: list[str] = []
    store._db.set_trace_callback(queries.append)
    limit = quota(policy, Amount(200, 10**9))
    assert stored(keep(store, put([b"x"] * 5, owner=HONEST, priority=5), quota=limit)) == 1
    assert sum("FROM messages WHERE priority" in query for query in queries) <= 3
    ahead = policy is OverflowPolicy.DROP_OLDEST  # a hundredth of what the largest owner holds
    assert store.backlog().messages == 200 - ahead


def test_what_gives_way_in_one_commit_is_looked_at_by_owner_not_one_by_one(
    store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 500 requests looked at all that those before it had pushed out, one by one: 0.2 s."""
    monkeypatch.setattr(quota_module, "AHEAD_SHARE", 1_000)
    limit = quota(OverflowPolicy.DROP_OLDEST, Amount(600, 10**9))
    for owner in (HONEST, FLOOD):
        keep(store, put([b"x"] * 300, owner=owner), quota=limit)
    assert store.count()
    requests = [put([b"x"], owner=(HONEST, FLOOD)[number % 2]) for number in range(500)]
    admission, replies = decide(store, requests, limit)
    assert stored(replies) == len(admission.evictions) == 500
    assert len(admission._usage._booked) <= 2
