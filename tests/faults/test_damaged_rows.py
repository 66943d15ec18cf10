"""A report that comes twice, and rows that are damaged: nobody stops, nothing is stored twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runtime.adapters.store.writer import MessageStore
from runtime.core.settlement import Settled
from tests.support.harness import Cloud, Home, eventually
from tests.support.store_tools import ObedientClock, keep, put
from tests.support.upload import backlog, uploading
from tests.support.upload import put as put_line


def test_a_requeue_that_is_reported_twice_is_stored_once(tmp_path: Path) -> None:
    """The reporter repeats itself after two seconds; ingest then finds both copies waiting."""
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    keep(store, put([b"x"]))
    store.commit(None, Settled(quarantined=[(1, "why")]))
    store.commit(None, Settled.of([Settled(requeued=[1]), Settled(requeued=[1])]))
    assert store.backlog().messages == 1


DAMAGE = {
    "text that is not UTF-8": "content_type = CAST(x'ff' AS TEXT)",
    "bytes is no number": "bytes = 'x'",
    "stream unknown": "stream = 4242",
    "priority below zero": "priority = -124",
    "property that is no text": """properties = '{"a": 1}'""",
    "time of storing is no number": "ttl_s = 60.0, stored_boot_s = 'x'",
    "key is no text": "key = 7",
    "an id that was never given": "id = 1 << 40",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_stops_neither_ingest_nor_upload(home: Home, cloud: Cloud, damage: str) -> None:
    cloud.hub(up=False)
    uploading(home, cloud)
    put_line(home, {"stream": "s"}, b"before", b"damaged", b"after")
    for worker in ("upload", "ingest"):
        home.workers[worker].kill()
    with sqlite3.connect(home.layout.messages_db) as db:
        db.execute(f"UPDATE messages SET {DAMAGE[damage]} WHERE id = 2")
    cloud.hub(up=True)
    ingest, upload = home.start_worker("ingest"), home.start_worker("upload")
    eventually(lambda: cloud.message_count() >= 2 or not (ingest.running() and upload.running()), 20)
    eventually(lambda: (ingest.popen.poll(), upload.popen.poll()) != (None, None) or _gone(home), 10)
    assert (ingest.popen.poll(), upload.popen.poll()) == (None, None), "a worker crashed"
    put_line(home, {"stream": "s"}, b"later")
    eventually(lambda: any(m.payload == b"later" for m in cloud.messages()), 10)
    home.workers["ingest"].kill()
    ingest = home.start_worker("ingest")
    put_line(home, {"stream": "s"}, b"last")
    assert ingest.running()
    eventually(lambda: backlog(home) == 0, 10, "the counters are right again")


def _gone(home: Home) -> bool:
    with sqlite3.connect(f"file:{home.layout.messages_db}?mode=ro", uri=True) as db:
        return db.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
