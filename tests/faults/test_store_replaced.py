"""What is known about one store must never touch the messages of another that took its place."""

from __future__ import annotations

import sqlite3

import pytest

from runtime.adapters.bus import DeliveryReporter, Settled
from runtime.adapters.store_errors import StoreUnavailable
from runtime.adapters.store_reader import StoreReader
from runtime.adapters.storekeeper import Storekeeper
from tests import store_tools
from tests.harness import Cloud, Home, eventually
from tests.lines import backlog, put, uploading
from tests.store_tools import ObedientClock


def test_messages_of_a_store_begun_anew_are_delivered(home: Home, cloud: Cloud) -> None:
    """The ids begin again at 1: upload must not think that it has seen them."""
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"one", b"two")
    eventually(lambda: backlog(home) == 0)
    cloud.faults(withhold_acks=True)
    put(home, {"stream": "s"}, b"three")
    home.workers["ingest"].kill()
    for file in home.layout.messages_db.parent.glob("messages.db*"):
        file.unlink()
    home.start_worker("ingest")
    new = [b"new-1", b"new-2", b"new-3"]
    put(home, {"stream": "s"}, *new)
    cloud.no_faults()
    eventually(lambda: not home.workers["upload"].running(), 20, "upload leaves")
    home.start_worker("upload")  # as supervisord does
    eventually(lambda: {m.payload for m in cloud.messages()} >= set(new), 20, "all new ones arrive")


def test_a_report_about_another_store_removes_nothing(home: Home) -> None:
    home.start_worker("ingest")
    eventually(lambda: backlog(home) == 0, 20, "ingest starts")
    put(home, {"stream": "s"}, b"mine")
    reader, reporter = StoreReader(home.layout.messages_db), DeliveryReporter(home.layout)
    try:
        reader.open()
        reporter.report(Settled(delivered=[1]), "another")
        eventually(lambda: reporter.confirmed() == {1}, 10, "nobody repeats it for ever")
        assert backlog(home) == 1
        reporter.report(Settled(delivered=[1]), reader.uuid)
        eventually(lambda: reporter.confirmed() == {1}, 10)
        assert backlog(home) == 0
    finally:
        reader.close()
        reporter.close()


@pytest.mark.parametrize("taken", ["messages.db*", "messages.db-wal"])
def test_nothing_is_acknowledged_into_a_file_that_somebody_removed(home: Home, taken: str) -> None:
    """SQLite writes on to what has no name any more: hours of acknowledged messages went with the process."""
    clock = ObedientClock()
    keeper = Storekeeper(home.config, clock)

    def keep(payload: bytes) -> None:
        admission = keeper.admission((), Settled())
        admission.decide(store_tools.put([payload]))
        keeper.commit(admission, Settled())

    keep(b"before")
    for file in home.layout.state.glob(taken):
        file.unlink()
    with pytest.raises(StoreUnavailable, match="removed or replaced") as caught:
        keep(b"after")
    keeper.failed(caught.value)
    clock.boot += 1.0
    keeper.keep_house()
    keep(b"again")
    with sqlite3.connect(home.layout.messages_db) as db:
        there = {payload for (payload,) in db.execute("SELECT payload FROM messages")}
    assert there >= {b"again"}
    assert b"before" in there or taken == "messages.db*", "SQLite still had the WAL, and wrote it down"
    keeper.close()


def test_an_ingest_without_guests_notices_that_its_store_was_removed(home: Home) -> None:
    """Upload would wait for a store for as long as nobody came."""
    clock = ObedientClock()
    keeper = Storekeeper(home.config, clock)
    for file in home.layout.state.glob("messages.db*"):
        file.unlink()
    for _ in range(4):
        clock.boot += 1.0
        keeper.keep_house()
    assert home.layout.messages_db.exists()
    assert keeper.figures()["store"] == "open"
    keeper.close()
