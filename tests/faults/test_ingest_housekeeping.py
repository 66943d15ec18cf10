"""Housekeeping that only happens when nobody is there never happens where somebody always is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zmq

from runtime.adapters.process import Stop
from runtime.adapters.store import MessageStore
from runtime.adapters.store_errors import StoreDamaged, StoreUnavailable
from runtime.core.quota import Amount, Limit, Policy, Quota
from runtime.core.settlement import Settled
from runtime.workers.ingest import Ingest
from tests.harness import Home
from tests.store_tools import ObedientClock, decide, keep
from tests.store_tools import put as request


def ask(ingest: Ingest, socket: zmq.Socket[bytes], header: dict[str, object]) -> dict[str, object]:
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
    ingest = Ingest(home.config, Stop(), clock)
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())
    try:
        ingest._keeper.failed(StoreDamaged("for the test"))
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
    ingest = Ingest(home.config, Stop(), clock)
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


def test_no_more_is_evicted_than_is_needed_beside_the_delivered(tmp_path: Path) -> None:
    """What was delivered makes room in the same commit: nothing has to be dropped for it."""
    quota = Quota(Limit(Amount(10, 10**9), Policy.DROP_OLDEST))
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    keep(store, request([b"x"] * 10), quota=quota)
    admission, _ = decide(store, [request([b"y"] * 5)], quota)
    losses = store.commit(admission, Settled(delivered=[1, 2, 3, 4, 5]))
    assert losses == []
