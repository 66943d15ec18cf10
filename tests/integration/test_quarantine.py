"""What was set aside, and comes back or is given up: counted as what it is, and nothing is lost by it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from runtime.adapters.process.clock import read_moment
from runtime.adapters.store.counters import Loss
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.delivery.ttl import expires_s
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.message import StoredMessage
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, keep, put


def lost(path: Path) -> dict[str, int]:
    with contextlib.closing(StoreReader(path)) as reader:
        return reader.lost()


def messages(path: Path) -> list[StoredMessage]:
    with contextlib.closing(StoreReader(path)) as reader:
        return [found for found in reader.after(0, 100, 1 << 20) if isinstance(found, StoredMessage)]


def test_a_message_that_came_back_from_quarantine_and_was_delivered_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    with contextlib.closing(MessageStore(path, ObedientClock())) as store:
        keep(store, put([b"a", b"b"]))
        store.commit(None, Settled(quarantined=[(1, "why"), (2, "why")]))
        assert lost(path) == {"quarantined": 2}
        store.commit(None, Settled(requeued=[1]))
        assert lost(path) == {"quarantined": 1}
        store.commit(None, Settled(quarantined=[(3, "again")]))
        assert lost(path) == {"quarantined": 2}
        store.commit(None, Settled(requeued=[3, 2]))
        store.commit(None, Settled(delivered=[4, 5]))
        assert lost(path) == {}


def test_a_message_with_a_ttl_that_an_operator_requeues_is_sent(tmp_path: Path) -> None:
    """It had expired in quarantine: "1 requeued", and then it was dropped."""
    path, clock = tmp_path / "messages.db", ObedientClock()
    with contextlib.closing(MessageStore(path, clock)) as store:
        keep(store, put([b"a"], ttl_s=60))
        store.commit(None, Settled(quarantined=[(1, "why")]))
        clock.boot += 3_600
        store.commit(None, Settled(requeued=[1]))
        (back,) = messages(path)
        assert back.payload == b"a" and expires_s(back, read_moment(clock), synchronised=True) is None


def test_a_message_that_was_dropped_in_flight_and_delivered_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    quota = Quota(Limit(Amount(2, 10**6), OverflowPolicy.DROP_OLDEST))
    with contextlib.closing(MessageStore(path, ObedientClock())) as store:
        for payload in (b"a", b"b", b"c", b"d"):
            keep(store, put([payload]), quota=quota)
        assert lost(path) == {"drop-oldest": 2}
        for _ in range(2):  # a report may be repeated
            store.commit(None, Settled(delivered=[1, 1]))
            assert lost(path) == {"drop-oldest": 1}
        delivered = store._db.execute("SELECT sum(delivered) FROM levels").fetchone()
        assert delivered == (1,)


def discarded(losses: list[Loss]) -> list[str]:
    return [file for loss in losses for file in loss.files]


def test_a_drop_beside_a_requeue_leaves_the_file_of_the_message_that_is_back(tmp_path: Path) -> None:
    """The command unlinked what the list said that it had read before."""
    path = tmp_path / "messages.db"
    with contextlib.closing(MessageStore(path, ObedientClock())) as store:
        keep(store, put([b"", b""], producer="p", first=1))
        store._db.execute("UPDATE messages SET file = 'file-' || id")
        store.commit(None, Settled(quarantined=[(1, "why"), (2, "why")]))
        store.commit(None, Settled(requeued=[1]))
        assert discarded(store.commit(None, Settled(discarded=[1, 2]))) == ["file-2"]
        assert [message.file for message in messages(path)] == ["file-1"]
        assert discarded(store.commit(None, Settled(discarded=[1, 2]))) == []


def test_what_the_quarantine_has_no_room_for_is_lost_once(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    with contextlib.closing(MessageStore(path, ObedientClock(), quarantine_bytes=2_500)) as store:
        keep(store, put([b"x" * 1_000] * 4))
        store.commit(None, Settled(quarantined=[(1, "why"), (2, "why"), (3, "why")]))
        store.commit(None, Settled(quarantined=[(4, "why")]))
        assert lost(path) == {"quarantined": 2, "quarantine_full": 2}
