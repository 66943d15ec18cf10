"""Housekeeping that only happens when nobody is there never happens where somebody always is."""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
from pathlib import Path

import pytest
import zmq
from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import BUSY, read_status
from runtime.adapters.store import writer as store_writer
from runtime.adapters.store.disk import BALLAST_BYTES, Disk, DiskReserve
from runtime.adapters.store.errors import StoreDamaged, StoreFull, StoreUnavailable
from runtime.adapters.store.recount import SLICE_S, UNASKED_PAUSE_S, UNASKED_SLICE_S
from runtime.adapters.store.wal import write_again
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.admission import MeasureFiles
from runtime.core.ingest.protocol import Code, ProducerKey, Refusal, Reply, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.settlement import Settled
from runtime.workers.ingest import IDLE_S, IngestLoop
from runtime.workers.store_housekeeping import KEEP_FREE_PAGES, VACUUM_PAGES, VACUUM_PAUSE_S
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, decide, ever_lost, keep
from tests.support.store_tools import put as request


def ask(ingest: IngestLoop, socket: zmq.Socket[bytes], header: dict[str, object]) -> dict[str, object]:
    socket.send_multipart([json.dumps(header).encode(), b"x"])
    for _ in range(50):
        ingest.turn()
        if socket.poll(20):
            return json.loads(socket.recv())
    raise AssertionError("no answer")


def test_a_salvage_ends_though_producers_go_on_asking(home: Home) -> None:
    """Were it begun anew for every refused request, a store of many slices would never open again."""
    clock = ObedientClock()
    store = MessageStore(home.layout.messages_db, clock)
    for _ in range(10):
        keep(store, request([b"x" * 100] * 1000))
    store._db.close()
    ingest = IngestLoop(home.config, Stop(), clock)
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())
    try:
        ingest._manager.failed(StoreDamaged("for the test"))
        for _ in range(200):  # 10,000 rows are 20 slices
            reply = ask(ingest, socket, {"stream": "s"})
            if reply["ok"]:
                return
        raise AssertionError(f"200 turns later: {reply}")
    finally:
        socket.close(0)
        ingest.close()


def test_producers_long_gone_are_forgotten_though_others_never_pause(home: Home) -> None:
    home.write_config("[ingest]\nmax_producers = 100\n")
    clock = ObedientClock()
    ingest = IngestLoop(home.config, Stop(), clock)
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())
    try:
        for number in range(150):
            clock.boot += 3_600.0  # one an hour
            reply = ask(ingest, socket, {"producer": "p", "boot": f"b{number}", "sequence": 1})
            assert reply["ok"], f"producer {number}: {reply}"
    finally:
        socket.close(0)
        ingest.close()


def test_what_happens_a_thousand_times_takes_no_thousand_lines_of_the_log(home: Home) -> None:
    """Else the refusals of one night push the reason of all out of it."""
    home.write_config("[store]\nmax_messages = 1\n")
    clock, said = ObedientClock(), []
    ingest = IngestLoop(home.config, Stop(), clock)
    listening = logger.add(lambda line: said.append(line.record["extra"]), level="WARNING")
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())
    try:
        assert ask(ingest, socket, {"stream": "s"})["ok"]
        for _ in range(30):
            clock.boot += 5.0
            assert not ask(ingest, socket, {"stream": "s"})["ok"]
            ingest._manager.failed(StoreFull("for the test"))
        for name in ("code", "error"):
            assert [extra["times"] for extra in said if name in extra] == [
                1,
                12,
                12,
            ]  # at once, then a minute's
    finally:
        logger.remove(listening)
        socket.close(0)
        ingest.close()


