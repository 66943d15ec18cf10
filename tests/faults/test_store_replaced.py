"""What is known about one store must never touch the messages of another that took its place."""

from __future__ import annotations

from runtime.adapters.bus import DeliveryReporter, Settled
from runtime.adapters.store_reader import StoreReader
from tests.harness import Cloud, Home, eventually
from tests.lines import backlog, put, uploading


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