def test_a_policy_that_drops_with_every_commit_takes_no_line_of_the_log_for_each_and_names_every_id(
    home: Home,
) -> None:
    home.write_config('[store]\nmax_messages = 1\npolicy = "drop-oldest"\n')
    clock, said = ObedientClock(), []
    ingest = IngestLoop(home.config, Stop(), clock)
    listening = logger.add(lambda line: said.append(line.record), level="WARNING")
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())
    try:
        for _ in range(30):
            clock.boot += 5.0
            assert ask(ingest, socket, {"stream": "s"})["ok"]
    finally:
        socket.close(0)
        ingest.close()
        logger.remove(listening)
    assert len(said) <= 4, "at once, then a minute's, and the rest at the end"
    ids = [i for each in said for first, last in each["extra"]["ids"] for i in range(first, last + 1)]
    assert ids == list(range(1, 30))
    assert sum(int(each["message"].split()[0]) for each in said) == 29


def test_forgetting_that_fails_leaves_the_store_fit_for_the_next_commit(tmp_path: Path) -> None:
    clock = ObedientClock()
    store = MessageStore(tmp_path / "messages.db", clock, max_producers=10)
    for number in range(10):
        keep(store, request([b"x"], producer=f"p{number}", first=1))
    clock.boot += 10_000.0
    store._db.execute("PRAGMA query_only = ON")  # a disk that refuses to be written
    with pytest.raises(StoreUnavailable):
        store.forget_producers(600.0)
    store._db.execute("PRAGMA query_only = OFF")
    keep(store, request([b"y"], producer="p0", first=2))
    assert store.forget_producers(600.0) > 0
    store.close()


def test_a_producer_that_comes_back_is_not_forgotten_for_the_room_of_another(home: Home) -> None:
    """It was written anew and not counted anew: the bound on producers crept up with each of them."""
    home.write_config("[ingest]\nmax_producers = 10\n[store]\nmin_free_bytes = 0\n")
    clock = ObedientClock()
    keeper = StoreManager(home.config, clock)

    def come(*names: str, first: int) -> list[Reply | MeasureFiles]:
        requests = [request([b"x"], producer=name, first=first) for name in names]
        admission = keeper.admission({ProducerKey(name, "b") for name in names}, Settled())
        replies = [admission.decide(each) for each in requests]
        keeper.commit(admission, Settled())
        return replies

    come(*(f"p{number}" for number in range(10)), first=1)
    clock.boot += 10_000.0
    _, new = come("p0", "new", first=2)
    assert isinstance(new, Stored)
    with sqlite3.connect(home.layout.messages_db) as db:
        there = {name for (name,) in db.execute("SELECT producer FROM producers")}
        (counted,) = db.execute("SELECT producers FROM store").fetchone()
    assert {"p0", "new"} <= there
    assert counted == len(there)
    keeper.close()


def test_no_more_is_evicted_than_is_needed_beside_the_delivered(tmp_path: Path) -> None:
    """What was delivered makes room in the same commit: nothing has to be dropped for it."""
    quota = Quota(Limit(Amount(10, 10**9), OverflowPolicy.DROP_OLDEST))
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    keep(store, request([b"x"] * 10), quota=quota)
    settled = Settled(delivered=[1, 2, 3, 4, 5])
    admission, _ = decide(store, [request([b"y"] * 5)], quota, settled)
    losses = store.commit(admission, settled)
    assert losses == []
    assert store.backlog().messages == 10
    store.close()


@pytest.mark.parametrize("policy", [OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST])
@pytest.mark.parametrize("most", [Amount(10, 10**9), Amount(10**6, 100)])
@pytest.mark.parametrize("of_stream", [False, True])
def test_a_limit_lowered_over_a_large_backlog_is_reached_commit_by_commit(
    tmp_path: Path, policy: OverflowPolicy, most: Amount, of_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it at once took longer than a worker may be silent: killed, and begun anew for ever."""
    monkeypatch.setattr("runtime.core.ingest.admission.EVICTED_AT_ONCE", 50)
    limit = Limit(most, policy)
    quota = Quota(Limit(Amount(10**6, 10**9)), limit) if of_stream else Quota(limit)
    store = MessageStore(tmp_path / "messages.db", ObedientClock(), policies=quota.policies())
    keep(store, *[request([b"0123456789"] * 100)] * 10)
    for _ in range(30):
        before = store.backlog().messages
        both = [request([b"fresh"], producer=name, first=1) for name in ("p", "q")]
        replies = keep(store, *both, quota=quota)
        assert before - store.backlog().messages <= 110
        if isinstance(replies[0], Stored):
            break
        assert isinstance(replies[0], Refusal)
        assert replies[0].retry_after_ms
    assert [type(reply) for reply in replies] == [Stored, Stored]
    assert most.covers(Amount(store.backlog().messages, store.backlog().bytes))
    assert sum(amount.messages for amount in ever_lost(store).values()) == 1_002 - store.backlog().messages
    store.close()


def test_a_start_that_takes_long_reports_meanwhile_and_is_not_killed_and_begun_anew_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new policy over a large backlog needs an index, a schema may change, a WAL be large."""
    monkeypatch.setattr("runtime.adapters.store.open_store.ALIVE_STEPS", 100)
    monkeypatch.setattr("runtime.adapters.store.wal._FLUSH_BYTES", 65_536)
    left = MessageStore(home.layout.messages_db, ObedientClock())
    keep(left, *[request([b"0123456789" * 10] * 100)] * 10)
    calls: list[None] = []
    write_again(home.layout.messages_db, lambda: calls.append(None))
    assert calls
    left.close()
    home.write_config('[store]\npolicy = "drop-lowest-priority"\n')
    ingest = IngestLoop(home.config, Stop(), SystemClock())
    try:
        starting = read_status(home.layout.status_file("ingest"))
        assert starting is not None and starting[BUSY]
        ingest._heartbeat.publish(ingest._figures, now=True)
        assert BUSY not in (read_status(home.layout.status_file("ingest")) or {BUSY: True})
    finally:
        ingest.close()


def test_nobody_is_refused_for_lack_of_room_that_the_same_commit_makes(tmp_path: Path) -> None:
    """Of the whole store and of a stream, by any way that a message leaves; and not for more than that."""
    full = Limit(Amount(10, 10**9))
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    for number in range(10):
        keep(store, request([b"x"], stream=f"s{number % 2}"))
    settled = Settled(delivered=[1, 1, 10**9], dropped=[(2, "expired")], quarantined=[(3, "poison")])
    for quota in (Quota(full), Quota(Limit(Amount(100, 10**9)), Limit(Amount(5, 10**9)))):
        _, (refused,) = decide(store, [request([b"y"] * 4, stream="s0")], quota, settled)
        assert isinstance(refused, Refusal)
    (taken,) = keep(store, request([b"y"] * 3, stream="s0"), quota=Quota(full), settled=settled)
    assert isinstance(taken, Stored)
    assert store.backlog().messages == 10
    store.close()


def test_a_producer_idle_for_long_makes_room_at_once_and_one_that_may_still_repeat_never(home: Home) -> None:
    home.write_config("[ingest]\nmax_producers = 10\n")
    clock = ObedientClock()
    clock.boot = 10_000.0
    keeper = StoreManager(home.config, clock)
    for number in range(10):
        assert code_of(keeper, f"p{number}") is None
    clock.boot += 300.0
    assert code_of(keeper, "p0", 2) is None  # all others are silent from here on
    clock.boot += 301.0
    assert code_of(keeper, "new") is None, "said too_many_producers, and nine were idle"
    assert code_of(keeper, "p0", 2) is None
    keeper.close()
    clock.boot += 3_600.0  # ingest was away: whoever waited for an answer could not ask again
    keeper = StoreManager(home.config, clock)
    codes = [code_of(keeper, f"q{number}") for number in range(3)]
    assert codes[-1] is Code.TOO_MANY_PRODUCERS
    keeper.close()


def code_of(keeper: StoreManager, producer: str, first: int = 1) -> str | None:
    """How the keeper answers one message of that producer."""
    wanted = request([b"x"], producer=producer, first=first)
    assert wanted.producer is not None
    admission = keeper.admission({wanted.producer}, Settled())
    reply = admission.decide(wanted)
    keeper.commit(admission, Settled())
    return reply.code if isinstance(reply, Refusal) else None


def test_after_a_long_outage_the_room_goes_back_to_the_disk_in_small_steps_and_soon(home: Home) -> None:
    """It went back a page a second: a file of 10 GB would have stayed one for a month."""
    clock = ObedientClock()
    store = MessageStore(home.layout.messages_db, clock)
    for _ in range(40):
        keep(store, request([b"x" * 1_000] * 500))
    store.commit(None, Settled(delivered=list(range(1, 20_001))))
    store.close()
    before = home.layout.messages_db.stat().st_size
    ingest = IngestLoop(home.config, Stop(), clock)
    try:
        for turns in range(1, 1_000):
            free = _free_pages(ingest)
            if free <= KEEP_FREE_PAGES and turns > 1:
                break
            ingest.turn()
            assert free - _free_pages(ingest) <= 2 * VACUUM_PAGES, "a message may come at any time"
            patience_s = ingest._manager.patience_s(IDLE_S)
            assert patience_s == (VACUUM_PAUSE_S if _free_pages(ingest) > KEEP_FREE_PAGES else IDLE_S)
        assert turns <= before // 4096 // VACUUM_PAGES + 2
        assert home.layout.messages_db.stat().st_size < before / 3, "without a message that comes"
    finally:
        ingest.close()


def _free_pages(ingest: IngestLoop) -> int:
    store = ingest._manager._store
    return int(store._db.execute("PRAGMA freelist_count").fetchone()[0]) if store else 0


def test_a_ballast_that_found_no_room_is_none(home: Home) -> None:
    """An empty file passed for it from then on, and a disk that is full had nothing to give up."""
    disk = Disk(home.layout.state, DiskReserve())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BALLAST_BYTES // 2, before[1]))  # as a quota would
    try:
        disk.keep_ballast()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    disk.keep_ballast()
    assert (home.layout.state / "ballast").stat().st_size == BALLAST_BYTES


def test_a_count_that_no_decision_waits_for_holds_up_no_request(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 5 million messages each acknowledgement took 0.1 s, for ten seconds and more after each start."""
    home.write_config('[store]\nmax_messages = 6000\npolicy = "drop-oldest"')
    store = MessageStore(home.layout.messages_db, ObedientClock())
    for _ in range(2):
        keep(store, request([b"x" * 10] * 3_000, stream="s"))
    store.close()
    monkeypatch.setattr(store_writer, "AT_OPENING_S", 0.0)
    slices: list[float] = []
    one_slice = MessageStore.count

    def count(store: MessageStore, slice_s: float = SLICE_S) -> bool:
        slices.append(slice_s)
        return one_slice(store, 0.0)

    monkeypatch.setattr(MessageStore, "count", count)
    clock = ObedientClock()
    with contextlib.closing(StoreManager(home.config, clock)) as keeper:
        keeper.admission((), Settled())
        keeper.tick()
        assert len(slices) == 2 and keeper.patience_s(1.0) > 0.0, "requests come first"
        clock.boot += UNASKED_PAUSE_S
        keeper.tick()
        assert len(slices) == 3 and keeper.patience_s(1.0) > 0.0
        keeper.idle()
        for _ in range(3):
            assert keeper.patience_s(1.0) == 0.0, "where none comes it goes on"
            keeper.tick()
        assert not keeper.count(), "a decision asks for it"
        while keeper.patience_s(1.0) == 0.0:
            keeper.tick()
    assert slices[1:6] == [UNASKED_SLICE_S] * 5, "after that of the opening"
    assert slices[6:] == [SLICE_S] * len(slices[6:]) != []
